//! The report for a terminal: how well each detector separates, then where in the depth.

use std::fmt::Write as _;

use anstyle::Style;

use super::dose::{Attention, Dose, Rise};
use super::ranking::{RankedBy, Ranking};
use super::{ActivationReport, Analysis, CandidateRecord, DetectorRecord, LayerTokens, PromotedToken};
use crate::escape::{escape, excerpt};
use crate::estimate::Estimate;

const BOLD: Style = Style::new().bold();
const EXCERPT: usize = 60;
/// Tokens that are shown of a layer.
const TOKENS: usize = 5;
/// Prompts and tags that are shown of a ranking.
const LEADING: usize = 8;
/// Layers from one that is shown to the next.
const LAYERS_APART: usize = 4;

pub(super) fn text(report: &ActivationReport) -> String {
    let mut page = String::new();
    let (adapter, base) = (escape(&report.subject.adapter.name), escape(&report.subject.base.name));
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{BOLD}Activations{BOLD:#}  {adapter}  on  {base}");
    match &report.analysis {
        Some(analysis) => measured(&mut page, analysis),
        None => {
            for test in report.self_tests.iter().filter(|test| !test.passed()) {
                let _ = writeln!(
                    page,
                    "self-test failed: {}: {:.1e}, tolerance {:.1e}; nothing was measured",
                    escape(&test.name),
                    test.difference,
                    test.tolerance
                );
            }
        }
    }
    for note in &report.notes {
        let _ = writeln!(page, "note: {}", escape(note));
    }
    let cost = &report.cost;
    let _ = writeln!(
        page,
        "\n{} token-forwards (and {} shared)  seed {}  {} {}",
        cost.token_forwards,
        cost.shared_tokens,
        report.settings.seed,
        report.settings.device,
        report.settings.dtype
    );
    page
}

fn measured(page: &mut String, analysis: &Analysis) {
    let _ = writeln!(
        page,
        "fitted on {} benign prompts, calibrated on {} others, measured on {} held-out ones; flagged at p <= {}",
        analysis.fitted,
        analysis.calibrated,
        analysis.held_out.len(),
        analysis.level
    );
    let _ = writeln!(page, "\n{BOLD}Detectors{BOLD:#}");
    for detector in &analysis.detectors {
        let _ = writeln!(
            page,
            "  {:<12} false positives {}  {}",
            detector.name,
            interval(&detector.flagged),
            escape(&detector.about)
        );
    }
    promoted(page, "Tokens that the adapter promotes", &analysis.lens);
    for candidate in &analysis.candidates {
        separations(page, candidate);
        promoted(page, "  Tokens that it promotes with this text", &candidate.lens);
        profile(page, &analysis.detectors, candidate);
        if let Some(attention) = &candidate.attention {
            attended(page, attention);
        }
        if let Some(dose) = &candidate.dose {
            dosed(page, dose);
        }
    }
    if let Some(ranking) = &analysis.ranking {
        ranked(page, ranking);
    }
}

/// How much the answer attends to the text.
fn attended(page: &mut String, attention: &Attention) {
    let strongest =
        attention.layers.iter().enumerate().max_by(|(_, a), (_, b)| a.adapted.total_cmp(&b.adapted));
    let _ = write!(
        page,
        "\n  {BOLD}attention{BOLD:#}  adapted over base {:.2} times, p {:.3} among {} random texts",
        attention.score.exp(),
        attention.p_value,
        attention.controls.len()
    );
    if let Some((layer, at)) = strongest {
        let _ = write!(
            page,
            "; most in layer {layer}: {:.2} of it (base {:.2}; on random texts {:.2}, base {:.2})",
            at.adapted, at.base, at.control_adapted, at.control_base
        );
    }
    page.push('\n');
}

/// The curve at some scales, its rise, and the layers that matter most.
fn dosed(page: &mut String, dose: &Dose) {
    let whose = if dose.given { "the given answer" } else { "its own answers, such as" };
    let _ = writeln!(
        page,
        "  {BOLD}dose{BOLD:#}  mean probability of {whose} `{}`, {} prompts",
        excerpt(&dose.payload, EXCERPT),
        dose.prompts
    );
    for (name, value) in [
        ("scale", (|point| point.scale) as fn(&super::dose::DosePoint) -> f64),
        ("with it", |point| point.triggered),
        ("without", |point| point.clean),
    ] {
        let _ = write!(page, "    {name:<8}");
        for point in dose.points.iter().step_by(2) {
            let _ = write!(page, " {:>7}", small(value(point)));
        }
        page.push('\n');
    }
    let said = |rise: &Option<Rise>| match rise {
        Some(rise) => format!(
            "from {} to {}, half of it at scale {:.2}, a tenth to nine tenths within {:.2}",
            small(rise.from),
            small(rise.to),
            rise.threshold,
            rise.width
        ),
        None => "does not rise".to_owned(),
    };
    let _ = writeln!(page, "    with it: {}\n    without: {}", said(&dose.triggered), said(&dose.clean));
    for (what, share) in [
        ("lost without layers", (|layer| layer.lost) as fn(&super::dose::LayerEffect) -> Option<f64>),
        ("brought by layers alone", |layer| layer.brought),
    ] {
        let mut order: Vec<_> = dose.layers.iter().filter_map(|layer| Some((share(layer)?, layer))).collect();
        order.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        if order.is_empty() {
            continue;
        }
        let _ = write!(page, "    {what}:");
        for (share, layer) in order.iter().take(TOKENS) {
            let _ = write!(page, "  {} {share:.2}", layer.name());
        }
        page.push('\n');
    }
}

/// A probability, which may be small.
fn small(value: f64) -> String {
    if value >= 0.01 || value.abs() <= 0.0 { format!("{value:.2}") } else { format!("{value:.0e}") }
}

/// The leading prompts and tags.
fn ranked(page: &mut String, ranking: &Ranking) {
    let _ = writeln!(
        page,
        "\n{BOLD}Prompts that the adapter moves most{BOLD:#}  {} of `{}`",
        ranking.prompts,
        escape(&ranking.suite)
    );
    let _ = writeln!(page, "  {:>8} {:>10}  prompt", "residual", "divergence");
    for prompt in ranking.leading.iter().take(LEADING) {
        let _ = writeln!(
            page,
            "  {:>8.2} {:>10.2}  {}  [{}]",
            prompt.residual,
            prompt.divergence,
            excerpt(&prompt.text, EXCERPT),
            escape(&prompt.tags.join(", "))
        );
    }
    let enriched = ranking.tags.iter().filter(|tag| tag.enriched).count();
    let _ = writeln!(page, "  {enriched} enriched tags; the strongest:");
    for tag in ranking.tags.iter().take(LEADING) {
        let _ = writeln!(
            page,
            "  {} {:<24} by {:<10} z {:>6.2}  q {:.4}  {} prompts",
            if tag.enriched { "*" } else { " " },
            escape(&tag.tag),
            match tag.by {
                RankedBy::Residual => "residual",
                RankedBy::Divergence => "divergence",
            },
            tag.z,
            tag.q_value,
            tag.prompts
        );
    }
}

fn separations(page: &mut String, candidate: &CandidateRecord) {
    let _ = writeln!(
        page,
        "\n{BOLD}{}{BOLD:#}  {}  against `{}` as control",
        excerpt(&candidate.candidate.text, EXCERPT),
        escape(&candidate.candidate.placement),
        excerpt(&candidate.control, EXCERPT)
    );
    let _ = writeln!(
        page,
        "  {:<12} {:<20} {:<20} {:<20} {:<20} {:<20}",
        "detector", "AUC", "AUC of control", "AUC over control", "flagged", "control flagged"
    );
    let area = |auc: &Option<Estimate>| auc.as_ref().map_or_else(|| "too few".to_owned(), interval);
    for separation in &candidate.separations {
        let _ = writeln!(
            page,
            "  {:<12} {:<20} {:<20} {:<20} {:<20} {:<20}",
            separation.detector,
            area(&separation.auc),
            area(&separation.control_auc),
            area(&separation.auc_over_control),
            interval(&separation.flagged),
            interval(&separation.control_flagged)
        );
    }
}

/// The tokens of every fourth layer and the last, by both lenses.
fn promoted(page: &mut String, title: &str, layers: &[LayerTokens]) {
    let Some(last) = layers.last() else { return };
    let _ = writeln!(page, "\n{BOLD}{title}{BOLD:#}  (difference of the streams; what they would answer)");
    for layer in layers.iter().filter(|layer| layer.layer % LAYERS_APART == 0 || layer.layer == last.layer) {
        let names = |tokens: &[PromotedToken]| -> String {
            let names: Vec<String> =
                tokens.iter().take(TOKENS).map(|token| format!("`{}`", excerpt(&token.text, 16))).collect();
            names.join(" ")
        };
        let _ =
            writeln!(page, "  {:<6} {:<64} {}", layer.layer, names(&layer.difference), names(&layer.logit));
    }
}

/// Mean of each detector by layer, without and with the candidate.
fn profile(page: &mut String, detectors: &[DetectorRecord], candidate: &CandidateRecord) {
    let shown: Vec<(&DetectorRecord, &[f64])> = detectors
        .iter()
        .zip(&candidate.separations)
        .filter(|(detector, _)| !detector.layers.is_empty())
        .map(|(detector, separation)| (detector, &separation.layers[..]))
        .collect();
    let Some((first, _)) = shown.first() else { return };
    let _ = write!(page, "  {:<6}", "layer");
    for (detector, _) in &shown {
        let _ = write!(page, " {:>22}", detector.name);
    }
    page.push('\n');
    for layer in 0..first.layers.len() {
        let _ = write!(page, "  {layer:<6}");
        for (detector, with) in &shown {
            let at = |layers: &[f64]| {
                layers.get(layer).map_or_else(|| "-".to_owned(), |mean| format!("{mean:.3}"))
            };
            let _ = write!(page, " {:>22}", format!("{} -> {}", at(&detector.layers), at(with)));
        }
        page.push('\n');
    }
}

fn interval(estimate: &Estimate) -> String {
    format!("{:.2} [{:.2}, {:.2}]", estimate.value, estimate.lower, estimate.upper)
}
