//! Settings: file, environment, command line, and who wins.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::{root, stderr, stdout, triggerfish};

fn run(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    assert_cmd::Command::cargo_bin("triggerfish")
        .unwrap()
        .current_dir(folder)
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .unwrap()
}

fn project(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("deep/er")).unwrap();
    std::fs::write(folder.path().join("triggerfish.toml"), text).unwrap();
    folder
}

#[test]
fn every_value_says_where_it_comes_from() {
    let folder = project(
        "# settings\ndtype = \"bf16\"\nseed = 7\ndepth = \"deep\"\n[thresholds]\nsuspicious-uplift = 0.2\n",
    );
    let below = folder.path().join("deep/er");
    let variables = [("TRIGGERFISH_SEED", "8")];
    let shown = stdout(&run(&below, &variables, &["config", "show", "--origin"]));
    let line = |name: &str| {
        shown.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {shown}"))
    };
    assert!(
        line("dtype = ").starts_with("dtype = \"bf16\"") && line("dtype = ").ends_with("triggerfish.toml:2")
    );
    assert_eq!(line("seed = "), "seed = 8  # environment TRIGGERFISH_SEED");
    assert_eq!(line("memory = "), "memory = \"512M\"  # default");
    assert!(line("suspicious-uplift").ends_with("triggerfish.toml:6"), "{shown}");
    assert!(shown.contains("# threads is not set"));
    let plain = stdout(&run(&below, &[], &["config", "show"]));
    let table: toml::Table = toml::from_str(&plain).unwrap();
    assert_eq!(table["seed"].as_integer(), Some(7));
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let folder = project(
        "depth = \"quick\"\nfail-on = \"never\"\nseed = 5\nformat = \"json\"\n[thresholds]\nbackdoored-uplift = 1.0\n",
    );
    let run = |variables: &[(&str, &str)], more: &[&str]| -> (Option<i32>, Value) {
        let output = run(folder.path(), variables, &[&["scan", "--quiet"], more].concat());
        (
            output.status.code(),
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output))),
        )
    };
    let (code, record) = run(&[], &[]);
    assert_eq!((code, record["settings"]["seed"].as_u64()), (Some(0), Some(5)));
    assert_eq!(record["judgement"]["verdict"], "suspicious", "no interval reaches the whole");
    let (code, record) =
        run(&[("TRIGGERFISH_FAIL_ON", "suspicious"), ("TRIGGERFISH_SEED", "6")], &["--seed", "9"]);
    assert_eq!((code, record["settings"]["seed"].as_u64()), (Some(1), Some(9)));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (text, expected) in [
        (
            "base = \"x\"\ndept = \"quick\"\n",
            "at line 2, column 1: unknown key `dept`; did you mean `depth`?",
        ),
        ("\ndepth = \"qick\"\n", "triggerfish.toml:2: key `depth`: invalid value 'qick'"),
        ("threads = 0\n", "triggerfish.toml:1: key `threads`"),
        (
            "[thresholds]\nfalse-discovery-rate = 2.0\n",
            "triggerfish.toml:2: key `thresholds.false-discovery-rate`",
        ),
        ("seed = \"x\"\n", "at line 1, column 8"),
        ("base = [\n", "at line"),
    ] {
        let folder = project(text);
        let output = run(folder.path(), &[], &["config", "show"]);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(stderr(&output).contains(expected), "{text}: {}", stderr(&output));
        assert_eq!(
            run(folder.path(), &[], &["rules", "list"]).status.code(),
            Some(0),
            "others do not read it"
        );
    }
    let output = triggerfish(&["scan", "--config", "/no/such/file.toml"]);
    assert!(stderr(&output).contains("/no/such/file.toml"), "{}", stderr(&output));
}

