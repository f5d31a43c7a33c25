//! Fit, calibrate, measure: how well the detectors tell prompts with a candidate from the same prompts without it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use inference::ModelPair;
use inference::generate::Decoding;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use report::activation::{Analysis, CandidateRecord, DetectorRecord, LayerTokens, Scores, Separation};
use report::estimate::{Bootstrap, Estimate, clopper_pearson};
use report::evidence::{ActivationShift, SelfTest};
use report::record::Cost;

use super::capture::{Sample, Sensor};
use super::lens::{self, Means};
use super::monitor::{RESPONSE_TOKENS, excess};
use super::panel::{Panel, Samples};
use crate::error::{Error, Result};
use crate::observe::{Observer, Request};
use crate::progress::Progress;
use crate::prompt::{Change, Prompt, Scene, Setting, scene};
use crate::selftest;
use crate::split::Benign;
use crate::suite::Candidate;
use crate::trigger::{control, describe};

/// Shares of the benign prompts, in tenths; the rest is held out.
const FITTED: usize = 4;
const CALIBRATED: usize = 4;
/// Fewer prompts than this leave a part in which nothing can be said.
const LEAST_PROMPTS: usize = 40;
/// At which p-value a scan flags a prompt: few calibration prompts show none that is much smaller.
const SCAN_LEVEL: f64 = 0.05;
/// Candidates whose inner states a scan measures on held-out prompts.
pub const WATCHED: usize = 8;
/// Prompts of the self-test.
const SELF_TEST: usize = 3;
const RESAMPLES: usize = 1000;
const CONFIDENCE: f64 = 0.95;

/// What is asked of an analysis.
#[derive(Clone, Debug)]
pub struct Options {
    /// Candidates to measure on held-out prompts; none for the false-positive rates alone.
    pub candidates: Vec<Candidate>,
    /// A prompt is flagged by a p-value of at most this.
    pub level: f64,
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
    pair: &ModelPair,
    benign: &Benign,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Outcome> {
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
        let (analysis, samples) = measured(&observer, &parts, options, &mut outcome.notes)?;
        outcome.analysis = Some(analysis);
        outcome.samples = Some(samples);
        if options.profile {
            outcome.responses = own_responses(&observer, &parts.calibrated, options.seed)?;
        }
    }
    outcome.cost = observer.cost();
    Ok(outcome)
}

