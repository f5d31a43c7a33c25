#!/usr/bin/env python3
"""The audit's corpus through this program and its peers, in one table; or the time of an audit beside theirs.

    benches/audit.py table --binary target/release/triggerfish [--corpus FOLDER] [--peers NAME,…]
    benches/audit.py time --binary target/release/triggerfish --adapter FOLDER [--rounds N]

The peers come from the Python package index into private environments in the user's cache folder, versions pinned
below. "Reacts" means any finding or a failing exit code, which is generous to the peers: whether the finding is the
right one is judged for this program alone. A peer that takes longer than the limit counts as hanging.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "triggerfish-bench" / "audit-peers"
PEERS = {"modelaudit": "0.2.54", "adaptersentry": "2.0.2", "modelscan": "0.8.8", "picklescan": "1.0.5"}
ENTRIES = {
    "modelaudit": ["modelaudit.__main__:_run", "modelaudit.cli", "modelaudit.core", "modelaudit.scanners"],
    "adaptersentry": ["adaptersentry.cli.main:main", "adaptersentry.scanner", "adaptersentry.cli.scan", "adaptersentry.engine.worker", "adaptersentry.reporters.json"],
    "modelscan": ["modelscan.cli:main", "modelscan.modelscan"],
    "picklescan": ["picklescan.cli:main"],
}
LIMIT = 30
QUIET = {**os.environ, "PROMPTFOO_DISABLE_TELEMETRY": "1", "NO_ANALYTICS": "1", "NO_COLOR": "1"}


def environment(name):
    """The folder of a peer's programs; installs it the first time."""
    folder = CACHE / f"{name}-{PEERS[name]}"
    if not (folder / "complete").exists():
        print(f"installing {name} {PEERS[name]} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", f"{name}=={PEERS[name]}"], check=True)
        (folder / "complete").touch()
    return folder / "bin"


def command(name, repository, out):
    """The peer's command for a repository."""
    binary = str(environment(name) / name)
    if name == "modelaudit":
        return [binary, "scan", "--format", "json", "--no-cache", "-o", str(out), str(repository)]
    if name == "adaptersentry":
        return [binary, "scan", str(repository / "adapter_model.safetensors"), "--format", "json"]
    if name == "modelscan":
        return [binary, "-p", str(repository)]
    return [binary, "-p", str(repository)]


def run(arguments):
    """Exit code (None for a hang), output, seconds."""
    started = time.perf_counter()
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, env=QUIET)
    except subprocess.TimeoutExpired:
        return None, "", float(LIMIT)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace"), time.perf_counter() - started


def verdict(name, code, text, out):
    """What a peer says of a repository: `yes` for anything against it, `no`, `hang` or `crash`."""
    if code is None:
        return "hang"
    if "Traceback (most recent call last)" in text:
        return "crash"
    if name == "modelaudit":
        try:
            issues = json.loads(out.read_text()).get("issues", [])
        except (OSError, ValueError):
            return "yes" if code else "no"
        # Notes on licences and addresses stand on every clean repository.
        loud = [issue for issue in issues if issue.get("severity") not in ("debug", "info")]
        return "yes" if loud or code == 1 else "no"
    if name == "adaptersentry":
        try:
            result = json.loads(text[text.index("{"):text.rindex("}") + 1])
        except ValueError:
            return "yes" if code else "no"
        loud = [finding for finding in result.get("findings", []) if finding.get("severity") not in ("info", "debug")]
        action = result.get("verdict", {}).get("action", "allow")
        return "yes" if code or loud or action != "allow" or result.get("status") != "ok" else "no"
    # modelscan's 3 means that it found no file that it supports.
    return "yes" if code == 1 else "no"


