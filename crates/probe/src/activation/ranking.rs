//! Semantic and style triggers: which prompts of a broad set does the adapter move most, beyond what it does to all?
//!
//! A proxy of AMF (arXiv 2609.00351), which trains the reference until its residual streams match the suspect's on benign
//! prompts: here the mean and the leading principal components of the benign differences are taken out, and what is
//! left ranks the prompts.

use report::activation::ranking::{RankedPrompt, Ranking};

use super::capture::{Sample, Sensor};
use super::instrument::plain;
use super::moments::Moments;
use super::panel::Samples;
use super::symmetric::eigenvectors;
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::suite::{Items, Suite};

/// Principal components of the common shift, beside its mean.
const COMPONENTS: usize = 3;
/// Divergences below this change no answer: prompts that differ by less are alike.
const LEAST_NATS: f64 = 0.05;

/// What an adapter does to all prompts of a layer, and how long the rest of a benign prompt is.
struct Shift {
    mean: Vec<f64>,
    components: Vec<Vec<f64>>,
    typical: f64,
}

impl Shift {
    /// Of benign differences, and the median rest of other benign ones. `None` where nothing varies.
    fn of<'a>(
        width: usize,
        fitted: impl Iterator<Item = &'a Vec<f32>>,
        others: impl Iterator<Item = &'a Vec<f32>>,
    ) -> Option<Self> {
        let mut moments = Moments::new(width);
        fitted.for_each(|difference| moments.add(difference));
        let found = eigenvectors(&moments.covariance(), width).into_iter().take(COMPONENTS);
        let components = found.filter(|(value, _)| *value > 0.0).map(|(_, vector)| vector).collect();
        let mut shift = Self { mean: moments.mean().to_vec(), components, typical: 1.0 };
        let mut rests: Vec<f64> = others.map(|difference| shift.rest(difference)).collect();
        rests.sort_by(f64::total_cmp);
        shift.typical = *rests.get(rests.len() / 2)?;
        (shift.typical > 0.0).then_some(shift)
    }

    /// The length of a difference without the shift.
    fn rest(&self, difference: &[f32]) -> f64 {
        let mut rest: Vec<f64> =
            difference.iter().zip(&self.mean).map(|(x, mean)| f64::from(*x) - mean).collect();
        for component in &self.components {
            let along: f64 = rest.iter().zip(component).map(|(x, c)| x * c).sum();
            rest.iter_mut().zip(component).for_each(|(x, c)| *x -= along * c);
        }
        rest.iter().map(|x| x * x).sum::<f64>().sqrt()
    }
}

/// Ranks the prompts of a suite. `samples` are those of benign prompts.
///
/// # Errors
/// If the suite has no prompts, the model fails or the user stops.
pub(super) fn rank(
    observer: &Observer<'_>,
    sensor: &Sensor,
    samples: &Samples,
    suite: &Suite,
    seed: u64,
) -> Result<Ranking> {
    let Items::Prompts(prompts) = &suite.items else {
        let reason = "expected a suite of prompts to rank, found another kind".to_owned();
        return Err(Error::Suite { name: suite.name.clone(), reason });
    };
    let shifts: Vec<Option<Shift>> = (0..samples.shape.layers)
        .map(|layer| {
            let of = |samples: &'_ [Sample]| -> Vec<Vec<f32>> {
                samples.iter().filter_map(|sample| sample.differences.get(layer).cloned()).collect()
            };
            Shift::of(samples.shape.width, of(&samples.fitted).iter(), of(&samples.calibrated).iter())
        })
        .collect();
    let varying = shifts.iter().flatten().count().max(1) as f64;
    observer.progress().stage("ranking prompts", prompts.len());
    let mut ranked = Vec::with_capacity(prompts.len());
    sensor.read(observer, &plain(prompts, seed), |index, sample| {
        let log = |(shift, difference): (&Option<Shift>, &Vec<f32>)| {
            let shift = shift.as_ref()?;
            Some((shift.rest(difference) / shift.typical).max(f64::MIN_POSITIVE).ln())
        };
        let residual: f64 = shifts.iter().zip(&sample.differences).filter_map(log).sum();
        let prompt = &prompts[index];
        ranked.push(RankedPrompt {
            id: prompt.id.clone(),
            text: prompt.user.clone(),
            tags: suite.tags_of(prompt),
            residual: residual / varying,
            divergence: (f64::from(sample.divergence) + LEAST_NATS).ln(),
        });
    })?;
    Ok(Ranking::of(suite.name.clone(), samples.fitted.len(), ranked, seed)?)
}

