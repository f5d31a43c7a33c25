//! The course of a hunt: searches in the order of the table, the test, the nulls, the outcome.

use inference::ModelPair;
use report::evidence::{NullRun, NullTrigger, TestedTrigger};
use report::hunt::{NullRecord, SearchRecord};
use report::record::Cost;
use report::significance::empirical_p;

use super::NEVER_COVERED;
use super::budget::{Budget, Limit};
use super::confirm;
use super::hunt::{Hunt, Null, Options, Outcome, difference};
use super::journal::Journal;
use super::null;
use super::pool::{Depth, Found};
use super::search::{Role, SEARCHES, TriggerSearch, by_name};
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::progress::Progress;
use crate::selftest;
use crate::split::{Benign, SCREENING};

/// Candidates of one text that the record names at most.
const PLACEMENTS_OF_ONE: usize = 2;
/// Candidates that the record names.
const RECORDED: usize = 24;

/// Hunts in the pair's first adapter.
///
/// # Errors
/// If there are too few prompts, or the model or the journal fails. A user's stop is no error: the
/// outcome is marked incomplete, and a kept journal lets the same hunt go on.
pub fn hunt(
    pair: &ModelPair,
    prompts: &Benign,
    options: &Options,
    journal: Journal,
    progress: &dyn Progress,
) -> Result<Outcome> {
    hunt_after(&Observer::new(pair, progress), prompts, options, journal, None)
}

/// What was tested on the same held-out prompts before a hunt began, numeric self-test included.
#[derive(Debug, Default)]
pub struct Before {
    /// Candidates that the correction counts.
    pub planned: usize,
    /// Those that were put to the test.
    pub tested: Vec<TestedTrigger>,
    /// What the adapted model has answered without any trigger.
    pub answers: Vec<String>,
}

/// Hunts where a scan of listed candidates ends. The outcome's evidence holds the triggers tested in both, corrected
/// for the candidates of both; its coverage is that of the hunt, its cost that of the observer.
///
/// # Errors
/// As [`hunt`].
pub fn hunt_after(
    observer: &Observer<'_>,
    prompts: &Benign,
    options: &Options,
    journal: Journal,
    before: Option<Before>,
) -> Result<Outcome> {
    let progress = observer.progress();
    let mut outcome = Outcome::default();
    let mut hunt = Hunt::new(observer, prompts, options, journal)?;
    let sound = before.is_some();
    let Before { planned, tested, answers } = before.unwrap_or_default();
    hunt.evaluated = planned as u64;
    hunt.tested = tested;
    let replayed = hunt.journal.replayable();
    if replayed > 0 {
        progress.note(&format!("going on with an interrupted hunt: {replayed} measurements are known"));
    }
    let end = hunt.run(options, sound, &answers, &mut outcome).and_then(|()| {
        outcome.hunt.nulls.extend(null::random_strings(&mut hunt)?);
        hunt.null_runs(prompts, options, &mut outcome)
    });
    outcome.hunt.budget = options.limit.to_string();
    outcome.hunt.targets =
        hunt.targets.iter().chain(&hunt.behind).map(|target| target.record.clone()).collect();
    outcome.hunt.target_costs = std::mem::take(&mut hunt.target_costs);
    outcome.hunt.strongest = hunt
        .pool
        .distinct(Depth::Middle, RECORDED, PLACEMENTS_OF_ONE)
        .into_iter()
        .map(Found::proposed)
        .collect();
    outcome.coverage.candidates_planned = hunt.evaluated as usize - planned;
    outcome.coverage.candidates_screened = outcome.coverage.candidates_planned;
    // What was tried after the last test counts too.
    confirm::correct(&mut hunt.tested, hunt.evaluated as usize)?;
    outcome.evidence.tested = std::mem::take(&mut hunt.tested);
    outcome.cost = observer.cost();
    match end {
        Ok(()) => outcome.coverage.complete = true,
        Err(Error::Stopped) => outcome
            .coverage
            .not_tested
            .push("the hunt was stopped before its end; what follows is partial".into()),
        Err(error) => return Err(error),
    }
    outcome.coverage.not_tested.push(NOT_SEARCHED.to_owned());
    outcome.coverage.not_tested.extend(NEVER_COVERED.iter().map(|&text| text.to_owned()));
    Ok(outcome)
}

/// What no hunt of this kind can find, said every time.
const NOT_SEARCHED: &str =
    "triggers of which no single token and no combination that was tried moves the adapted model";

/// Searches and tests in another pair of roles, where nobody hid a trigger, as in the hunt itself.
fn null_run(
    observer: &Observer<'_>,
    null: &Null,
    prompts: &Benign,
    options: &Options,
    limit: Limit,
    journal: &mut Journal,
) -> Result<NullRun> {
    let mut hunt = Hunt::new(observer, prompts, options, std::mem::take(journal))?;
    hunt.budget = Budget::new(limit);
    let end = hunt.seek(options, &mut Outcome::default());
    *journal = std::mem::take(&mut hunt.journal);
    end?;
    let strongest = hunt.tested.iter().max_by(|a, b| a.uplift.value.total_cmp(&b.uplift.value));
    Ok(NullRun {
        name: null.name.clone(),
        token_forwards: observer.cost().token_forwards,
        nats: null::strongest(&hunt).map(|(_, nats)| nats),
        strongest: strongest.map(|tested| NullTrigger {
            candidate: tested.candidate.clone(),
            payload: tested.payload.clone(),
            uplift: tested.uplift,
        }),
    })
}