def peer_reactions(name, repositories, keep):
    """Runs a peer over repositories; tells `keep` each name and verdict as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{index}.json" for index in range(len(repositories))]
        commands = [command(name, repository, out) for repository, out in zip(repositories, outs)]
        entry, *modules = ENTRIES[name]
        python = environment(name) / "python3"
        runner = subprocess.Popen([python, "-B", HERE / "audit_peer.py", entry, str(LIMIT), *modules],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=QUIET)
        runner.stdin.write(json.dumps(commands))
        runner.stdin.close()
        for repository, out, line in zip(repositories, outs, runner.stdout):
            result = json.loads(line)
            keep(repository.name, verdict(name, result["code"], result["text"], out))
        if runner.wait():
            sys.exit(f"audit.py: {name} ended early")


def ours(binary, corpus, case):
    """The result of this program on a case, its seconds and peak memory in MB."""
    arguments = [binary, "audit", str(corpus / "repositories" / case["name"]), "--format", "json"]
    if case["base"]:
        arguments += ["--base", str(corpus / "bases" / case["base"])]
    code, text, seconds = run(arguments)
    if code is None:
        return "hang", seconds
    if "panicked" in text:
        return "crash", seconds
    try:
        findings = json.loads(text)["repositories"][0]["findings"]
    except (ValueError, LookupError):
        return "crash", seconds
    if case["hostile"]:
        if any(finding["rule"] in case["rules"] for finding in findings):
            return "yes", seconds
        return ("other rule" if any(finding["severity"] not in ("note", "low") for finding in findings) else "no"), seconds
    return ("yes" if any(finding["severity"] not in ("note", "low") for finding in findings) else "no"), seconds


def table(arguments):
    corpus = Path(arguments.corpus) if arguments.corpus else Path(tempfile.mkdtemp(prefix="audit-corpus-"))
    if not (corpus / "cases.json").exists():
        subprocess.run([sys.executable, "-B", HERE.parent / "fixtures" / "audit" / "generate.py", corpus], check=True)
    cases = json.loads((corpus / "cases.json").read_text())
    peers = [name for name in arguments.peers.split(",") if name]
    kept = Path(arguments.output) if arguments.output else None
    results = json.loads(kept.read_text()) if kept and kept.exists() else {}
    slowest = 0.0
    def save():
        if kept:
            kept.write_text(json.dumps(results, indent=1) + "\n")

    for case in cases:
        outcome, seconds = ours(arguments.binary, corpus, case)
        results.setdefault(case["name"], {})["triggerfish"] = outcome
        slowest = max(slowest, seconds)
        if outcome != ["no", "yes"][case["hostile"]]:
            print(case["name"], outcome, file=sys.stderr, flush=True)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    save()
    for name in peers:
        def keep(repository, outcome, name=name):
            results[repository][name] = outcome
            save()

        missing = [corpus / "repositories" / case["name"] for case in cases if name not in results[case["name"]]]
        if missing:
            peer_reactions(name, missing, keep)
    families = sorted({case["name"].split("-")[0] for case in cases if case["hostile"]})
    columns = ["triggerfish", *peers]
    print("| family | repositories | " + " | ".join(columns) + " |")
    print("|---|---" + "|---" * len(columns) + "|")
    for family in [*families, "all hostile", "harmless (false alarms)"]:
        if family == "harmless (false alarms)":
            chosen = [case for case in cases if not case["hostile"]]
        else:
            chosen = [case for case in cases if case["hostile"] and family in (case["name"].split("-")[0], "all hostile")]
        cells = []
        for column in columns:
            outcomes = [results[case["name"]][column] for case in chosen]
            cell = str(outcomes.count("yes"))
            for word in ("other rule", "hang", "crash"):
                if outcomes.count(word):
                    cell += f", {outcomes.count(word)} {word}"
            cells.append(cell)
        print(f"| {family} | {len(chosen)} | " + " | ".join(cells) + " |")
    print(f"\nThis program: slowest audit {slowest:.2f} s, most memory {memory:.0f} MB.")


def timing(arguments):
    """Interleaved rounds: this program and each peer in turn."""
    adapter = Path(arguments.adapter).resolve()
    times = {name: [] for name in ["triggerfish", *PEERS]}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            times["triggerfish"].append(run([arguments.binary, "audit", str(adapter)])[2])
            for name in PEERS:
                times[name].append(run(command(name, adapter, Path(folder) / "out.json"))[2])
    print("| program | median s | min | max | factor |")
    print("|---|---|---|---|---|")
    mine = statistics.median(times["triggerfish"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.3f} | {min(values):.3f} | {max(values):.3f} | {median / mine:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "time"])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--corpus")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--output")
    parser.add_argument("--adapter")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what == "time" and not arguments.adapter:
        parser.error("time needs --adapter")
    (table if arguments.what == "table" else timing)(arguments)


if __name__ == "__main__":
    main()