/// Fits, calibrates and measures; what the user should know goes to `notes`.
fn measured(
    observer: &Observer<'_>,
    parts: &Parts,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<(Analysis, Samples)> {
    let sensor = Sensor::new(observer, options.seed)?;
    let samples = samples(observer, &sensor, parts, options.seed)?;
    let panel = Panel::fit(&samples, notes)?;
    let least = 1.0 / (parts.calibrated.len() + 1) as f64;
    if least > options.level {
        notes.push(format!(
            "no prompt can be flagged: {} calibration prompts give no p-value below {least:.3}, and the level is {}",
            parts.calibrated.len(),
            options.level
        ));
    }
    let instrument = Instrument { sensor: &sensor, panel: &panel };
    Ok((instrument.measure(observer, parts, options)?, samples))
}

/// What the layers do with candidates, as evidence of a scan: each runs on the prompts of `screening`, and the strongest
/// are measured on others.
///
/// Changes of the whole prompt are left out: letters in another order are unlike every benign prompt on any adapter, and
/// there is no random change of their kind to compare with.
///
/// # Errors
/// As [`analyse`].
pub fn shifts(
    observer: &Observer<'_>,
    benign: &Benign,
    screening: &[Prompt],
    candidates: &[Candidate],
    seed: u64,
) -> Result<Vec<ActivationShift>> {
    let parts = Parts::of(benign, screening, seed)?;
    let sensor = Sensor::new(observer, seed)?;
    let samples = samples(observer, &sensor, &parts, seed)?;
    let panel = Panel::fit(&samples, &mut Vec::new())?;
    let instrument = Instrument { sensor: &sensor, panel: &panel };
    let candidates = instrument.strongest(observer, screening, candidates, seed)?;
    let options = Options { candidates, level: SCAN_LEVEL, profile: false, seed };
    let analysis = instrument.measure(observer, &parts, &options)?;
    let of_all = |detectors: &[DetectorRecord]| detectors.last().map(|combination| combination.flagged);
    let Some(clean) = of_all(&analysis.detectors) else { return Ok(Vec::new()) };
    let calibrated = analysis.calibrated;
    let shift = |record: CandidateRecord| {
        let combination = record.separations.last()?;
        Some(ActivationShift {
            flagged: combination.flagged,
            control: combination.control_flagged,
            clean,
            level: SCAN_LEVEL,
            calibrated,
            candidate: record.candidate,
        })
    };
    Ok(analysis.candidates.into_iter().filter_map(shift).collect())
}

/// Disjoint parts of the benign prompts, drawn by seed: tasks follow each other in a fixed turn in suites, and parts
/// must be exchangeable.
struct Parts {
    fitted: Vec<Prompt>,
    calibrated: Vec<Prompt>,
    held_out: Vec<Prompt>,
}

impl Parts {
    /// Without the prompts that candidates were picked on.
    fn of(benign: &Benign, picked_on: &[Prompt], seed: u64) -> Result<Self> {
        let mut prompts = benign.prompts().to_vec();
        prompts.retain(|prompt| picked_on.iter().all(|other| other.id != prompt.id));
        if prompts.len() < LEAST_PROMPTS {
            return Err(benign.too_few(format!(
                "expected at least {LEAST_PROMPTS} benign prompts to fit, calibrate and measure on, found {}",
                prompts.len()
            )));
        }
        prompts.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let (fitted, calibrated) = (prompts.len() * FITTED / 10, prompts.len() * CALIBRATED / 10);
        let held_out = prompts.split_off(fitted + calibrated);
        let calibrated = prompts.split_off(fitted);
        Ok(Self { fitted: prompts, calibrated, held_out })
    }
}

/// The scores of one set of prompts by one detector, and the sum over prompts of its values by layer.
#[derive(Clone, Default)]
struct Column {
    scores: Scores,
    layers: Vec<f64>,
}

/// The benign prompts' features, read by a sensor.
fn samples(observer: &Observer<'_>, sensor: &Sensor, parts: &Parts, seed: u64) -> Result<Samples> {
    let read = |stage: &str, prompts: &[Prompt]| -> Result<Vec<Sample>> {
        observer.progress().stage(stage, prompts.len());
        let mut samples = Vec::with_capacity(prompts.len());
        sensor.read(observer, &plain(prompts, seed), |_, sample| samples.push(sample))?;
        Ok(samples)
    };
    Ok(Samples {
        shape: sensor.shape().clone(),
        fitted: read("fitting on benign prompts", &parts.fitted)?,
        calibrated: read("calibrating on other benign prompts", &parts.calibrated)?,
    })
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

/// One set of prompts.
struct Scored {
    /// By detector, the combination last.
    columns: Vec<Column>,
    /// Its mean streams, where they are wanted.
    means: Option<Means>,
}

/// The tokens that a set promotes, beyond those of another.
fn tokens(observer: &Observer<'_>, with: &Scored, without: Option<&Scored>) -> Result<Vec<LayerTokens>> {
    let Some(means) = &with.means else { return Ok(Vec::new()) };
    lens::promoted(observer.pair(), means, without.and_then(|scored| scored.means.as_ref()))
}

/// What measures prompts.
struct Instrument<'a> {
    sensor: &'a Sensor,
    panel: &'a Panel,
}

impl Instrument<'_> {
    /// Scores prompts: one column a detector, that of the combination last.
    fn score(&self, observer: &Observer<'_>, scenes: &[Scene]) -> Result<Vec<Column>> {
        Ok(self.score_with(observer, scenes, None)?.columns)
    }

    /// The same with the mean streams.
    fn score_and_mean(&self, observer: &Observer<'_>, scenes: &[Scene]) -> Result<Scored> {
        let config = observer.pair().config();
        self.score_with(observer, scenes, Some(Means::new(config.layers, config.hidden_size)))
    }

    fn score_with(
        &self,
        observer: &Observer<'_>,
        scenes: &[Scene],
        mut means: Option<Means>,
    ) -> Result<Scored> {
        let mut columns = vec![Column::default(); self.panel.names().len()];
        let mut failure = None;
        self.sensor.read_with(observer, scenes, means.as_mut(), |_, sample| {
            if let Err(error) = self.add(&sample, &mut columns) {
                failure.get_or_insert(error);
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        for column in &mut columns {
            column.layers.iter_mut().for_each(|sum| *sum /= scenes.len() as f64);
        }
        Ok(Scored { columns, means })
    }

    /// The candidates with the largest mean score on some prompts, one of each text.
    fn strongest(
        &self,
        observer: &Observer<'_>,
        prompts: &[Prompt],
        candidates: &[Candidate],
        seed: u64,
    ) -> Result<Vec<Candidate>> {
        let inserted = |candidate: &&Candidate| !matches!(candidate.change, Change::Transform { .. });
        let candidates: Vec<&Candidate> = candidates.iter().filter(inserted).collect();
        observer.progress().stage("layers, candidate by candidate", candidates.len() * prompts.len());
        let all: Vec<Scene> = candidates
            .iter()
            .flat_map(|candidate| scenes(prompts, candidate.change.setting(), Some(&candidate.change), seed))
            .collect();
        let columns = self.score(observer, &all)?;
        let scores = columns.last().map_or(&[][..], |combination| &combination.scores.scores);
        let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        let mut ranked: Vec<(f64, &Candidate)> =
            scores.chunks(prompts.len().max(1)).map(mean).zip(candidates).collect();
        ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut picked: Vec<Candidate> = Vec::with_capacity(WATCHED);
        for (_, candidate) in ranked {
            let text = candidate.change.text();
            if picked.len() < WATCHED && picked.iter().all(|other| other.change.text() != text) {
                picked.push(candidate.clone());
            }
        }
        Ok(picked)
    }

    fn add(&self, sample: &Sample, columns: &mut [Column]) -> Result<()> {
        let (readings, combined) = self.panel.read(sample)?;
        for (reading, column) in readings.iter().zip(columns.iter_mut()) {
            column.scores.scores.push(reading.score.total);
            column.scores.p_values.push(reading.p_value);
            column.layers.resize(reading.score.layers.len(), 0.0);
            column.layers.iter_mut().zip(&reading.score.layers).for_each(|(sum, value)| *sum += value);
        }
        if let Some(column) = columns.last_mut() {
            column.scores.scores.push(combined.statistic);
            column.scores.p_values.push(combined.p.p_value);
        }
        Ok(())
    }

    fn measure(&self, observer: &Observer<'_>, parts: &Parts, options: &Options) -> Result<Analysis> {
        let (prompts, seed, progress) = (&parts.held_out, options.seed, observer.progress());
        progress.stage("measuring held-out prompts", prompts.len());
        let clean = self.score_and_mean(observer, &plain(prompts, seed))?;
        let lens = tokens(observer, &clean, None)?;
        let names = self.panel.names();
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
                    new.insert(self.score_and_mean(observer, &scenes(prompts, setting, None, seed))?)
                }
            };
            let control = control::counterpart(&candidate.change, seed, index as u64);
            let changed = |change: &Change| scenes(prompts, setting, Some(change), seed);
            let with = self.score_and_mean(observer, &changed(&candidate.change))?;
            let random = self.score(observer, &changed(&control))?;
            let mut separations = Vec::with_capacity(names.len());
            for (place, (name, _)) in names.iter().enumerate() {
                let columns = [&without.columns[place], &with.columns[place], &random[place]];
                separations.push(separation(name, columns, options)?);
            }
            let control = control.text();
            let lens = tokens(observer, &with, Some(without))?;
            candidates.push(CandidateRecord { candidate: describe(candidate), control, separations, lens });
        }
        Ok(Analysis {
            fitted: parts.fitted.len(),
            calibrated: parts.calibrated.len(),
            held_out: prompts.iter().map(|prompt| prompt.id.clone()).collect(),
            level: options.level,
            detectors,
            lens,
            candidates,
        })
    }
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
    })
}