impl Hunt<'_> {
    /// Runs the same searches and tests on each null, for as much as the hunt itself has spent, and ranks the strongest
    /// candidate among theirs.
    fn null_runs(&mut self, prompts: &Benign, options: &Options, outcome: &mut Outcome) -> Result<()> {
        let limit = self.budget.spent_as_limit();
        for null in &options.nulls {
            let progress = self.observer.progress();
            progress.note(&format!("null: the same searches on {}", null.name));
            let observer = Observer::in_roles(self.observer.pair(), progress, null.roles);
            let run = null_run(&observer, null, prompts, options, limit, &mut self.journal);
            self.observer.charge(observer.cost());
            outcome.evidence.null_runs.push(run?);
        }
        let strongest: Vec<f64> = outcome.evidence.null_runs.iter().filter_map(|run| run.nats).collect();
        if let (Some((_, nats)), false) = (null::strongest(self), strongest.is_empty()) {
            let name = format!("strongest candidates of {} null runs", strongest.len());
            outcome.hunt.nulls.push(NullRecord { name, p: empirical_p(nats, &strongest)?, nats: strongest });
        }
        Ok(())
    }

    /// Searches, tests, and takes apart what is confirmed; `sound` if the numeric self-test has passed already.
    fn run(
        &mut self,
        options: &Options,
        sound: bool,
        answers: &[String],
        outcome: &mut Outcome,
    ) -> Result<()> {
        if !sound {
            let screening = &self.movements.prompts()[..SCREENING];
            outcome.evidence.self_tests = selftest::run(self.observer, screening, self.seed)?;
            if outcome.evidence.self_tests.iter().any(|test| !test.passed()) {
                return Ok(());
            }
        }
        if self.seek(options, outcome)? {
            self.characterise()?;
        } else {
            outcome.evidence.taught = self.taught(answers)?;
            if let Some(taught) = outcome.evidence.taught.first() {
                outcome.coverage.tested.push(format!(
                    "{} answers that the adapted model knows by heart, looked for in {} ordinary ones",
                    outcome.evidence.taught.len(),
                    taught.shown.n
                ));
            }
        }
        self.score_examples()?;
        outcome.coverage.tested.push(format!(
            "the {} strongest on {} development prompts, those with a payload on {} held-out prompts",
            self.put_to_test.len(),
            self.development.len(),
            self.held_out.len()
        ));
        Ok(())
    }

    /// Runs the searches in the order of the table, each within its share, until a trigger is confirmed. Returns whether
    /// one is.
    fn seek(&mut self, options: &Options, outcome: &mut Outcome) -> Result<bool> {
        let selected: Vec<&'static dyn TriggerSearch> = SEARCHES
            .iter()
            .copied()
            .filter(|search| options.searches.iter().any(|asked| asked.name() == search.name()))
            .collect();
        for (index, &search) in selected.iter().enumerate() {
            let left: f64 = selected[index..].iter().map(|search| search.share()).sum();
            self.budget.open_share(search.share() / left);
            self.search = search.name();
            let before = self.evaluated;
            self.entered(search.name(), outcome, |hunt| search.run(hunt))?;
            outcome.coverage.tested.push(format!(
                "{}: {} ({} candidates)",
                search.name(),
                search.about(),
                self.evaluated - before
            ));
            if search.role() == Role::Refine && self.settled(outcome)? {
                return Ok(true);
            }
        }
        self.settled(outcome)
    }

    /// Puts what was found to the test, strengthens what is weak and refines what is confirmed. Returns whether a trigger
    /// is confirmed: refining can show that the payload takes no answer's place.
    fn settled(&mut self, outcome: &mut Outcome) -> Result<bool> {
        self.budget.open_share(1.0);
        let confirmed = self.entered("test", outcome, Self::put_to_test)?
            || self.entered("strengthen", outcome, Self::strengthen)?;
        if confirmed {
            self.entered("refine", outcome, Self::refine)?;
        }
        Ok(self.confirmed())
    }

    /// Runs a search or what follows on searches, and adds what it tried and spent to the row of its name.
    fn entered<T>(
        &mut self,
        name: &'static str,
        outcome: &mut Outcome,
        step: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (cost, evaluated) = (self.observer.cost(), self.evaluated);
        self.cut_short = false;
        let end = step(self);
        let spent = difference(self.observer.cost(), cost);
        if by_name(name).is_none() && spent == Cost::default() {
            // Nothing followed.
            return end;
        }
        let rows = &mut outcome.hunt.searches;
        let at = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            rows.push(SearchRecord { name: name.to_owned(), complete: true, ..SearchRecord::default() });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.candidates += self.evaluated - evaluated;
        row.token_forwards += spent.token_forwards;
        row.gradient_tokens += spent.gradient_tokens;
        row.complete &= end.is_ok() && !self.cut_short && !self.budget.exhausted();
        let mut ranked = self.pool.ranked(Depth::Middle).into_iter();
        row.best = ranked.find(|found| found.search == name).map(Found::proposed);
        end
    }
}
