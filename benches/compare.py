"""Alternates between the engine and its peer, workload by workload, and prints ratios of medians.

    compare.py --engine PROGRAM --base DIR --adapter DIR [--rounds N] [--workload NAME]... [--summary]

Both programs stay loaded and answer one request at a time, so a slow minute of the machine meets both.
The peer first runs every workload in all its configurations (precision, threads); the fastest of each
and those within SLACK of it take part in the rounds, and the ratio is to the one with the smallest median.
Exit code: 1 where a goal is missed, 3 where the two programs do not compute the same.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

SLACK = 1.25
# Of the f32 figures that are compared; the first greedy tokens must be equal then.
TOLERANCE = 5e-4


@dataclass
class Row:
    """The engine's time against the peer's, and the least ratio wanted."""

    name: str
    engine: str
    peer: str
    goal: float | None
    dtypes: tuple[str, ...] = ("bf16", "f32")


ROWS = [
    Row("load", "load", "load", None),
    Row("score", "score", "score", 2.0),
    Row("score_f32", "score", "score", 2.5, ("f32",)),
    Row("candidates_64 / unshared", "candidates_64", "candidates_64_unshared", 6.0),
    Row("candidates_64 / shared", "candidates_64", "candidates_64", 1.6),
    Row("candidates_512 / shared", "candidates_512", "candidates_512", None),
    Row("gradient", "gradient", "gradient", 2.5),
    Row("decode_1", "decode_1", "decode_1", 5.0),
    Row("decode_16", "decode_16", "decode_16", 4.0),
]
# Of the measured peak of the packed product, least share wanted.
SHARES = {"score": 0.75, "gradient": 0.60}
MOST_OVERHEAD = 1.05
MOST_SWEEP_SECONDS = 240.0


class Program:
    """A program in --serve mode."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: str) -> dict:
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"`{' '.join(self.process.args)}` ended at request `{request}`")
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def difference(name: str, ours: dict, theirs: dict) -> str | None:
    """Why two lines in f32 are not of the same work, if they are not."""
    if ours["workload"] == theirs["workload"] and ours["tokens"] != theirs["tokens"]:
        return f"{name}: {ours['tokens']} tokens, the peer {theirs['tokens']}"
    a, b = ours["check"], theirs["check"]
    if len(a) != len(b) or any(abs(x - y) > TOLERANCE * abs(y) for x, y in zip(a, b)):
        return f"{name}: {a}, the peer {b}"
    return None


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.3g}{unit} [{min(values):.3g}, {max(values):.3g}]"


