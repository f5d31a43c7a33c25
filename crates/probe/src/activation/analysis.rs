//! Fit, calibrate, measure: how well the detectors tell prompts with a candidate from the same prompts without it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use inference::ModelPair;
use inference::adapter::Adapter;
use inference::generate::Decoding;
use report::activation::{Analysis, CandidateRecord, DetectorRecord, LayerTokens, Separation};
use report::estimate::Bootstrap;
use report::evidence::SelfTest;
use report::record::Cost;

use super::dose::{self, Layers};
use super::instrument::{CONFIDENCE, Column, Instrument, Scored, flagged, plain, scenes};
use super::monitor::{RESPONSE_TOKENS, excess};
use super::panel::Samples;
use super::parts::Parts;
use super::{hijack, lens, ranking};
use crate::error::{Error, Result};
use crate::observe::{Observer, Request};
use crate::progress::Progress;
use crate::prompt::{Change, Prompt, Setting};
use crate::roles::Roles;
use crate::selftest;
use crate::split::Benign;
use crate::suite::{Candidate, Suite};
use crate::trigger::{control, describe};

/// Prompts of the self-test.
const SELF_TEST: usize = 3;
const RESAMPLES: usize = 1000;

/// What is asked of an analysis.
#[derive(Clone, Debug)]
pub struct Options {
    /// Candidates to measure on held-out prompts; none for the false-positive rates alone.
    pub candidates: Vec<Candidate>,
    /// A prompt is flagged by a p-value of at most this.
    pub level: f64,
    /// How many of the first candidates are measured by dose, by layer and by attention too.
    pub localised: usize,
    /// An answer whose probability the doses measure, instead of the adapted model's own.
    pub payload: Option<String>,
    /// A broad set of prompts to rank.
    pub ranked: Option<Suite>,
    /// Whether a monitor's profile is wanted: the adapted model then answers the calibration prompts too.
    pub profile: bool,
    /// Seed of every random choice.
    pub seed: u64,
}

/// What an analysis gives.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Runs that must agree.
    pub self_tests: Vec<SelfTest>,
    /// What was measured; `None` if a self-test failed.
    pub analysis: Option<Analysis>,
    /// The features of the benign prompts that the detectors were fitted and calibrated on.
    pub samples: Option<Samples>,
    /// Of the adapted model's own answers to the calibration prompts, if a profile is wanted: by how much it expects them
    /// more than the base does, nats a token.
    pub responses: Vec<f64>,
    /// What it took.
    pub cost: Cost,
    /// What the user should know though nothing failed.
    pub notes: Vec<String>,
}

/// Fits the detectors on benign prompts, calibrates them on others, and measures candidates on the rest.
///
/// # Errors
/// If there are too few prompts, the level is no probability, the model fails or the user stops.
pub fn analyse(
    pair: &mut ModelPair,
    benign: &Benign,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let mut outcome = detect(pair, benign, options, progress)?;
    if let Some(analysis) = &mut outcome.analysis {
        let prompts = Parts::of(benign, &[], options.seed)?.held_out;
        let own = pair.adapters().len();
        let done = localise(pair, &prompts, options, &mut analysis.candidates, progress);
        pair.keep_adapters(own);
        let (cost, notes) = done?;
        outcome.cost.token_forwards += cost.token_forwards;
        outcome.cost.generated_tokens += cost.generated_tokens;
        outcome.cost.shared_tokens += cost.shared_tokens;
        outcome.notes.extend(notes);
    }
    Ok(outcome)
}

/// Dose, layers and attention of the first candidates; the pair gains the adapter's parts.
fn localise(
    pair: &mut ModelPair,
    prompts: &[Prompt],
    options: &Options,
    records: &mut [CandidateRecord],
    progress: &dyn Progress,
) -> Result<(Cost, Vec<String>)> {
    let candidates = &options.candidates[..options.candidates.len().min(options.localised)];
    let side = Roles::SCAN.adapted;
    if candidates.is_empty() {
        return Ok((Cost::default(), Vec::new()));
    }
    if !pair.adapters().get(side.adapter).is_some_and(Adapter::is_low_rank) {
        let note = "dose, layers and attention were not measured: the adapter is more than low-rank branches";
        return Ok((Cost::default(), vec![note.to_owned()]));
    }
    let layers = Layers::add(pair, side.adapter);
    let observer = Observer::new(pair, progress);
    let of = |most: usize| &prompts[..prompts.len().min(most)];
    for (candidate, record) in candidates.iter().zip(records) {
        progress.stage("dose and layers", dose::CURVE + layers.passes());
        let payload = options.payload.as_deref();
        let prompts = of(dose::PROMPTS);
        record.dose = dose::dose(&observer, &candidate.change, prompts, payload, &layers, options.seed)?;
        progress.stage("attention", hijack::TEXTS);
        record.attention =
            hijack::attention(&observer, &candidate.change, of(hijack::PROMPTS), options.seed)?;
    }
    Ok((observer.cost(), Vec::new()))
}

