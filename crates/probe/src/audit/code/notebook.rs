//! CODE-014: notebooks, whose cells are run by a click and whose outputs are pages.

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use super::python::{Role, analyse};
use super::shell;
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;

const NOTEBOOK: Rule = Rule {
    id: "CODE-014",
    severity: Severity::High,
    cwe: 829,
    title: "A notebook that runs commands or carries a page",
    help: "Cells start commands or do what model code must not do; outputs with scripts run when the notebook is shown as trusted. Ordinary cells of training are reported as low.",
    remediation: "Read the cells before you run them; clear the outputs.",
    gap: false,
};
/// Libraries whose plots are pages with scripts.
const PLOTS: &[&str] = &[
    "plotly",
    "Plotly",
    "bokeh",
    "Bokeh",
    "vega",
    "altair",
    "mathjax",
    "MathJax",
    "pyvis",
    "ipywidgets",
    "jupyter-widgets",
];

/// `.ipynb` files.
pub(in crate::audit) struct Notebooks;

impl Check for Notebooks {
    fn name(&self) -> &'static str {
        "notebook"
    }

    fn rules(&self) -> &'static [Rule] {
        &[NOTEBOOK]
    }

    fn wants(&self, file: &File) -> bool {
        file.extension() == "ipynb"
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(document) = file.json() else { return };
        let cells = document
            .get("cells")
            .or_else(|| document.pointer("/worksheets/0/cells"))
            .and_then(Value::as_array);
        for (index, cell) in cells.into_iter().flatten().enumerate() {
            let mut add = |part: &str, severity: Severity, message: String, evidence: &str| {
                let finding = Finding::new(&NOTEBOOK, &file.path, message)
                    .at(format!("/cells/{index}/{part}"))
                    .evidence(evidence)
                    .severity(severity);
                findings.in_file(file, finding);
            };
            if cell.get("cell_type").and_then(Value::as_str) == Some("code") {
                let source = joined(cell.get("source").or_else(|| cell.get("input")));
                for (severity, message, evidence) in run_by(&source) {
                    add("source", severity, message, &evidence);
                }
            }
            for output in cell.get("outputs").and_then(Value::as_array).into_iter().flatten() {
                for (kind, content) in output.get("data").and_then(Value::as_object).into_iter().flatten() {
                    if let Some(severity) = page(kind, &joined(Some(content))) {
                        add("outputs", severity, format!("an output of type {kind} runs scripts"), "");
                    }
                }
            }
        }
    }
}

/// Text that a notebook stores as one string or as lines.
fn joined(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(lines)) => lines.iter().filter_map(Value::as_str).collect(),
        _ => String::new(),
    }
}

/// What a cell does: severity, message, evidence.
fn run_by(source: &str) -> Vec<(Severity, String, String)> {
    let mut found = Vec::new();
    let shell_cell = ["%%bash", "%%sh", "%%script", "%%cmd", "%%system", "%%!"]
        .iter()
        .any(|magic| source.trim_start().starts_with(magic));
    let mut python = String::new();
    for (_, line) in shell::logical_lines(source) {
        let bare = line.trim_start();
        let command = bare
            .strip_prefix('!')
            .or_else(|| ["%system ", "%sx ", "%sc "].iter().find_map(|magic| bare.strip_prefix(magic)));
        if shell_cell || command.is_some() {
            let command = command.unwrap_or(bare);
            if let Some(why) = shell::danger(command) {
                found.push((Severity::High, format!("a command {why}"), command.to_owned()));
            }
            python.push('\n');
        } else if bare.starts_with('%') {
            python.push('\n');
        } else {
            python.push_str(&line);
            python.push('\n');
        }
    }
    for act in analyse(&python, Role::Script).acts {
        let evidence = python.lines().nth(act.line - 1).unwrap_or("").to_owned();
        found.push((act.severity, format!("{}: {}", act.rule.id, act.message), evidence));
    }
    found
}

/// How bad an output is that runs scripts, if it does.
fn page(kind: &str, content: &str) -> Option<Severity> {
    let lower = content.to_lowercase();
    let active = kind == "application/javascript"
        || (matches!(kind, "text/html" | "image/svg+xml" | "text/markdown")
            && ["<script", "onerror=", "onload=", "javascript:", "<iframe", "<object", "<embed"]
                .iter()
                .any(|mark| lower.contains(mark)));
    if !active {
        return None;
    }
    let sends = [
        "document.cookie",
        "localstorage",
        "fetch(",
        "xmlhttprequest",
        "sendbeacon",
        "websocket(",
        "eval(",
        "atob(",
    ]
    .iter()
    .any(|call| lower.contains(call));
    let plot = PLOTS.iter().any(|library| content.contains(library));
    Some(match (plot, sends) {
        (true, _) => Severity::Low,
        (false, true) => Severity::High,
        (false, false) => Severity::Medium,
    })
}
