//! The detectors, fitted on some benign prompts and calibrated on others, and what they say of a prompt.

use report::activation::COMBINATION;
use report::significance::{Combined, TailCombination, empirical_p};

use super::capture::{Sample, Shape};
use super::{DETECTORS, Detector, Fitted, Score};
use crate::error::{Error, Result};

/// The features of benign prompts: what detectors are fitted on and ranked against.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// How many features a prompt has.
    pub shape: Shape,
    /// What detectors are fitted on.
    pub fitted: Vec<Sample>,
    /// Others, whose scores are the null.
    pub calibrated: Vec<Sample>,
}

/// The fitted detectors and the scores of the calibration prompts.
pub struct Panel {
    members: Vec<Member>,
    combination: TailCombination,
}

struct Member {
    detector: &'static dyn Detector,
    fitted: Box<dyn Fitted>,
    null: Vec<f64>,
}

/// What one detector says of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its score.
    pub score: Score,
    /// The score's rank among those of the calibration prompts.
    pub p_value: f64,
}

impl Panel {
    /// Fits and calibrates. `notes` gains the detectors that have nothing to measure.
    ///
    /// # Errors
    /// If no detector has anything to measure, or there is no calibration prompt.
    pub fn fit(samples: &Samples, notes: &mut Vec<String>) -> Result<Self> {
        let mut members = Vec::new();
        for &detector in DETECTORS {
            let fit = detector.fit(&samples.shape).and_then(|mut fit| {
                samples.fitted.iter().for_each(|sample| fit.add(sample));
                fit.fitted()
            });
            match fit {
                Some(fitted) => {
                    let null = samples.calibrated.iter().map(|sample| fitted.score(sample).total).collect();
                    members.push(Member { detector, fitted, null });
                }
                None => notes.push(format!(
                    "the detector `{}` has nothing to measure: the adapter has no low-rank branch of its kind, or \
                     changes nothing on benign prompts",
                    detector.name()
                )),
            }
        }
        let columns = members.iter().map(|member| member.null.clone()).collect();
        let Some(combination) = TailCombination::new(columns)? else {
            return Err(Error::Inference(inference::Error::Request(
                "the adapter changes nothing on any benign prompt, so there is nothing to compare with"
                    .into(),
            )));
        };
        Ok(Self { members, combination })
    }

    /// What each detector says of a prompt, and all of them together.
    ///
    /// # Errors
    /// If a score is NaN.
    pub fn read(&self, sample: &Sample) -> Result<(Vec<Reading>, Combined)> {
        let mut readings = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let score = member.fitted.score(sample);
            // There is a calibration prompt, or there would be no combination.
            let p_value = empirical_p(score.total, &member.null)?.map_or(1.0, |p| p.p_value);
            readings.push(Reading { score, p_value });
        }
        let totals: Vec<f64> = readings.iter().map(|reading| reading.score.total).collect();
        Ok((readings, self.combination.combine(&totals)?))
    }

    /// Names of the detectors and what they measure, that of the combination last.
    #[must_use]
    pub fn names(&self) -> Vec<(&'static str, &'static str)> {
        let about = "Fisher's sum over the detectors' p-values, ranked among that of the calibration prompts";
        let members = self.members.iter().map(|member| (member.detector.name(), member.detector.about()));
        members.chain([(COMBINATION, about)]).collect()
    }
}