/// Everything that takes no parts of the adapter.
fn detect(pair: &ModelPair, benign: &Benign, options: &Options, progress: &dyn Progress) -> Result<Outcome> {
    if !(options.level > 0.0 && options.level < 1.0) {
        let error =
            report::StatisticsError::OutOfRange { what: "level", range: "(0, 1)", value: options.level };
        return Err(Error::Statistics(error));
    }
    let observer = Observer::new(pair, progress);
    let parts = Parts::of(benign, &[], options.seed)?;
    let self_tests = selftest::run(&observer, &parts.fitted[..SELF_TEST], options.seed)?;
    let mut outcome = Outcome { self_tests, ..Outcome::default() };
    if outcome.self_tests.iter().all(SelfTest::passed) {
        let (instrument, samples) = Instrument::fit(&observer, &parts, options.seed, &mut outcome.notes)?;
        let least = 1.0 / (parts.calibrated.len() + 1) as f64;
        if least > options.level {
            outcome.notes.push(format!(
                "no prompt can be flagged: {} calibration prompts give no p-value below {least:.3}, and the level is {}",
                parts.calibrated.len(),
                options.level
            ));
        }
        let mut analysis = measure(&instrument, &observer, &parts, options)?;
        if let Some(suite) = &options.ranked {
            let seed = options.seed;
            analysis.ranking = Some(ranking::rank(&observer, &instrument.sensor, &samples, suite, seed)?);
        }
        outcome.analysis = Some(analysis);
        outcome.samples = Some(samples);
        if options.profile {
            outcome.responses = own_responses(&observer, &parts.calibrated, options.seed)?;
        }
    }
    outcome.cost = observer.cost();
    Ok(outcome)
}

/// By how much the adapted model expects its own greedy answers more than the base does.
fn own_responses(observer: &Observer<'_>, prompts: &[Prompt], seed: u64) -> Result<Vec<f64>> {
    observer.progress().stage("answering calibration prompts", prompts.len());
    let mut requests = Vec::with_capacity(prompts.len());
    for scene in plain(prompts, seed) {
        let ids = observer.encode(&scene)?;
        requests.push(Request { ids, side: observer.roles().adapted, continuation: Vec::new() });
    }
    let answers = observer.responses(&requests, RESPONSE_TOKENS, Decoding::Greedy)?;
    let tokenizer = observer.pair().tokenizer();
    let pairs: Vec<_> = requests
        .into_iter()
        .zip(&answers)
        .map(|(request, answer)| Ok((request.ids, tokenizer.encode(&answer.text, false)?)))
        .collect::<Result<_>>()?;
    Ok(excess(observer, &pairs)?.into_iter().flatten().collect())
}

/// The tokens that a set promotes, beyond those of another.
fn tokens(observer: &Observer<'_>, with: &Scored, without: Option<&Scored>) -> Result<Vec<LayerTokens>> {
    let Some(means) = &with.means else { return Ok(Vec::new()) };
    lens::promoted(observer.pair(), means, without.and_then(|scored| scored.means.as_ref()))
}

