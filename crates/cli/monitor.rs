//! `triggerfish monitor`: traffic, line by line, against a profile of benign prompts.

mod lines;

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use probe::Progress as _;
use probe::activation::monitor::{Exchange, Limit, Monitor};
use probe::activation::profile::Profile;
use probe::trigger::journal::Inputs;
use report::activation::monitor::{LineVerdict, Row, Scored};
use report::escape::escape;
use report::estimate::clopper_pearson;

use crate::args::{self, GateArguments, ModelArguments};
use crate::exit::{self, Failure};
use crate::progress::{Bars, stopped};
use crate::{Outcome, gate, output, subject};
use lines::{Line, Lines};
use report::verdict::Thresholds;

/// Lines that are scored together.
const BATCH: usize = 64;
/// Of the lines that are least like benign prompts, how many the summary names.
const NAMED: usize = 5;
/// Where no terminal shows a bar, the rate is told this often.
const TOLD: Duration = Duration::from_secs(30);
/// Confidence of the bounds by which a share of flagged lines is more than chance.
const CONFIDENCE: f64 = 0.98;
/// A rank that was divided and multiplied again must not fall below itself.
const RANK_ROUNDING: f64 = 1e-9;

#[derive(Debug, Args)]
pub(crate) struct MonitorArguments {
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    /// What `activations --profile` wrote for this base, adapter and template.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: PathBuf,
    /// Traffic as JSON Lines; standard input if absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// The share of benign lines that may be flagged. A profile of enough calibration prompts (299 for 0.01) keeps it
    /// with 95 % confidence; fewer keep it on average over calibrations.
    #[arg(long, value_name = "P", default_value_t = 0.01, value_parser = args::level)]
    pub(crate) level: f64,
    /// Stop with exit code 1 at so many flagged lines.
    #[arg(long, value_name = "N")]
    pub(crate) alerts: Option<NonZeroUsize>,
    /// Exit with 0 instead of 3 when lines could not be scored and nothing worse was found.
    #[arg(long)]
    pub(crate) incomplete_ok: bool,
    #[command(flatten)]
    pub(crate) gate: GateArguments,
    /// Write the rows to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// No progress and no summary on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(crate) fn run(arguments: &MonitorArguments) -> Outcome {
    output::check_files(arguments.output.as_deref())?;
    let profile = read(&arguments.profile)?;
    let lines = Lines::open(arguments.input.as_deref())?;
    let target = subject::target(&arguments.models, arguments.quiet)?;
    let audit = gate::examine(&arguments.gate, &target, &[], Thresholds::STANDARD, arguments.quiet)?;
    if gate::stops(audit.as_ref()) {
        return Ok(exit::FOUND);
    }
    let bars = Bars::new(arguments.quiet)?;
    let pair = subject::load(&arguments.models, &target, &bars)?;
    let settings = subject::settings_of(&arguments.models, &[], []);
    compare(&arguments.profile, &profile, &subject::features(&subject::subject(&target, &pair)?, &settings))?;
    let monitor = Monitor::new(&pair, &profile, arguments.level, &bars)?;
    bars.spinner("lines");
    let mut watch = Watch::new(arguments, monitor.limit())?;
    let end = watch.follow(&monitor, &lines, &bars);
    bars.finish();
    if !arguments.quiet {
        watch.summary().iter().for_each(|line| output::talk(line));
    }
    end?;
    Ok(watch.exit_code())
}

