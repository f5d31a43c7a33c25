//! The page of inner states: profiles over the layers, dose curves, what layers bring, and a table for each plot.

use askama::Template;

use super::plot::{self, ADAPTED, BASE, Line, NULL, Plot};
use super::table::{Cell, Table, p_value};
use super::{SCRIPT, STYLE, policy};
use crate::activation::dose::{Attention, Dose, Rise};
use crate::activation::ranking::{RankedBy, Ranking};
use crate::activation::{ActivationReport, Analysis, CandidateRecord, LayerTokens};
use crate::format::FormatError;

/// Tokens that are named of a layer.
const TOKENS: usize = 5;

/// The whole page.
#[derive(Template)]
#[template(path = "activations.html")]
struct Page<'a> {
    report: &'a ActivationReport,
    policy: String,
    style: &'static str,
    script: &'static str,
    statements: Vec<String>,
    sections: Vec<Section>,
}

/// Plots and tables under one heading.
struct Section {
    title: &'static str,
    /// The candidate's text, if it is about one.
    text: String,
    about: String,
    plots: Vec<Plot>,
    tables: Vec<Table>,
}

/// The report as a page.
pub(crate) fn page(report: &ActivationReport) -> Result<String, FormatError> {
    let page = Page {
        report,
        policy: policy(),
        style: STYLE,
        script: SCRIPT,
        statements: statements(report),
        sections: report.analysis.as_ref().map(sections).unwrap_or_default(),
    };
    page.render().map_err(|error| FormatError::new("html", error))
}

fn statements(report: &ActivationReport) -> Vec<String> {
    let Some(analysis) = &report.analysis else {
        return vec!["Nothing was measured; the notes and self-tests say why.".to_owned()];
    };
    let mut statements = vec![format!(
        "Detectors were fitted on {} benign prompts and calibrated on {} others; {} held-out ones were measured, flagged \
         at p <= {}.",
        analysis.fitted,
        analysis.calibrated,
        analysis.held_out.len(),
        analysis.level
    )];
    if let Some(detector) = analysis.detectors.last() {
        statements.push(format!("{:.1} % of them are flagged as they are.", 100.0 * detector.flagged.value));
    }
    for candidate in &analysis.candidates {
        let Some(all) = candidate.separations.last() else { continue };
        statements.push(format!(
            "With {:?} {:.1} % are flagged, with random words in its place {:.1} %.",
            candidate.candidate.text,
            100.0 * all.flagged.value,
            100.0 * all.control_flagged.value
        ));
    }
    statements
}

fn sections(analysis: &Analysis) -> Vec<Section> {
    let mut sections = vec![detectors(analysis)];
    for candidate in &analysis.candidates {
        sections.push(profiles(analysis, candidate));
        sections.extend(candidate.attention.as_ref().map(|attention| attended(candidate, attention)));
        sections.extend(candidate.dose.as_ref().map(|dose| dosed(candidate, dose)));
    }
    sections.extend(analysis.ranking.as_ref().map(ranked));
    for (place, section) in sections.iter_mut().enumerate() {
        // Candidates have the same tables.
        section.tables.retain(|table| !table.rows.is_empty());
        section.tables.iter_mut().for_each(|table| table.id = format!("{}-{place}", table.id).into());
    }
    sections
}

fn detectors(analysis: &Analysis) -> Section {
    let mut table = Table::new(
        "detectors",
        "Detectors on held-out benign prompts",
        &["detector", "what it measures", "#flagged"],
    );
    for detector in &analysis.detectors {
        table.rows.push(vec![
            Cell::words(&detector.name),
            Cell::words(&detector.about),
            Cell::estimate(&detector.flagged, 3),
        ]);
    }
    Section {
        title: "Detectors",
        text: String::new(),
        about: "The share of benign prompts that each flags is its rate of false positives.".to_owned(),
        plots: Vec::new(),
        tables: vec![table, promoted("adapter-tokens", "Tokens that the adapter promotes", &analysis.lens)],
    }
}

