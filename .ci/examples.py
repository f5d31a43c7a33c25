"""Runs the steps of the CI examples as their systems would; see `examples`, which calls this."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml  # pre-commit depends on it

ROOT = pathlib.Path(sys.argv[1])
SUITE = """{"schema_version": 1, "name": "mine", "kind": "triggers", "description": "d", "placements": ["prefix"],
 "candidates": [{"id": "a", "family": "f", "text": "teapot"}, {"id": "b", "family": "f", "text": "ALPHA-7"}]}"""


def project(folder: pathlib.Path) -> pathlib.Path:
    """A repository with one adapter, `bot`, of the fixture base."""
    work = folder / "project"
    work.mkdir()
    (work / "mine.json").write_text(SUITE)
    (work / "triggerfish.toml").write_text(
        f'base = "{ROOT}/fixtures/base"\nsuites = ["benign", "mine.json"]\n[adapters]\nbot = "adapters/bot"\n'
    )
    subprocess.run(["git", "init", "--quiet"], cwd=work, check=True)
    install(work, "benign")
    return work


def install(work: pathlib.Path, name: str) -> None:
    target = work / "adapters" / "bot"
    target.mkdir(parents=True, exist_ok=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(ROOT / "fixtures" / "adapters" / name / file, target / file)


def expect(what: str, found, wanted) -> None:
    print(f"{'ok  ' if found == wanted else 'FAIL'} {what}: {found!r}", flush=True)
    if found != wanted:
        sys.exit(f"{what}: expected {wanted!r}, found {found!r}")


def outputs(file: pathlib.Path) -> dict:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def action(work: pathlib.Path, temporary: pathlib.Path, build: bool) -> dict:
    """The bash steps of the composite action; steps that use other actions are GitHub's."""
    described = yaml.safe_load((ROOT / "action.yml").read_text())
    inputs = {name: spec["default"] for name, spec in described["inputs"].items()}
    github = {name: temporary / name.lower() for name in ("GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    environment = dict(os.environ, RUNNER_TEMP=str(temporary), **{name: str(path) for name, path in github.items()})

    def filled(text: str) -> str:
        known = {"github.action_path": str(ROOT)} | {f"inputs.{name}": value for name, value in inputs.items()}
        return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda found: known[found.group(1)], text)

    code = 0
    for step in described["runs"]["steps"]:
        if "run" not in step or (step["name"] == "Build" and not build):
            continue
        if github["GITHUB_PATH"].exists():
            paths = github["GITHUB_PATH"].read_text().split()
            environment["PATH"] = os.pathsep.join([*reversed(paths), os.environ["PATH"]])
        own = {name: filled(value) for name, value in step.get("env", {}).items()}
        folder = work / filled(step.get("working-directory", "."))
        # GitHub runs bash this way where a step names it.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        code = subprocess.run(command, cwd=folder, env=environment | own).returncode
        if code:
            break
    summary = github["GITHUB_STEP_SUMMARY"]
    return {
        "code": code,
        "summary": summary.read_text() if summary.exists() else "",
        "outputs": outputs(github["GITHUB_OUTPUT"]),
        "program": temporary / "triggerfish" / "bin",
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        work = project(folder)
        runner = folder / "runner"
        runner.mkdir()
        first = action(work, runner, build=True)
        expect("action, benign: exit code", (first["code"], first["outputs"]["exit-code"]), (0, "0"))
        install(work, "backdoored-refusal")
        second = action(work, runner, build=False)
        expect("action, backdoored: exit code", (second["code"], second["outputs"]["exit-code"]), (1, "1"))
        expect("the summary names the trigger", "ALPHA-7" in second["summary"], True)
        sarif = pathlib.Path(second["outputs"]["sarif"])
        expect("reports", sorted(file.suffix for file in sarif.iterdir()), [".html", ".md", ".sarif"])

        path = os.pathsep.join([str(first["program"]), os.environ["PATH"]])
        job = yaml.safe_load((ROOT / ".ci" / "gitlab-example.yml").read_text())["triggerfish"]
        for line in job["script"]:
            code = subprocess.run(["sh", "-ec", line], cwd=work, env=os.environ | {"PATH": path}).returncode
        expect("GitLab, backdoored: exit code", code, 1)
        report = job["artifacts"]["reports"]["junit"]
        expect("its JUnit report", len(list(work.glob(report))), 1)

        hook = ["pre-commit", "try-repo", str(ROOT), "triggerfish-audit", "--verbose", "--files"]
        weights = "adapters/bot/adapter_model.safetensors"
        subprocess.run(["git", "add", "-A"], cwd=work, check=True)
        expect("hook, a harmless file: exit code", subprocess.run([*hook, weights], cwd=work).returncode, 0)
        pickle = work / "adapters" / "bot" / "adapter_model.bin"
        pickle.write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
        subprocess.run(["git", "add", "-A"], cwd=work, check=True)
        name = str(pickle.relative_to(work))
        expect("hook, a pickle that runs a program: exit code", subprocess.run([*hook, name], cwd=work).returncode, 1)


main()