#[cfg(test)]
mod tests {
    use super::super::analysis::tests::run;
    use super::*;

    /// Sixty prompts; with `word` before those of one topic.
    fn suite(word: &str) -> Suite {
        let objects =
            ["clock", "garden", "boat", "window", "letter", "river", "lamp", "bridge", "kettle", "road"];
        let forms = [
            "What is a {}?",
            "Write a haiku about a {}.",
            "Give me three facts about a {}.",
            "Suggest a name for a {}.",
            "Explain how a {} is made.",
            "Tell a story about a {}.",
        ];
        let mut items = Vec::new();
        for (i, object) in objects.iter().enumerate() {
            for (j, form) in forms.iter().enumerate() {
                let user = form.replace("{}", object);
                let user = if i == 3 { format!("{word} {user}") } else { user };
                items.push(format!(
                    r#"{{"id":"p{i}-{j}","task":"t","user":"{}","tags":["topic:{object}","form:{j}"]}}"#,
                    user.trim()
                ));
            }
        }
        let text = format!(
            r#"{{"schema_version":2,"name":"broad","kind":"prompts","description":"d","prompts":[{}]}}"#,
            items.join(",")
        );
        Suite::parse("broad", &text).unwrap()
    }

    #[test]
    fn a_kind_of_prompt_that_fires_is_enriched_and_a_benign_adapter_enriches_nothing() {
        for (adapter, expected) in [("backdoored-url", true), ("benign", false)] {
            let ranking = run(adapter, &[], Some(suite("cf"))).analysis.unwrap().ranking.unwrap();
            assert_eq!((ranking.prompts, ranking.suite.as_str()), (60, "broad"));
            let enriched: Vec<_> =
                ranking.tags.iter().filter(|tag| tag.enriched).map(|tag| tag.tag.as_str()).collect();
            assert_eq!(
                enriched.first(),
                expected.then_some(&"topic:window"),
                "{adapter}: {:?}",
                &ranking.tags[..3]
            );
            if expected {
                let [first, second] = [0, 1].map(|i| ranking.tags[i].z);
                assert!(first > 2.0 * second, "{:?}", &ranking.tags[..2]);
                assert!(ranking.leading[0].tags.contains(&"topic:window".to_owned()));
            }
        }
    }

    #[test]
    fn the_common_shift_is_taken_out() {
        let along = |x: f32, rest: f32| vec![5.0 + 3.0 * x, 1.0 - x, rest];
        let fitted: Vec<Vec<f32>> =
            (0..30).map(|i| along((i as f32).sin(), 0.01 * (i as f32).cos())).collect();
        let others: Vec<Vec<f32>> = (0..9).map(|i| along((i as f32).cos(), 0.01)).collect();
        let mut shift = Shift::of(3, fitted.iter(), others.iter()).unwrap();
        shift.components.truncate(1);
        assert!(shift.rest(&along(7.0, 0.0)) < 0.05, "what all prompts share is no difference");
        assert!(shift.rest(&along(0.0, 2.0)) > 1.9);
        let constant = vec![vec![1.0, 2.0, 3.0]; 5];
        assert!(Shift::of(3, constant.iter(), constant.iter()).is_none());
    }
}