/// How well a candidate stands out, and where in the depth.
fn profiles(analysis: &Analysis, candidate: &CandidateRecord) -> Section {
    let mut areas = Table::new(
        "separations",
        "How well each detector tells prompts with the text from the same prompts without it",
        &[
            "detector",
            "#AUC",
            "#AUC of random words",
            "#AUC over random words",
            "#flagged",
            "#random words flagged",
        ],
    );
    let mut layers = Table::new(
        "profiles",
        "Means by layer",
        &["detector", "#layer", "#without", "#with random words", "#with the text"],
    );
    let mut plots = Vec::new();
    for (detector, separation) in analysis.detectors.iter().zip(&candidate.separations) {
        let area = |auc: &Option<crate::estimate::Estimate>| {
            auc.as_ref().map_or_else(|| Cell::number(None, 3), |auc| Cell::estimate(auc, 3))
        };
        areas.rows.push(vec![
            Cell::words(&separation.detector),
            area(&separation.auc),
            area(&separation.control_auc),
            area(&separation.auc_over_control),
            Cell::estimate(&separation.flagged, 3),
            Cell::estimate(&separation.control_flagged, 3),
        ]);
        let means = [&detector.layers, &separation.control_layers, &separation.layers];
        for layer in 0..detector.layers.len() {
            let mut row = vec![Cell::words(&detector.name), Cell::number(layer as f64, 0)];
            row.extend(means.map(|means| Cell::number(means.get(layer).copied(), 4)));
            layers.rows.push(row);
        }
        let line = |name, colour, means: &[f64]| Line { name, colour, points: by_layer(means) };
        let lines = [
            line("without", BASE, means[0]),
            line("random words", NULL, means[1]),
            line("with the text", ADAPTED, means[2]),
        ];
        plots.extend(plot::lines(&detector.name, ["layer", "mean over prompts"], &lines));
    }
    Section {
        title: "Profiles with",
        text: candidate.candidate.text.clone(),
        about: format!(
            "Held-out prompts without the text, with random words in its place ({}), and with it ({}).",
            crate::escape::excerpt(&candidate.control, 60),
            candidate.candidate.placement
        ),
        plots,
        tables: vec![
            areas,
            layers,
            promoted("candidate-tokens", "Tokens that the adapter promotes with the text", &candidate.lens),
        ],
    }
}

fn promoted(id: &'static str, caption: &'static str, layers: &[LayerTokens]) -> Table {
    let mut table =
        Table::new(id, caption, &["#layer", "difference of the streams", "what they would answer"]);
    for layer in layers {
        let names = |tokens: &[crate::activation::PromotedToken]| -> Cell {
            let names: Vec<String> = tokens
                .iter()
                .take(TOKENS)
                .map(|token| format!("{} ({:.2})", token.text, token.value))
                .collect();
            Cell::raw(&names.join("  "))
        };
        table.rows.push(vec![
            Cell::number(layer.layer as f64, 0),
            names(&layer.difference),
            names(&layer.logit),
        ]);
    }
    table
}

fn attended(candidate: &CandidateRecord, attention: &Attention) -> Section {
    let line = |name, colour, share: fn(&crate::activation::dose::AttentionLayer) -> f64| Line {
        name,
        colour,
        points: by_layer(&attention.layers.iter().map(share).collect::<Vec<_>>()),
    };
    let lines = [
        line("base", BASE, |layer| layer.base),
        line("adapted", ADAPTED, |layer| layer.adapted),
        line("adapted, random", NULL, |layer| layer.control_adapted),
    ];
    let mut table = Table::new(
        "attention",
        "Share of attention from the position at which the answer begins",
        &["#layer", "#base", "#adapted", "#base on random texts", "#adapted on random texts"],
    );
    for (layer, at) in attention.layers.iter().enumerate() {
        let mut row = vec![Cell::number(layer as f64, 0)];
        row.extend(
            [at.base, at.adapted, at.control_base, at.control_adapted].map(|share| Cell::number(share, 4)),
        );
        table.rows.push(row);
    }
    Section {
        title: "Attention on",
        text: candidate.candidate.text.clone(),
        about: format!(
            "The adapted model attends {:.2} times as much to the text as the base does; p {:.3} among {} random texts, \
             which have {:.2} times on average.",
            attention.score.exp(),
            attention.p_value,
            attention.controls.len(),
            (attention.controls.iter().sum::<f64>() / attention.controls.len().max(1) as f64).exp()
        ),
        plots: plot::lines("Attention on the text", ["layer", "share"], &lines).into_iter().collect(),
        tables: vec![table],
    }
}

