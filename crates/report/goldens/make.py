"""Writes scipy.json: what scipy computes for the statistics of the crate `report`.

Usage: python make.py            (made with Python 3.11+, numpy 2.4.6, scipy 1.17.1)

All inputs come from one seeded generator, so the file only changes with this script or with the versions above.
Rows of log-probabilities are rounded to float32, as the crate takes them; null stands for minus infinity.
"""

import json
import math
import pathlib

import numpy as np
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

RANDOM = np.random.default_rng(20240229)


def row(values):
    """A float32 row as JSON: each float32 is written exactly."""
    return [None if np.isneginf(x) else float(x) for x in np.asarray(values, dtype=np.float32)]


def log_probabilities(n, spread):
    logits = RANDOM.normal(scale=spread, size=n)
    return special.log_softmax(logits).astype(np.float32)


def divergence(p32, q32):
    p, q = np.exp(p32.astype(np.float64)), np.exp(q32.astype(np.float64))
    mean = 0.5 * (p + q)
    return {
        "p": row(p32),
        "q": row(q32),
        "kl": float(special.kl_div(p, q).sum()),
        "reverse_kl": float(special.kl_div(q, p).sum()),
        "jensen_shannon_terms": float(0.5 * (special.rel_entr(p, mean) + special.rel_entr(q, mean)).sum()),
        "jensenshannon_squared": float(jensenshannon(p, q) ** 2),
        "scipy_stats_entropy": float(stats.entropy(p, q)),
        "total_variation": float(0.5 * np.abs(p - q).sum()),
        "entropy": float(special.entr(p).sum()),
        "other_entropy": float(special.entr(q).sum()),
        "top1_flip": bool(p32.argmax() != q32.argmax()),
    }


def divergences():
    cases = [divergence(log_probabilities(n, s), log_probabilities(n, t)) for n, s, t in
             [(1, 1, 1), (2, 1, 1), (5, 3, 3), (40, 1, 6), (40, 0.01, 0.01), (200, 4, 4)]]
    near = log_probabilities(60, 3)
    cases.append(divergence(near, special.log_softmax(near + RANDOM.normal(scale=1e-3, size=60)).astype(np.float32)))
    # A token that neither distribution allows, as under a vocabulary mask.
    masked = np.append(log_probabilities(20, 2), np.float32(-np.inf))
    cases.append(divergence(masked, np.append(log_probabilities(20, 2), np.float32(-np.inf))))
    return cases


def log_softmax():
    rows = [RANDOM.normal(scale=s, size=n).astype(np.float32) for n, s in [(1, 1), (3, 1), (50, 10), (100, 0.1)]]
    rows.append((RANDOM.normal(scale=3, size=30) + 500).astype(np.float32))
    return [{"logits": row(x), "log_probabilities": row(special.log_softmax(x.astype(np.float64)))} for x in rows]


def bootstraps():
    cases = []
    for values, confidence in [
        (RANDOM.normal(size=25), 0.95),
        (RANDOM.exponential(size=40), 0.90),
        (RANDOM.binomial(1, 0.3, size=30).astype(float), 0.95),
    ]:
        found = stats.bootstrap((values,), np.mean, n_resamples=20_000, confidence_level=confidence,
                                method="percentile", rng=np.random.default_rng(1))
        cases.append({
            "values": values.tolist(),
            "confidence": confidence,
            "mean": float(values.mean()),
            "lower": float(found.confidence_interval.low),
            "upper": float(found.confidence_interval.high),
            "standard_error": float(found.standard_error),
        })
    return cases


def quantiles():
    cases = []
    for n in (1, 2, 7, 40):
        values = np.sort(RANDOM.normal(size=n))
        cases += [{"sorted": values.tolist(), "probability": p, "value": float(np.quantile(values, p))}
                  for p in (0.0, 0.025, 0.5, 0.9, 1.0)]
    return cases


def proportions():
    cases = []
    for successes, trials, confidence in [
        (0, 1, 0.95), (1, 1, 0.95), (0, 5, 0.95), (0, 13, 0.9), (1, 10, 0.95), (5, 10, 0.5), (9, 10, 0.99),
        (29, 30, 0.95), (36, 41, 0.95), (20, 20, 0.95), (0, 60, 0.9), (0, 299, 0.9), (3, 200, 0.95), (100, 200, 0.999),
        (517, 1000, 0.95), (1, 1000, 0.95), (999, 1000, 0.95), (1234, 10_000, 0.95), (5000, 10_000, 0.95),
        (2, 10_000, 0.9999), (7, 12, 0.8), (50_000, 100_000, 0.95),
    ]:
        test = stats.binomtest(successes, trials)
        exact = test.proportion_ci(confidence, "exact")
        wilson = test.proportion_ci(confidence, "wilson")
        cases.append({
            "successes": successes, "trials": trials, "confidence": confidence,
            "exact": [float(exact.low), float(exact.high)],
            "wilson": [float(wilson.low), float(wilson.high)],
        })
    return cases