fn read(path: &Path) -> Result<Profile, Failure> {
    let wrong = |reason: String| Failure::Input(format!("profile `{}`: {reason}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    Profile::from_bytes(&bytes).map_err(|error| wrong(error.to_string()))
}

/// An error that names everything in which a profile belongs to something else.
fn compare(path: &Path, profile: &Profile, found: &Inputs) -> Result<(), Failure> {
    let none = "none".to_owned();
    let names: std::collections::BTreeSet<&String> = profile.pins.keys().chain(found.keys()).collect();
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| profile.pins.get(*name) != found.get(*name))
        .map(|name| {
            let of = |inputs: &Inputs| escape(inputs.get(name).unwrap_or(&none));
            format!("{name}: expected {}, found {}", of(&profile.pins), of(found))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Failure::Drift(format!(
        "the profile `{}` belongs to something else ({}): write another with `triggerfish activations --profile`",
        path.display(),
        differences.join("; ")
    )))
}

/// What was seen so far, of constant size.
struct Watch<'a> {
    arguments: &'a MonitorArguments,
    rows: Box<dyn std::io::Write>,
    start: Instant,
    told: Instant,
    limit: Limit,
    lines: u64,
    scored: usize,
    flagged: usize,
    /// Whether all of the input was read.
    ended: bool,
    /// Score and line of those least like benign prompts.
    highest: Vec<(f64, u64)>,
}

impl<'a> Watch<'a> {
    fn new(arguments: &'a MonitorArguments, limit: Limit) -> Result<Self, Failure> {
        let rows: Box<dyn std::io::Write> =
            match &arguments.output {
                None => Box::new(std::io::stdout()),
                Some(path) => Box::new(std::fs::File::create(path).map_err(|error| {
                    Failure::Machine(format!("cannot write `{}`: {error}", path.display()))
                })?),
            };
        let start = Instant::now();
        Ok(Self {
            arguments,
            rows: Box::new(std::io::BufWriter::new(rows)),
            start,
            told: start,
            limit,
            lines: 0,
            scored: 0,
            flagged: 0,
            ended: false,
            highest: Vec::new(),
        })
    }

    /// Reads, scores and writes until the input ends, the user stops, or the alerts are enough.
    fn follow(&mut self, monitor: &Monitor<'_>, lines: &Lines, bars: &Bars) -> Result<(), Failure> {
        while !stopped() {
            let Some(batch) = lines.batch(BATCH)? else {
                self.ended = true;
                break;
            };
            let asked: Vec<Exchange> =
                batch.iter().filter_map(|line| line.exchange.as_ref().ok().cloned()).collect();
            let mut scored = match monitor.score(&asked) {
                Err(probe::Error::Stopped) => break,
                scored => scored?.into_iter(),
            };
            for line in batch {
                let row = self.row(line, &mut scored);
                let written = serde_json::to_writer(&mut self.rows, &row)
                    .map_err(std::io::Error::from)
                    .and_then(|()| self.rows.write_all(b"\n"));
                if !went_on(written)? {
                    return Ok(());
                }
                if self.enough() {
                    return went_on(self.rows.flush()).map(|_| ());
                }
            }
            // Whoever reads the rows sees them as they come.
            if !went_on(self.rows.flush())? {
                return Ok(());
            }
            if bars.is_hidden() && !self.arguments.quiet && self.told.elapsed() > TOLD {
                self.told = Instant::now();
                bars.note(&format!(
                    "{} lines, {} flagged, {:.1} lines a second",
                    self.lines,
                    self.flagged,
                    self.rate()
                ));
            }
        }
        went_on(self.rows.flush()).map(|_| ())
    }

    /// The row of a line, with the next score if it is one that was asked for.
    fn row(&mut self, line: Line, scored: &mut impl Iterator<Item = Result<Scored, String>>) -> Row {
        self.lines += 1;
        let number = self.lines;
        let result = match line.exchange {
            Ok(_) => scored.next().unwrap_or_else(|| Err("not scored".to_owned())),
            Err(error) => Err(error),
        };
        let row =
            Row { line: number, id: line.id, verdict: LineVerdict::Unscored, scored: None, error: None };
        match result {
            Err(error) => Row { error: Some(error), ..row },
            Ok(scored) => {
                self.scored += 1;
                self.flagged += usize::from(scored.flagged);
                let place = self.highest.partition_point(|(score, _)| *score >= scored.score);
                self.highest.insert(place, (scored.score, number));
                self.highest.truncate(NAMED);
                let verdict = if scored.flagged { LineVerdict::Flagged } else { LineVerdict::Ordinary };
                Row { verdict, scored: Some(scored), ..row }
            }
        }
    }

    fn enough(&self) -> bool {
        self.arguments.alerts.is_some_and(|alerts| self.flagged >= alerts.get())
    }

    /// Lines a second.
    fn rate(&self) -> f64 {
        self.lines as f64 / self.start.elapsed().as_secs_f64().max(1e-3)
    }

    /// The largest share of benign lines that this calibration may flag, at 99 % confidence: the rate of one calibration
    /// is spread about the p-value that flags as Beta(k, n + 1 - k), k its rank among n prompts.
    fn by_chance(&self) -> Option<f64> {
        let rank = ((self.limit.calibrated + 1) as f64 * self.limit.p_value + RANK_ROUNDING).floor() as usize;
        let estimate = clopper_pearson(rank.checked_sub(1)?, self.limit.calibrated, CONFIDENCE).ok()??;
        Some(estimate.upper)
    }

    /// Whether more lines are flagged than benign traffic of the profile's kind would have.
    fn more_than_chance(&self) -> bool {
        let share = clopper_pearson(self.flagged, self.scored, CONFIDENCE).ok().flatten();
        share.zip(self.by_chance()).is_some_and(|(share, most)| share.lower > most)
    }

    fn summary(&self) -> Vec<String> {
        let share = 100.0 * self.flagged as f64 / self.scored.max(1) as f64;
        let mut lines = vec![format!(
            "{} lines, {:.1} a second: {} scored, {} flagged ({share:.2} %), {} could not be scored",
            self.lines,
            self.rate(),
            self.scored,
            self.flagged,
            self.lines - self.scored as u64
        )];
        if let Some(most) = self.by_chance() {
            let level = self.arguments.level;
            let Limit { p_value, calibrated, needed } = self.limit;
            let kept = if self.limit.is_kept() {
                format!("a p-value of {p_value:.4} flags, so that they are at most {level} (95 % sure)")
            } else {
                format!("{needed} would make {level} sure")
            };
            lines.push(format!(
                "at level {level} benign lines like those of the profile are flagged too, up to {:.2} % of them with \
                 {calibrated} calibration prompts ({kept}){}",
                100.0 * most,
                if self.more_than_chance() { "; these are more" } else { "" }
            ));
        }
        if !self.highest.is_empty() {
            let named: Vec<String> =
                self.highest.iter().map(|(score, line)| format!("{line} ({score:.1})")).collect();
            lines.push(format!("least like benign prompts, line (score): {}", named.join(", ")));
        }
        if self.enough() {
            lines.push(format!("stopped at {} flagged lines", self.flagged));
        } else if !self.ended {
            lines.push("stopped before the end of the input".to_owned());
        }
        lines
    }

    fn exit_code(&self) -> u8 {
        let complete = self.ended && self.lines == self.scored as u64;
        if self.enough() || (self.arguments.alerts.is_none() && self.more_than_chance()) {
            exit::FOUND
        } else if !complete && !self.arguments.incomplete_ok {
            exit::INCOMPLETE
        } else {
            exit::PASS
        }
    }
}

/// Whether the reader of the rows is still there.
fn went_on(written: std::io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Machine(format!("cannot write rows: {error}"))),
    }
}