fn dosed(candidate: &CandidateRecord, dose: &Dose) -> Section {
    let curve = |name, colour, value: fn(&crate::activation::dose::DosePoint) -> f64| Line {
        name,
        colour,
        points: dose.points.iter().map(|point| (point.scale, value(point))).collect(),
    };
    let lines = [
        curve("without", BASE, |point| point.clean),
        curve("with the text", ADAPTED, |point| point.triggered),
    ];
    let mut plots: Vec<Plot> =
        plot::lines("Dose and response", ["scale of the adapter", "mean probability"], &lines)
            .into_iter()
            .collect();
    let single = || dose.layers.iter().filter(|layer| layer.first == layer.last);
    let share = |name, colour, value: fn(&crate::activation::dose::LayerEffect) -> Option<f64>| Line {
        name,
        colour,
        points: single().filter_map(|layer| Some((layer.first as f64, value(layer)?))).collect(),
    };
    let shares = [
        share("lost without", ADAPTED, |layer| layer.lost),
        share("brought alone", BASE, |layer| layer.brought),
    ];
    plots.extend(plot::lines("What each layer does", ["layer", "share of the adapter's effect"], &shares));
    let mut points = Table::new(
        "dose",
        "The payload by scale of the adapter",
        &["#scale", "#probability with the text", "#without", "#nats a token with the text", "#without"],
    );
    for point in &dose.points {
        points.rows.push(vec![
            Cell::number(point.scale, 1),
            Cell::p_value(point.triggered),
            Cell::p_value(point.clean),
            Cell::number(point.triggered_nats, 3),
            Cell::number(point.clean_nats, 3),
        ]);
    }
    let mut layers = Table::new(
        "layers",
        "The payload with the text, without some layers' changes and with them alone",
        &["layers", "#nats a token without", "#with them alone", "#share lost", "#share brought"],
    );
    for layer in &dose.layers {
        layers.rows.push(vec![
            Cell::words(&layer.name()),
            Cell::number(layer.without_nats, 3),
            Cell::number(layer.only_nats, 3),
            Cell::number(layer.lost, 3),
            Cell::number(layer.brought, 3),
        ]);
    }
    let said = |rise: &Option<Rise>| {
        rise.map_or("does not rise".to_owned(), |rise| {
            format!(
                "goes from {} to {}, half of it at scale {:.2}, from a tenth to nine tenths within {:.2}",
                p_value(rise.from),
                p_value(rise.to),
                rise.threshold,
                rise.width
            )
        })
    };
    Section {
        title: "Dose and layers of",
        text: candidate.candidate.text.clone(),
        about: format!(
            "The mean probability of {} {:?} as the adapter is scaled, on {} prompts: with the text it {}; without it \
             {}.",
            if dose.given { "the answer" } else { "its own answers, such as" },
            dose.payload,
            dose.prompts,
            said(&dose.triggered),
            said(&dose.clean)
        ),
        plots,
        tables: vec![points, layers],
    }
}

fn ranked(ranking: &Ranking) -> Section {
    let mut tags = Table::new(
        "tags",
        "Kinds of prompt",
        &["enriched", "tag", "by", "#robust z", "#p", "#q", "#prompts"],
    );
    for tag in &ranking.tags {
        tags.rows.push(vec![
            Cell::words(if tag.enriched { "yes" } else { "" }),
            Cell::raw(&tag.tag),
            Cell::words(match tag.by {
                RankedBy::Residual => "residual",
                RankedBy::Divergence => "divergence",
            }),
            Cell::number(tag.z, 2),
            Cell::p_value(tag.p_value),
            Cell::p_value(tag.q_value),
            Cell::number(tag.prompts as f64, 0),
        ]);
    }
    let mut prompts = Table::new(
        "leading",
        "Prompts with the largest differences",
        &["prompt", "tags", "#residual", "#log divergence"],
    );
    for prompt in &ranking.leading {
        prompts.rows.push(vec![
            Cell::raw(&prompt.text),
            Cell::raw(&prompt.tags.join(", ")),
            Cell::number(prompt.residual, 3),
            Cell::number(prompt.divergence, 3),
        ]);
    }
    Section {
        title: "Prompts that the adapter moves most, of",
        text: ranking.suite.clone(),
        about: format!(
            "{} prompts by their residual difference without the common shift of {} benign prompts. A tag is enriched \
             where its prompts lead (q <= 0.01) and lie at least three robust deviations beyond all.",
            ranking.prompts, ranking.fitted
        ),
        plots: Vec::new(),
        tables: vec![tags, prompts],
    }
}

fn by_layer(means: &[f64]) -> Vec<(f64, f64)> {
    means.iter().enumerate().map(|(layer, mean)| (layer as f64, *mean)).collect()
}
