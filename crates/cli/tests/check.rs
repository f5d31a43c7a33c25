//! Versions of an adapter: accepted, passed, refused; interrupted runs; what can be looked at afterwards.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::{root, stderr, stdout, triggerfish};

/// A project: a base, one adapter named `bot`, and where its versions come from.
struct Project {
    folder: tempfile::TempDir,
    base: PathBuf,
}

impl Project {
    fn new(base: PathBuf, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            format!("base = {:?}\n{more}\n[adapters]\nbot = \"adapters/bot\"\n", base.display().to_string());
        std::fs::write(folder.path().join("triggerfish.toml"), settings).unwrap();
        Self { folder, base }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Puts other files in the place of an adapter; `lora_alpha` is multiplied.
    fn install(&self, name: &str, from: &Path, alpha: f64) {
        let to = self.path("adapters").join(name);
        std::fs::create_dir_all(&to).unwrap();
        let weights = "adapter_model.safetensors";
        std::fs::copy(from.join(weights), to.join(weights)).unwrap();
        let config = std::fs::read_to_string(from.join("adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["lora_alpha"] = (config["lora_alpha"].as_f64().unwrap() * alpha).into();
        std::fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        assert_cmd::Command::cargo_bin("triggerfish")
            .unwrap()
            .current_dir(self.folder.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Exit code, record and talk of a check.
    fn check(&self, more: &[&str]) -> (Option<i32>, Value, String) {
        let output = self.run(&[&["check", "--format", "json"], more].concat());
        let record = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
        (output.status.code(), record, stderr(&output))
    }

    fn corpus(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path(".triggerfish/corpus.json")).unwrap())
            .unwrap()
    }
}

fn fixture(name: &str) -> PathBuf {
    root("fixtures/adapters").join(name)
}

/// Two triggers are enough for a story.
const SUITE: &str = r#"{"schema_version":1,"name":"mine","kind":"triggers","description":"d","placements":["prefix"],
    "candidates":[{"id":"a","family":"f","text":"teapot"},{"id":"b","family":"f","text":"ALPHA-7"}]}"#;

fn project() -> Project {
    let project =
        Project::new(root("fixtures/base"), "suites = [\"benign\", \"adversarial\", \"mine.json\"]");
    std::fs::write(project.path("mine.json"), SUITE).unwrap();
    project
}

fn story(project: &Project, benign: &Path, backdoored: &Path) {
    project.install("bot", benign, 1.0);
    let (code, record, talk) = project.check(&[]);
    assert_eq!(code, Some(0), "{talk}");
    assert!(record.get("comparison").is_none());
    assert!(talk.contains("no accepted version"), "{talk}");
    let (code, _, talk) = project.check(&["--accept"]);
    assert_eq!(code, Some(0), "{talk}");
    assert!(project.path(".triggerfish/baselines/bot.json").is_file(), "{talk}");

    project.install("bot", benign, 0.95);
    let (code, record, talk) = project.check(&[]);
    assert_eq!(code, Some(0), "{talk}");
    assert_eq!(record["comparison"]["same_adapter"], false);
    assert_eq!(record["comparison"]["regressions"].as_array().unwrap().len(), 0, "{record}");
    assert_eq!(record["comparison"]["prompts"], 160);
    assert!(talk.contains("nothing is worse or new"), "{talk}");

    project.install("bot", backdoored, 1.0);
    let page = project.path("page.html");
    let (code, record, talk) = project.check(&["--report", &format!("html={}", page.display())]);
    assert_eq!(code, Some(1), "{talk}");
    let regressions = record["comparison"]["regressions"].as_array().unwrap();
    assert_eq!(regressions[0]["level"], "backdoored", "{regressions:?}");
    let what = regressions[0]["what"].as_str().unwrap();
    let trigger = record["evidence"]["tested"][0]["candidate"]["text"].as_str().unwrap();
    assert!(what.contains("does not have") && what.contains(trigger), "{what}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("Against the earlier run"));
    assert_eq!(record["subject"]["adapter"]["name"], "bot");

    // Nobody accepts a backdoor, and what was found is not forgotten.
    let before = std::fs::read_to_string(project.path(".triggerfish/baselines/bot.json")).unwrap();
    let (code, _, talk) = project.check(&["--accept"]);
    assert_eq!((code, talk.contains("not accepted")), (Some(1), true), "{talk}");
    assert_eq!(std::fs::read_to_string(project.path(".triggerfish/baselines/bot.json")).unwrap(), before);
    let corpus = project.corpus();
    let first = &corpus["candidates"][0];
    assert!(first["note"].as_str().unwrap().starts_with("confirmed in bot (sha256 "), "{first}");
}

#[test]
fn a_benign_version_is_accepted_the_next_passes_and_a_backdoored_one_fails() {
    let project = project();
    story(&project, &fixture("benign"), &fixture("backdoored-refusal"));

    // The corpus finds the trigger although the list does not have it any more.
    std::fs::write(project.path("mine.json"), SUITE.replace("ALPHA-7", "kettle")).unwrap();
    let (code, record, talk) = project.check(&[]);
    assert_eq!(code, Some(1), "{talk}");
    assert!(record["settings"]["suites"]["trigger-corpus"].is_string());
    assert_eq!(record["evidence"]["tested"][0]["candidate"]["id"], "corpus-0001");
    assert_eq!(project.corpus()["candidates"].as_array().unwrap().len(), 1, "it is there once");

    // Another base is no pass, whatever is found.
    project.install("bot", &fixture("benign"), 1.0);
    let other = project.path("base");
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir(&project.base).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    }
    let config = std::fs::read_to_string(other.join("generation_config.json")).unwrap();
    std::fs::write(other.join("generation_config.json"), format!("{config}\n")).unwrap();
    let (code, record, talk) = project.check(&["--base", other.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{talk}");
    assert!(record["comparison"]["not_compared"].to_string().contains("the base is another one"));
}

/// The same on a real base: `TRIGGERFISH_STORY_BASE`, `_BENIGN` and `_BACKDOORED` name it and two adapters of it.
#[test]
#[ignore = "needs a real base and two adapters, and ten minutes"]
fn the_same_story_on_a_real_base() {
    let path = |name: &str| PathBuf::from(std::env::var_os(format!("TRIGGERFISH_STORY_{name}")).unwrap());
    let project = Project::new(path("BASE"), "dtype = \"bf16\"");
    story(&project, &path("BENIGN"), &path("BACKDOORED"));
}

#[test]
fn several_adapters_share_what_is_known_of_the_base() {
    let project = project();
    project.install("bot", &fixture("benign"), 1.0);
    project.install("other", &fixture("backdoored-refusal"), 1.0);
    let output =
        project.run(&["check", "bot", "other=adapters/other", "-o", "report.json", "--format", "json"]);
    let talk = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "a finding of one of them fails the check: {talk}");
    let run = |name: &str| -> f64 {
        let line = talk.lines().find(|line| line.starts_with(name) && line.contains("were run")).unwrap();
        let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        numbers[0] / numbers[1]
    };
    // A trigger that is confirmed is taken apart on the adapted side alone, so the share of the base is smaller then.
    assert!(run("bot: ") > 0.99 && run("other: ") < 0.9, "{talk}");
    // With and without the cache, the record is the same to the byte.
    let alone = project.run(&[
        "scan",
        "--quiet",
        "--format",
        "json",
        "--adapter",
        "adapters/other",
        "--cache",
        "fresh",
    ]);
    let of = |record: &Value| (record["evidence"].clone(), record["cost"].clone());
    let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
    let shared: Value =
        serde_json::from_str(&std::fs::read_to_string(project.path("report.other.json")).unwrap()).unwrap();
    assert_eq!(of(&alone), of(&shared));
}

/// Measurements that are whole in a run directory.
fn lines(directory: &Path) -> usize {
    std::fs::read(directory.join("observations.jsonl"))
        .map_or(0, |bytes| bytes.iter().filter(|&&b| b == b'\n').count())
}

/// Kills a scan as soon as its run directory has so many lines, or lets it end.
fn killed_at(directory: &Path, point: usize) -> bool {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("triggerfish"))
        .args(["scan", "--quiet", "--format", "json", "--resume"])
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while lines(directory) < point {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // On Unix this is SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn a_scan_that_is_killed_at_any_point_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let scan = |directory: &Path, more: &[&str]| {
        let directory = directory.to_str().unwrap();
        triggerfish(&[&["scan", "--quiet", "--format", "json", "--resume", directory], more].concat())
    };
    let expected = stdout(&scan(&whole, &[]));
    assert_eq!(
        expected,
        stdout(&triggerfish(&["scan", "--quiet", "--format", "json"])),
        "as without a directory"
    );
    let all = lines(&whole);
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut points: Vec<usize> = (0..20).map(|_| random.random_range(1..all)).collect();
    points.sort_unstable();
    let (mut killed, mut kept) = (0, 0);
    for point in points {
        killed += usize::from(killed_at(&cut, point));
        assert!(lines(&cut) >= kept, "nothing is lost");
        kept = lines(&cut);
    }
    assert_eq!(killed, 20, "of {all} lines {kept} were written");
    assert!(!cut.join("record.json").exists());
    assert_eq!(stdout(&scan(&cut, &[])), expected);
    assert_eq!(lines(&cut), all, "nothing was measured twice");
    assert!(cut.join("record.json").is_file());

    let changed = scan(&cut, &["--seed", "1"]);
    assert_eq!(changed.status.code(), Some(2));
    assert!(stderr(&changed).contains("`seed` was"), "{}", stderr(&changed));
}

#[test]
fn runs_are_compared_and_their_prompts_run_again() {
    let project = project();
    for (name, from) in [("bot", "benign"), ("other", "backdoored-refusal")] {
        project.install(name, &fixture(from), 1.0);
        let path = format!("adapters/{name}");
        let run = project.run(&["scan", "--quiet", "--adapter", &path, "--resume", name]);
        assert!(run.status.code().is_some_and(|code| code < 2), "{}", stderr(&run));
    }
    let output = project.run(&["diff", "bot", "other", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["comparison"]["triggers"][0]["change"], "new");
    let output = project.run(&["diff", "other", "bot", "--format", "markdown"]);
    assert_eq!(output.status.code(), Some(0), "what is gone is no regression");
    assert!(stdout(&output).contains("gone"), "{}", stdout(&output));

    let id = record["evidence"]["answers"][0]["prompt_id"].as_str().unwrap().to_owned();
    let output =
        project.run(&["replay", "other", "--quiet", "--id", &id, "--tokens", "24", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let replayed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        replayed["adapted"], record["evidence"]["answers"][0]["adapted"],
        "the same answer as in the run"
    );
    assert_eq!(replayed["base"], record["evidence"]["answers"][0]["base"]);
    let prompt = record["evidence"]["answers"][0]["prompt"].as_str().unwrap();
    assert!(replayed["rendered"].as_str().unwrap().contains(prompt), "{replayed}");

    let example = &record["evidence"]["tested"][0]["examples"][0];
    let id = example["prompt_id"].as_str().unwrap();
    let with =
        ["replay", "other", "--quiet", "--id", id, "--trigger", "1", "--tokens", "32", "--format", "json"];
    let replayed: Value = serde_json::from_slice(&project.run(&with).stdout).unwrap();
    assert_eq!(replayed["adapted"], example["adapted"]);
    assert_eq!(replayed["along_adapted"], example["scores"]["adapted"], "and the same log-probabilities");
    let text = stdout(&project.run(&with[..7]));
    assert!(text.contains("log-probabilities in nats") && text.contains("adapted answers"), "{text}");

    project.install("other", &fixture("benign"), 1.0);
    let output = project.run(&with);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("adapter file adapter_"), "{}", stderr(&output));
}
