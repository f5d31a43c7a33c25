//! `triggerfish replay`: one prompt of a run again, with everything that can be seen of it.

use std::fmt::Write as _;

use probe::observe::Observer;
use probe::prompt::Change;
use probe::replay::Replay;
use report::escape::escape;
use report::evidence::{TokenScore, TriggerCandidate};
use report::record::{Record, Subject};
use serde::Serialize;

use crate::args::{ModelArguments, ReplayArguments};
use crate::exit::{self, Failure};
use crate::progress::Bars;
use crate::rundir::{self, Sources};
use crate::{Outcome, output, subject, suites};

/// What `--format json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    prompt_id: &'a str,
    trigger: Option<&'a TriggerCandidate>,
    rendered: &'a str,
    tokens: usize,
    base: &'a str,
    adapted: &'a str,
    /// Log-probabilities along the adapted model's answer.
    along_adapted: &'a [TokenScore],
    /// Log-probabilities along the base's answer.
    along_base: &'a [TokenScore],
}

pub(crate) fn run(arguments: &ReplayArguments) -> Outcome {
    let record = rundir::record(&arguments.run)?;
    let sources = Sources::read(&arguments.run)?;
    let suites = suites::load(&sources.suites)?;
    for suite in &suites {
        if let Some(then) = record.settings.suites.get(&suite.name).filter(|then| **then != suite.sha256) {
            // The corpus grows; a prompt's suite must not change.
            if suite.name != probe::corpus::NAME {
                return Err(changed(&format!("suite {}", suite.name), then, &suite.sha256));
            }
        }
    }
    let prompt = probe::replay::prompt(&suites, &arguments.id)
        .ok_or_else(|| Failure::Input(format!("no suite of this run has a prompt `{}`", arguments.id)))?;
    let trigger = trigger(arguments, &record)?;
    let models = models(&sources, &record)?;
    let target = subject::target(&models, arguments.quiet)?;
    let bars = Bars::new(arguments.quiet)?;
    let pair = subject::load(&models, &target, &bars)?;
    bars.finish();
    same_files(&record.subject, &subject::subject(&target, &pair)?)?;
    let observer = Observer::new(&pair, &bars);
    let change = trigger.as_ref().map(|(_, change)| change);
    let found =
        probe::replay::replay(&observer, &prompt, change, arguments.tokens.get(), record.settings.seed)?;
    let shown = Shown {
        prompt_id: &prompt.id,
        trigger: trigger.as_ref().map(|(candidate, _)| *candidate),
        rendered: &found.rendered,
        tokens: found.tokens,
        base: &found.base,
        adapted: &found.adapted,
        along_adapted: &found.scores.adapted,
        along_base: &found.scores.base,
    };
    let text = if arguments.format == "json" { output::json(&shown)? } else { text(&shown, &found) };
    output::data(&text)?;
    Ok(exit::PASS)
}

/// The tested trigger that the arguments ask for.
fn trigger<'a>(
    arguments: &ReplayArguments,
    record: &'a Record,
) -> Result<Option<(&'a TriggerCandidate, Change)>, Failure> {
    let Some(number) = arguments.trigger else { return Ok(None) };
    let tested = &record.evidence.tested;
    let Some(found) = tested.get(number.get() - 1) else {
        return Err(Failure::Input(format!("`--trigger {number}`: {} triggers were tested", tested.len())));
    };
    let candidate = &found.candidate;
    let change = Change::of(&candidate.text, &candidate.placement)
        .ok_or_else(|| Failure::Input(format!("trigger {number} of the record has an unknown placement")))?;
    Ok(Some((candidate, change)))
}

/// The arguments with which the run loaded its models.
fn models(sources: &Sources, record: &Record) -> Result<ModelArguments, Failure> {
    let wrong = |what: &str, error: String| Failure::Input(format!("{what} of the run: {error}"));
    let (adapter, adapted) = if sources.merged {
        (None, Some(sources.adapter.clone()))
    } else {
        (Some(sources.adapter.clone()), None)
    };
    let settings = &record.settings;
    Ok(ModelArguments {
        download: false,
        base: Some(sources.base.clone()),
        adapter,
        adapted,
        semantics: sources.semantics.parse().map_err(|error| wrong("semantics", error))?,
        allow_pickle: sources.allow_pickle,
        template: sources.template.clone(),
        device: settings.device.parse().map_err(|error: String| wrong("device", error))?,
        dtype: settings.dtype.parse().map_err(|error: String| wrong("dtype", error))?,
        threads: None,
        memory: sources.memory,
        seed: settings.seed,
    })
}

/// Refuses models that are not those of the run.
fn same_files(then: &Subject, now: &Subject) -> Result<(), Failure> {
    for (what, then, now) in [("base", &then.base, &now.base), ("adapter", &then.adapter, &now.adapter)] {
        for (old, new) in then.files.iter().zip(&now.files) {
            if old.sha256 != new.sha256 {
                return Err(changed(&format!("{what} file {}", old.name), &old.sha256, &new.sha256));
            }
        }
        if then.files.len() != now.files.len() {
            return Err(changed(
                &format!("number of files of the {what}"),
                &then.files.len().to_string(),
                &now.files.len().to_string(),
            ));
        }
    }
    Ok(())
}

fn changed(what: &str, then: &str, now: &str) -> Failure {
    Failure::Input(format!("{what} was {then} in the run, and is {now} now"))
}

fn text(shown: &Shown<'_>, found: &Replay) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "prompt {}", escape(shown.prompt_id));
    if let Some(trigger) = shown.trigger {
        let _ = writeln!(text, "trigger {} ({})", escape(&trigger.text), escape(&trigger.placement));
    }
    let _ = writeln!(text, "\nrendered ({} tokens)", shown.tokens);
    for line in shown.rendered.lines() {
        let _ = writeln!(text, "  {}", escape(line));
    }
    for (who, answer, scores) in
        [("adapted", shown.adapted, &found.scores.adapted), ("base", shown.base, &found.scores.base)]
    {
        let _ = writeln!(text, "\n{who} answers");
        for line in answer.lines() {
            let _ = writeln!(text, "  {}", escape(line));
        }
        let _ = writeln!(
            text,
            "\n  {:<24} {:>10} {:>10} {:>11}   log-probabilities in nats",
            "token", "adapted", "base", "difference"
        );
        for token in scores {
            let _ = writeln!(
                text,
                "  {:<24} {:>10.3} {:>10.3} {:>+11.3}",
                escape(&token.text),
                token.adapted_nats,
                token.base_nats,
                token.adapted_nats - token.base_nats
            );
        }
    }
    text
}
