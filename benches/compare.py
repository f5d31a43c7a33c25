"""Alternates between the engine and its peers, workload by workload, and prints ratios of medians.

    compare.py --engine PROGRAM --scanner PROGRAM --models DIR [--nanogcg PYTHON] [--llama PYTHON]
               [--rounds N] [--workload NAME]... [--summary]

The programs stay loaded and answer one request at a time, so a slow minute of the machine meets all.
A peer first runs every workload in all its configurations (precision, threads); the fastest of each
and those within SLACK of it take part in the rounds, and the ratio is to the one with the smallest median.
Exit code: 1 where a goal is missed, 3 where two programs do not compute the same. A row whose peer could
not be installed is left out, and a line says so.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# Seconds of a run past which preparation does not count, and one thread is not tried.
LONG_RUN = 20.0
SLACK = 1.25
# Of the f32 figures that are compared; the first greedy tokens must be equal then.
TOLERANCE = 5e-4
# Of figures of two programs in bf16, which round at different places.
NARROW_TOLERANCE = 5e-3


@dataclass
class Row:
    """The engine's time against the peer's, and the least ratio wanted."""

    name: str
    engine: str
    peer: str
    goal: float | None
    dtypes: tuple[str, ...] = ("bf16", "f32")
    program: str = "torch"


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
    # One run takes most of a minute, in f32 several.
    Row("gcg_step / nanogcg", "gcg_step", "gcg_step", 4.0, ("bf16",), "nanogcg"),
    Row("prefill_512 / llama.cpp", "prefill_512", "prefill_512", 1.5, ("bf16",), "llama.cpp"),
    Row("prefill_16x64 / llama.cpp", "prefill_16x64", "prefill_16x64", 1.5, ("bf16",), "llama.cpp"),
    Row("decode_1 / llama.cpp", "decode_1_base", "decode_1_base", 1.3, ("bf16",), "llama.cpp"),
    Row("decode_16 / llama.cpp", "decode_16_base", "decode_16_base", 1.3, ("bf16",), "llama.cpp"),
]
# Of the measured peak of the packed product, least share wanted.
SHARES = {"score": 0.75, "gradient": 0.60}
MOST_OVERHEAD = 1.05
MOST_SWEEP_SECONDS = 240.0
MOST_SCAN_BYTES = 1.0e9


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


def difference(name: str, ours: dict, theirs: dict, tolerance: float) -> str | None:
    """Why two lines are not of the same work, if they are not."""
    if ours["workload"] == theirs["workload"] and ours["tokens"] != theirs["tokens"]:
        return f"{name}: {ours['tokens']} tokens, the peer {theirs['tokens']}"
    a, b = ours["check"], theirs["check"]
    if len(a) != len(b) or any(abs(x - y) > tolerance * abs(y) for x, y in zip(a, b)):
        return f"{name}: {a}, the peer {b}"
    return None


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.3g}{unit} [{min(values):.3g}, {max(values):.3g}]"


class Comparison:
    def __init__(self, arguments):
        self.arguments = arguments
        self.engines: dict[str, Program] = {}
        self.peers: dict[str, Program] = {}
        self.times: dict[tuple, list[dict]] = {}
        self.shares: dict[str, list[float]] = {}
        self.differences: list[str] = []
        # One request that is not counted; it also tells the tier.
        tier = self.ask_engine("gemm", "bf16")["tier"]
        self.fast = ("bf16", "f32") if tier == "avx512_bf16" else ("f32",)
        self.tier = tier
        self.scan_bytes: int | None = None

    def ask_engine(self, workload: str, dtype: str) -> dict:
        if dtype not in self.engines:
            a = self.arguments
            models = ["--base", f"{a.models}/base", "--adapter", f"{a.models}/adapter"]
            command = [a.engine, *models, "--dtype", dtype, "--serve", "--threads", str(a.threads)]
            self.engines[dtype] = Program(command)
        return self.engines[dtype].ask(workload)

    def command_of(self, program: str) -> list[str] | None:
        """What starts a peer; `None` if it is not installed."""
        a, here = self.arguments, Path(__file__).parent
        match program:
            case "nanogcg":
                command = [str(here / "peer_nanogcg.py"), "--model", f"{a.models}/merged"]
                return a.nanogcg and [a.nanogcg, *command]
            case "llama.cpp":
                command = [str(here / "peer_llama.py"), "--model", f"{a.models}/base-bf16.gguf"]
                return a.llama and [a.llama, *command]
        models = ["--base", f"{a.models}/base", "--adapter", f"{a.models}/adapter"]
        return [sys.executable, str(here / "peer.py"), "--serve", *models]

    def ask_peer(self, row: Row, configuration: tuple) -> dict:
        dtype, threads = configuration
        if row.program not in self.peers:
            self.peers[row.program] = Program(self.command_of(row.program))
        return self.peers[row.program].ask(f"{row.peer} {dtype} {threads}")

    def wanted(self, *names: str) -> bool:
        chosen = self.arguments.workload
        return not chosen or any(name in chosen for name in names)

    def rows(self) -> list[Row]:
        found = [row for row in ROWS if self.wanted(row.name, row.engine)]
        return [row for row in found if self.runs(row)]

    def left_out(self) -> list[str]:
        rows = [row for row in ROWS if self.wanted(row.name, row.engine) and not self.runs(row)]
        needed = "AVX512-BF16" if "bf16" not in self.fast else "its package"
        return [f"{row.name}: left out, {row.program} needs {needed} here" for row in rows]

    def runs(self, row: Row) -> bool:
        """Whether the row's peer is installed, and whether the engine has the precision of its only file."""
        return self.command_of(row.program) is not None and not (
            row.program == "llama.cpp" and "bf16" not in self.fast
        )

    def dtypes(self, row: Row) -> tuple[str, ...]:
        return tuple(dtype for dtype in row.dtypes if dtype in self.fast) or ("f32",)

    def candidates(self, row: Row) -> list[tuple]:
        """Configurations of the peer worth timing, after one run of each that only warms up."""
        threads = sorted({1, self.arguments.threads})
        seconds = {}
        for dtype in self.dtypes(row):
            # What a first run prepares depends on the precision, not on the number of threads.
            first = self.ask_peer(row, (dtype, threads[-1]))["median"]
            if first > LONG_RUN:
                seconds[dtype, threads[-1]] = first
                continue
            seconds |= {(dtype, n): self.ask_peer(row, (dtype, n))["median"] for n in threads}
        best = min(seconds.values())
        return [c for c in seconds if seconds[c] <= SLACK * best]

    def verify(self) -> None:
        """Whether the programs compute the same, in f32 if they can: in bf16 near ties fall either way."""
        for row in self.rows():
            dtype = "f32" if "f32" in row.dtypes else "bf16"
            tolerance = TOLERANCE if dtype == "f32" else NARROW_TOLERANCE
            ours = self.ask_engine(row.engine, dtype)
            theirs = self.ask_peer(row, (dtype, self.arguments.threads))
            found = difference(row.name, ours, theirs, tolerance)
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
        if self.wanted("peak memory"):
            self.note("peak memory: a whole scan")
            self.scan_bytes = self.peak_of_a_scan()

    def peak_of_a_scan(self) -> int:
        """Most resident bytes of one scan with the shipped suites, as the system counts them."""
        a = self.arguments
        command = [a.scanner, "scan", "--base", f"{a.models}/base", "--adapter", f"{a.models}/adapter"]
        command += ["--dtype", self.fast[0], "--threads", str(a.threads), "--format", "json"]
        with tempfile.TemporaryFile() as out:
            scan = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(scan.pid, 0)
            scan.returncode = os.waitstatus_to_exitcode(status)
        # 0 and 1 are whole scans; anything else measured less.
        if scan.returncode not in (0, 1):
            raise SystemExit(f"`{' '.join(command)}` ended with {scan.returncode}")
        return usage.ru_maxrss * 1024

    def one_round(self, row: Row, configurations: list[tuple], engine_first: bool) -> None:
        dtype = self.dtypes(row)[0]
        if engine_first:
            ours = self.timed_engine(row, dtype)
        for configuration in configurations:
            self.keep((row.name, configuration), self.ask_peer(row, configuration))
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
            if "candidates" in self.times[row.name][0]:
                counts = [self.times[key][0]["candidates"] for key in (row.name, best)]
                detail += f", candidates run: engine {counts[0]}, peer {counts[1]}"
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

        if self.scan_bytes is not None:
            figure = f"{self.scan_bytes / 1e9:.2f} GB"
            met = self.scan_bytes <= MOST_SCAN_BYTES
            yield "peak memory", figure, f"<= {MOST_SCAN_BYTES / 1e9:.1f} GB", met, f"a scan in {self.fast[0]}"

    def close(self) -> None:
        for program in [*self.peers.values(), *self.engines.values()]:
            program.close()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares the engine with torch, nanogcg and llama.cpp.")
    parser.add_argument("--engine", required=True, help="the built bench program")
    parser.add_argument("--scanner", required=True, help="the built triggerfish program")
    parser.add_argument("--models", required=True, help="what convert.py wrote")
    parser.add_argument("--nanogcg", help="python with nanogcg; its row is left out if absent")
    parser.add_argument("--llama", help="python with llama-cpp-python; its rows are left out if absent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workload", action="append", help="a row or workload; may be repeated; all if absent")
    parser.add_argument("--summary", action="store_true", help="one line a row")
    arguments = parser.parse_args()
    known = {name for row in ROWS for name in (row.name, row.engine)} | {"lora_overhead", "sweep", "peak memory"}
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
    for found in comparison.left_out():
        print(found)
    for found in comparison.differences:
        print(f"not the same work: {found}")
    sys.exit(3 if comparison.differences else int(missed))


if __name__ == "__main__":
    main()