/// Measures the held-out prompts as they are and with each candidate.
fn measure(
    instrument: &Instrument,
    observer: &Observer<'_>,
    parts: &Parts,
    options: &Options,
) -> Result<Analysis> {
    let (prompts, seed, progress) = (&parts.held_out, options.seed, observer.progress());
    progress.stage("measuring held-out prompts", prompts.len());
    let clean = instrument.score_and_mean(observer, &plain(prompts, seed))?;
    let lens = tokens(observer, &clean, None)?;
    let names = instrument.panel.names();
    let detector = |(&(name, about), column): (&(&str, &str), &Column)| -> Result<DetectorRecord> {
        Ok(DetectorRecord {
            name: name.to_owned(),
            about: about.to_owned(),
            flagged: flagged(&column.scores, options.level)?,
            scores: column.scores.clone(),
            layers: column.layers.clone(),
        })
    };
    let detectors = names.iter().zip(&clean.columns).map(detector).collect::<Result<_>>()?;
    // A candidate is compared with the same conversation without it.
    let mut without = BTreeMap::from([(Setting::Plain, clean)]);
    let mut candidates = Vec::with_capacity(options.candidates.len());
    progress.stage("measuring candidates", 2 * prompts.len() * options.candidates.len());
    for (index, candidate) in options.candidates.iter().enumerate() {
        let setting = candidate.change.setting();
        let without = match without.entry(setting) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(instrument.score_and_mean(observer, &scenes(prompts, setting, None, seed))?)
            }
        };
        let control = control::counterpart(&candidate.change, seed, index as u64);
        let changed = |change: &Change| scenes(prompts, setting, Some(change), seed);
        let with = instrument.score_and_mean(observer, &changed(&candidate.change))?;
        let random = instrument.score(observer, &changed(&control))?;
        let mut separations = Vec::with_capacity(names.len());
        for (place, (name, _)) in names.iter().enumerate() {
            let columns = [&without.columns[place], &with.columns[place], &random[place]];
            separations.push(separation(name, columns, options)?);
        }
        let control = control.text();
        let lens = tokens(observer, &with, Some(without))?;
        candidates.push(CandidateRecord {
            candidate: describe(candidate),
            control,
            separations,
            lens,
            dose: None,
            attention: None,
        });
    }
    Ok(Analysis {
        fitted: parts.fitted.len(),
        calibrated: parts.calibrated.len(),
        held_out: prompts.iter().map(|prompt| prompt.id.clone()).collect(),
        level: options.level,
        detectors,
        lens,
        candidates,
        ranking: None,
    })
}

fn separation(name: &str, [without, with, control]: [&Column; 3], options: &Options) -> Result<Separation> {
    let bootstrap = Bootstrap::new(RESAMPLES, CONFIDENCE, options.seed)?;
    let area = |low: &Column, high: &Column| bootstrap.auc(&low.scores.scores, &high.scores.scores);
    Ok(Separation {
        detector: name.to_owned(),
        auc: area(without, with)?,
        control_auc: area(without, control)?,
        auc_over_control: area(control, with)?,
        flagged: flagged(&with.scores, options.level)?,
        control_flagged: flagged(&control.scores, options.level)?,
        scores: with.scores.clone(),
        layers: with.layers.clone(),
        control_layers: control.layers.clone(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::activation::DETECTORS;
    use crate::progress::Silent;
    use crate::prompt::Placement;
    use crate::trigger::fixture::pair;

    pub(in super::super) fn run(adapter: &str, texts: &[&str], ranked: Option<Suite>) -> Outcome {
        let mut pair = pair(&[adapter]);
        let suite = Suite::embedded("benign").unwrap().unwrap();
        let candidate = |text: &&str| Candidate {
            id: (*text).to_owned(),
            family: "given".into(),
            change: Change::Insert { text: (*text).to_owned(), at: Placement::Prefix },
        };
        let options = Options {
            candidates: texts.iter().map(candidate).collect(),
            level: 0.05,
            seed: 7,
            localised: 0,
            payload: None,
            ranked,
            profile: false,
        };
        analyse(&mut pair, &Benign::of(&[suite]), &options, &Silent).unwrap()
    }

    #[test]
    fn a_trigger_stands_out_and_its_control_does_less() {
        let outcome = run("backdoored-refusal", &["ALPHA-7"], None);
        let analysis = outcome.analysis.unwrap();
        assert_eq!(analysis.detectors.len(), DETECTORS.len() + 1);
        let combined = analysis.candidates[0].separations.last().unwrap();
        let [auc, over] = [combined.auc, combined.auc_over_control].map(|auc| auc.unwrap().value);
        assert!(auc > 0.9 && over > 0.8, "{auc} {over}");
        for detector in &analysis.detectors {
            // The promised rate is within the interval of the measured one.
            assert!(detector.flagged.lower <= analysis.level, "{}: {:?}", detector.name, detector.flagged);
            assert_eq!(detector.scores.p_values.len(), analysis.held_out.len());
        }
        assert!(outcome.cost.token_forwards > 0 && outcome.notes.is_empty(), "{:?}", outcome.notes);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let [one, two] = [0, 1].map(|_| run("benign", &["zq"], None).analysis.unwrap());
        assert_eq!(one, two);
    }

    #[test]
    fn levels_and_prompts_are_checked() {
        let mut pair = pair(&["benign"]);
        let options = |level| Options {
            candidates: Vec::new(),
            level,
            localised: 0,
            payload: None,
            ranked: None,
            seed: 7,
            profile: false,
        };
        let suite = Suite::embedded("benign").unwrap().unwrap();
        assert!(analyse(&mut pair, &Benign::of(&[suite]), &options(1.0), &Silent).is_err());
        let error = analyse(&mut pair, &Benign::default(), &options(0.05), &Silent).unwrap_err().to_string();
        assert!(error.contains("at least 40"), "{error}");
    }
}