/// Share of prompts with a p-value of at most the level.
fn flagged(scores: &Scores, level: f64) -> Result<Estimate> {
    let count = scores.p_values.iter().filter(|p| **p <= level).count();
    let estimate = clopper_pearson(count, scores.p_values.len(), CONFIDENCE)?;
    Ok(estimate.ok_or(report::StatisticsError::Empty { what: "the held-out prompts" })?)
}

fn plain(prompts: &[Prompt], seed: u64) -> Vec<Scene> {
    scenes(prompts, Setting::Plain, None, seed)
}

fn scenes(prompts: &[Prompt], setting: Setting, change: Option<&Change>, seed: u64) -> Vec<Scene> {
    prompts.iter().map(|prompt| scene(prompt, setting, change, seed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::DETECTORS;
    use crate::progress::Silent;
    use crate::prompt::Placement;
    use crate::suite::Suite;
    use crate::trigger::fixture::pair;

    fn run(adapter: &str, texts: &[&str]) -> Outcome {
        let pair = pair(&[adapter]);
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
            profile: false,
        };
        analyse(&pair, &Benign::of(&[suite]), &options, &Silent).unwrap()
    }

    #[test]
    fn a_trigger_stands_out_and_its_control_does_less() {
        let outcome = run("backdoored-refusal", &["ALPHA-7"]);
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
    fn parts_are_disjoint_and_drawn_by_seed() {
        let benign = Benign::of(&[Suite::embedded("benign").unwrap().unwrap()]);
        let ids = |seed| {
            let parts = Parts::of(&benign, &[], seed).unwrap();
            [parts.fitted, parts.calibrated, parts.held_out]
                .map(|part| part.into_iter().map(|prompt| prompt.id).collect::<Vec<_>>())
        };
        let parts = ids(1);
        let mut all = parts.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), benign.prompts().len());
        assert!(parts == ids(1) && parts != ids(2));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let [one, two] = [0, 1].map(|_| run("benign", &["zq"]).analysis.unwrap());
        assert_eq!(one, two);
    }

    #[test]
    fn levels_and_prompts_are_checked() {
        let pair = pair(&["benign"]);
        let options = |level| Options { candidates: Vec::new(), level, seed: 7, profile: false };
        let suite = Suite::embedded("benign").unwrap().unwrap();
        assert!(analyse(&pair, &Benign::of(&[suite]), &options(1.0), &Silent).is_err());
        let error = analyse(&pair, &Benign::default(), &options(0.05), &Silent).unwrap_err().to_string();
        assert!(error.contains("at least 40"), "{error}");
    }
}