class Comparison:
    def __init__(self, arguments):
        self.arguments = arguments
        self.engines: dict[str, Program] = {}
        self.peer = Program(
            [sys.executable, str(Path(__file__).with_name("peer.py")), "--serve"]
            + ["--base", arguments.base, "--adapter", arguments.adapter]
        )
        self.times: dict[tuple, list[dict]] = {}
        self.shares: dict[str, list[float]] = {}
        self.differences: list[str] = []
        # One request that is not counted; it also tells the tier.
        tier = self.ask_engine("gemm", "bf16")["tier"]
        self.fast = ("bf16", "f32") if tier == "avx512_bf16" else ("f32",)
        self.tier = tier

    def ask_engine(self, workload: str, dtype: str) -> dict:
        if dtype not in self.engines:
            a = self.arguments
            command = [a.engine, "--base", a.base, "--adapter", a.adapter, "--dtype", dtype, "--serve"]
            self.engines[dtype] = Program(command + ["--threads", str(a.threads)])
        return self.engines[dtype].ask(workload)

    def ask_peer(self, workload: str, configuration: tuple) -> dict:
        dtype, threads = configuration
        return self.peer.ask(f"{workload} {dtype} {threads}")

    def wanted(self, *names: str) -> bool:
        chosen = self.arguments.workload
        return not chosen or any(name in chosen for name in names)

    def rows(self) -> list[Row]:
        return [row for row in ROWS if self.wanted(row.name, row.engine)]

    def dtypes(self, row: Row) -> tuple[str, ...]:
        return tuple(dtype for dtype in row.dtypes if dtype in self.fast) or ("f32",)

    def candidates(self, row: Row) -> list[tuple]:
        """Configurations of the peer worth timing, after one run of each that only warms up."""
        threads = sorted({1, self.arguments.threads})
        every = [(dtype, n) for dtype in self.dtypes(row) for n in threads]
        for dtype in self.dtypes(row):
            # What a first run prepares depends on the precision, not on the number of threads.
            self.ask_peer(row.peer, (dtype, threads[-1]))
        seconds = {c: self.ask_peer(row.peer, c)["median"] for c in every}
        best = min(seconds.values())
        return [c for c in every if seconds[c] <= SLACK * best]

    def verify(self) -> None:
        """Whether both programs compute the same, in f32: in bf16 near ties fall either way."""
        for row in self.rows():
            ours = self.ask_engine(row.engine, "f32")
            theirs = self.ask_peer(row.peer, ("f32", self.arguments.threads))
            found = difference(row.name, ours, theirs)
            if found and found not in self.differences:
                self.differences.append(found)

    def run(self) -> None:
        self.verify()
        rows = self.rows()
        configurations = {}
        for row in rows:
            self.ask_engine(row.engine, self.dtypes(row)[0])
            configurations[row.name] = self.candidates(row)
            self.note(f"{row.name}: peer at {configurations[row.name]}")
        for turn in range(self.arguments.rounds):
            self.note(f"round {turn + 1}")
            for row in rows:
                self.one_round(row, configurations[row.name], engine_first=turn % 2 == 0)
            for alone in ("lora_overhead", "sweep"):
                if self.wanted(alone):
                    self.keep(alone, self.ask_engine(alone, self.fast[0]))

    def one_round(self, row: Row, configurations: list[tuple], engine_first: bool) -> None:
        dtype = self.dtypes(row)[0]
        if engine_first:
            ours = self.timed_engine(row, dtype)
        for configuration in configurations:
            self.keep((row.name, configuration), self.ask_peer(row.peer, configuration))
        if not engine_first:
            ours = self.timed_engine(row, dtype)
        self.keep(row.name, ours)

    def timed_engine(self, row: Row, dtype: str) -> dict:
        if row.name not in SHARES:
            return self.ask_engine(row.engine, dtype)
        # The peak right before and after, since it moves with the load.
        before = self.ask_engine("gemm", dtype)["gflops"]
        ours = self.ask_engine(row.engine, dtype)
        peak = max(before, self.ask_engine("gemm", dtype)["gflops"])
        self.shares.setdefault(row.name, []).append(ours["gflops"] / peak)
        return ours

    def keep(self, key, found: dict) -> None:
        self.times.setdefault(key, []).append(found)

    def note(self, text: str) -> None:
        print(f"{text} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)

    def seconds(self, key) -> list[float]:
        return [found["median"] for found in self.times[key]]

    def results(self):
        """`(name, figure, goal in words or None, whether it is met, detail)` of each row."""
        for row in self.rows():
            ours = self.seconds(row.name)
            keys = [key for key in self.times if isinstance(key, tuple) and key[0] == row.name]
            best = min(keys, key=lambda key: statistics.median(self.seconds(key)))
            theirs = self.seconds(best)
            ratio = statistics.median(theirs) / statistics.median(ours)
            each = [b / a for a, b in zip(ours, theirs)]
            figure = f"{ratio:.2f} x [{min(each):.2f}, {max(each):.2f}]"
            detail = f"engine {self.dtypes(row)[0]} {spread(ours, ' s')}, "
            detail += f"peer {best[1][0]} {best[1][1]} threads {spread(theirs, ' s')}"
            goal = f">= {row.goal} x" if row.goal else None
            yield row.name, figure, goal, row.goal is None or ratio >= row.goal, detail
        for name, shares in self.shares.items():
            share = statistics.median(shares)
            figure = f"{share:.0%} [{min(shares):.0%}, {max(shares):.0%}]"
            rates = [found["gflops"] for found in self.times[name]]
            detail = f"frozen products only, {spread(rates, ' GFLOP/s')}"
            yield f"peak share, {name}", figure, f">= {SHARES[name]:.0%}", share >= SHARES[name], detail
        if "lora_overhead" in self.times:
            ratios = [found["ratio"] for found in self.times["lora_overhead"]]
            met = statistics.median(ratios) <= MOST_OVERHEAD
            figure = f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
            yield "lora_overhead", figure, f"<= {MOST_OVERHEAD}", met, "half of the rows adapted, r 8"
        if "sweep" in self.times:
            seconds = [found["extrapolated_seconds"] for found in self.times["sweep"]]
            met = statistics.median(seconds) <= MOST_SWEEP_SECONDS
            detail = f"extrapolated from a slice that took {spread(self.seconds('sweep'), ' s')}"
            yield "sweep", spread(seconds, " s"), f"<= {MOST_SWEEP_SECONDS:.0f} s", met, detail

    def close(self) -> None:
        for program in [self.peer, *self.engines.values()]:
            program.close()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares the engine with torch + transformers + peft.")
    parser.add_argument("--engine", required=True, help="the built bench program")
    parser.add_argument("--base", required=True, help="model directory")
    parser.add_argument("--adapter", required=True, help="adapter directory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workload", action="append", help="a row or workload; may be repeated; all if absent")
    parser.add_argument("--summary", action="store_true", help="one line a row")
    arguments = parser.parse_args()
    known = {name for row in ROWS for name in (row.name, row.engine)} | {"lora_overhead", "sweep"}
    unknown = set(arguments.workload or []) - known
    if unknown:
        parser.error(f"expected workloads of {', '.join(sorted(known))}, found {', '.join(sorted(unknown))}")
    comparison = Comparison(arguments)
    comparison.run()
    comparison.close()

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{processor()}, {arguments.threads} threads, tier {comparison.tier}, {packages}")
    print(f"{arguments.rounds} interleaved rounds, load average now {os.getloadavg()[0]:.1f}")
    missed = False
    for name, figure, goal, met, detail in comparison.results():
        verdict = "no goal" if goal is None else f"goal {goal}: {'met' if met else 'MISSED'}"
        print(f"{name:26} {figure:28} {verdict}")
        if not arguments.summary:
            print(f"{'':26} {detail}")
        missed |= not met
    for found in comparison.differences:
        print(f"not the same work: {found}")
    sys.exit(3 if comparison.differences else int(missed))


if __name__ == "__main__":
    main()