#[test]
fn a_file_in_what_is_examined_accepts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    std::fs::write(adapter.join("run.py"), "import os\nos.system('true')\n").unwrap();
    let report = |folder: &Path, more: &[&str]| -> (Option<i32>, Value, String) {
        let output =
            run(folder, &[], &[&["audit", ".", "--fail-on", "low", "--format", "json"], more].concat());
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap(), stderr(&output))
    };
    let (code, found, _) = report(&adapter, &[]);
    assert_eq!(code, Some(1));
    let finding = &found["repositories"][0]["findings"][0];
    let all: String = found["repositories"][0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            format!(
                "[[suppress]]\nrule = {}\nsha256 = {}\nreason = \"known\"\napproved_by = \"me\"\nexpires = \"2999-01-01\"\n",
                finding["rule"], finding["sha256"]
            )
        })
        .collect();
    assert!(finding["sha256"].is_string());
    // Of the project, it counts; of the repository itself, it does not, unless it is named.
    std::fs::write(folder.path().join("triggerfish.toml"), &all).unwrap();
    assert_eq!(report(&adapter, &[]).0, Some(0));
    std::fs::remove_file(folder.path().join("triggerfish.toml")).unwrap();
    std::fs::write(adapter.join("triggerfish.toml"), &all).unwrap();
    let (code, _, talk) = report(&adapter, &[]);
    assert_eq!((code, talk.contains("is not read")), (Some(1), true), "{talk}");
    let (_, found, _) = report(&adapter, &["--config", "triggerfish.toml"]);
    assert!(found["repositories"][0]["findings"][0]["suppressed"].is_object());
    // Nor does it for `check` and `pin`, also where it names its own folder as an adapter.
    std::fs::write(adapter.join("triggerfish.toml"), format!("[adapters]\nbot = \".\"\n{all}")).unwrap();
    for arguments in [&["check"][..], &["check", "--adapter", "."], &["pin", "--adapter", "."]] {
        let talk = stderr(&run(&adapter, &[], arguments));
        assert!(talk.contains("is not read"), "{arguments:?}: {talk}");
    }
}

#[test]
fn init_writes_a_file_that_is_read_and_never_overwrites_one() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &[], &["init"]).status.code(), Some(0));
    assert_eq!(run(folder.path(), &[], &["config", "show"]).status.code(), Some(0));
    let output = run(folder.path(), &[], &["init"]);
    assert_eq!((output.status.code(), stderr(&output).contains("is there already")), (Some(2), true));
}

#[test]
fn schemas_are_those_that_are_published() {
    for (which, file) in [("config", "triggerfish.schema.json"), ("baseline", "baseline.schema.json")] {
        let published = std::fs::read_to_string(root("crates/cli/schema").join(file)).unwrap_or_default();
        assert_eq!(
            published,
            stdout(&triggerfish(&["schema", which])),
            "triggerfish schema {which} > {file}"
        );
    }
}

#[test]
fn doctor_says_what_works_and_what_does_not() {
    let folder = project("dtype = \"bf16\"\n[adapters]\nbot = \"no/such/adapter\"\n");
    let output = run(folder.path(), &[], &["doctor"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(2), "{text}{}", stderr(&output));
    assert!(text.contains("self-test passes on cpu in bf16"), "{text}");
    assert!(text.contains("WRONG  settings") && text.contains("no/such/adapter"), "{text}");
    std::fs::remove_file(folder.path().join("triggerfish.toml")).unwrap();
    assert_eq!(run(folder.path(), &[], &["doctor"]).status.code(), Some(0));
}

#[test]
fn shells_and_man_know_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&triggerfish(&["completions", shell]));
        assert!(script.contains("check") && script.contains("replay"), "{shell}");
    }
    assert_eq!(run(folder.path(), &[], &["man"]).status.code(), Some(0));
    let page = std::fs::read_to_string(folder.path().join("triggerfish-check.1")).unwrap();
    assert!(page.contains("baselines"), "{page}");
    assert!(!folder.path().join("triggerfish-audit-worker.1").exists());
}
