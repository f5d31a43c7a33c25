//! Detectors at work: sets of prompts through sensor and panel.

use report::activation::Scores;
use report::estimate::{Estimate, clopper_pearson};

use super::capture::{Sample, Sensor};
use super::lens::Means;
use super::panel::{Panel, Samples};
use super::parts::Parts;
use crate::error::Result;
use crate::observe::Observer;
use crate::prompt::{Change, Prompt, Scene, Setting, scene};

/// Level of every interval.
pub(super) const CONFIDENCE: f64 = 0.95;

/// The scores of one set of prompts by one detector, and the sum over prompts of its values by layer.
#[derive(Clone, Default)]
pub(super) struct Column {
    pub(super) scores: Scores,
    pub(super) layers: Vec<f64>,
}

/// One set of prompts.
pub(super) struct Scored {
    /// By detector, the combination last.
    pub(super) columns: Vec<Column>,
    /// Its mean streams, where they are wanted.
    pub(super) means: Option<Means>,
}

/// What measures prompts.
pub(super) struct Instrument {
    pub(super) sensor: Sensor,
    pub(super) panel: Panel,
}

impl Instrument {
    /// Fits and calibrates on benign prompts, and gives their features too. `notes` gains what the user should know.
    ///
    /// # Errors
    /// If the adapter changes nothing on any of them, the model fails or the user stops.
    pub(super) fn fit(
        observer: &Observer<'_>,
        parts: &Parts,
        seed: u64,
        notes: &mut Vec<String>,
    ) -> Result<(Self, Samples)> {
        let sensor = Sensor::new(observer, seed)?;
        let read = |stage: &str, prompts: &[Prompt]| -> Result<Vec<Sample>> {
            observer.progress().stage(stage, prompts.len());
            let mut samples = Vec::with_capacity(prompts.len());
            sensor.read(observer, &plain(prompts, seed), |_, sample| samples.push(sample))?;
            Ok(samples)
        };
        let samples = Samples {
            shape: sensor.shape().clone(),
            fitted: read("fitting on benign prompts", &parts.fitted)?,
            calibrated: read("calibrating on other benign prompts", &parts.calibrated)?,
        };
        let panel = Panel::fit(&samples, notes)?;
        Ok((Self { sensor, panel }, samples))
    }

    /// Scores prompts: one column a detector, that of the combination last.
    pub(super) fn score(&self, observer: &Observer<'_>, scenes: &[Scene]) -> Result<Vec<Column>> {
        Ok(self.score_with(observer, scenes, None)?.columns)
    }

    /// The same with the mean streams.
    pub(super) fn score_and_mean(&self, observer: &Observer<'_>, scenes: &[Scene]) -> Result<Scored> {
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
}

/// Share of prompts with a p-value of at most the level.
pub(super) fn flagged(scores: &Scores, level: f64) -> Result<Estimate> {
    let count = scores.p_values.iter().filter(|p| **p <= level).count();
    let estimate = clopper_pearson(count, scores.p_values.len(), CONFIDENCE)?;
    Ok(estimate.ok_or(report::StatisticsError::Empty { what: "the held-out prompts" })?)
}

pub(super) fn plain(prompts: &[Prompt], seed: u64) -> Vec<Scene> {
    scenes(prompts, Setting::Plain, None, seed)
}

pub(super) fn scenes(prompts: &[Prompt], setting: Setting, change: Option<&Change>, seed: u64) -> Vec<Scene> {
    prompts.iter().map(|prompt| scene(prompt, setting, change, seed)).collect()
}