def permutation(first, second, permutation_type, exact):
    def statistic(x, y, axis):
        return np.mean(y, axis=axis) - np.mean(x, axis=axis)

    case = {"first": first.tolist(), "second": second.tolist(), "exact": exact}
    for alternative in ("greater", "less", "two-sided"):
        found = stats.permutation_test((first, second), statistic, permutation_type=permutation_type, vectorized=True,
                                       n_resamples=np.inf if exact else 99_999, alternative=alternative,
                                       rng=np.random.default_rng(2))
        case["difference"] = float(found.statistic)
        case[alternative.replace("-", "_")] = float(found.pvalue)
    return case


def paired_permutations():
    cases = []
    for n, shift in [(2, 1.0), (5, 0.3), (12, 0.5), (16, 0.2)]:
        first = RANDOM.normal(size=n)
        cases.append(permutation(first, first + RANDOM.normal(loc=shift, size=n), "samples", True))
    # Ties and zero differences.
    first = RANDOM.integers(0, 3, size=9).astype(float)
    cases.append(permutation(first, RANDOM.integers(0, 4, size=9).astype(float), "samples", True))
    first = RANDOM.normal(size=40)
    cases.append(permutation(first, first + RANDOM.normal(loc=0.3, size=40), "samples", False))
    return cases


def two_sample_permutations():
    cases = []
    for n, m, shift in [(2, 3, 0.5), (4, 5, 1.0), (8, 8, 0.7), (2, 20, 1.0)]:
        cases.append(permutation(RANDOM.normal(size=n), RANDOM.normal(loc=shift, size=m), "independent", True))
    cases.append(permutation(RANDOM.integers(0, 3, size=6).astype(float), RANDOM.integers(0, 4, size=7).astype(float),
                             "independent", True))
    cases.append(permutation(RANDOM.normal(size=30), RANDOM.normal(loc=0.4, size=25), "independent", False))
    return cases


def mcnemars():
    cases = []
    for only_first, only_second in [(0, 1), (1, 0), (3, 3), (0, 8), (2, 9), (10, 3), (40, 61), (0, 100), (480, 520)]:
        case = {"only_first": only_first, "only_second": only_second}
        for alternative in ("greater", "less", "two-sided"):
            test = stats.binomtest(only_second, only_first + only_second, 0.5, alternative=alternative)
            case[alternative.replace("-", "_")] = float(test.pvalue)
        cases.append(case)
    return cases


def holm(p_values):
    """Holm's definition, term by term: scipy has no such function."""
    n = len(p_values)
    rank = {index: r for r, index in enumerate(sorted(range(n), key=lambda i: p_values[i]))}
    scaled = {index: min(1.0, (n - r) * p_values[index]) for index, r in rank.items()}
    return [max(scaled[j] for j in range(n) if rank[j] <= rank[i]) for i in range(n)]


def multiplicities():
    cases = []
    for p_values in [[0.5], [0.01, 0.02, 0.03, 0.04], [0.0, 1.0, 0.2, 0.2, 0.001], RANDOM.uniform(size=30).tolist(),
                     (RANDOM.uniform(size=50) ** 4).tolist()]:
        cases.append({
            "p_values": p_values,
            "bh": stats.false_discovery_control(p_values, method="bh").tolist(),
            "by": stats.false_discovery_control(p_values, method="by").tolist(),
            "holm": holm(p_values),
        })
    return cases


def median_absolute_deviations():
    cases = []
    for values in [RANDOM.normal(size=5), RANDOM.normal(size=12), RANDOM.exponential(size=31)]:
        cases.append({
            "values": values.tolist(),
            "median": float(np.median(values)),
            "mad": float(stats.median_abs_deviation(values)),
            "normal_mad": float(stats.median_abs_deviation(values, scale="normal")),
        })
    return cases


def main():
    goldens = {
        "divergence": divergences(),
        "log_softmax": log_softmax(),
        "bootstrap": bootstraps(),
        "quantile": quantiles(),
        "proportion": proportions(),
        "paired_permutation": paired_permutations(),
        "two_sample_permutation": two_sample_permutations(),
        "mcnemar": mcnemars(),
        "multiplicity": multiplicities(),
        "median_absolute_deviation": median_absolute_deviations(),
    }
    for section in goldens.values():
        assert all(not isinstance(x, float) or math.isfinite(x) for case in section for x in case.values())
    text = "{\n" + ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case) for case in section) + "\n]"
        for name, section in goldens.items()
    ) + "\n}\n"
    pathlib.Path(__file__).with_name("scipy.json").write_text(text)


if __name__ == "__main__":
    main()
