//! The page of many adapters: what stands above the tables, plots, and the tables.

use askama::Template;

use super::plot::Plot;
use super::table::Table;
use super::{SCRIPT, STYLE, policy};
use crate::verdict::Verdict;

/// The whole page.
#[derive(Template)]
#[template(path = "index.html")]
pub(crate) struct Index {
    label: &'static str,
    title: String,
    policy: String,
    style: &'static str,
    script: &'static str,
    tone: &'static str,
    statements: Vec<String>,
    tiles: Vec<Tile>,
    plots: Vec<Plot>,
    tables: Vec<Table>,
    caveat: &'static str,
}

/// A count.
pub(crate) struct Tile {
    pub(crate) name: String,
    pub(crate) count: usize,
}

impl Index {
    pub(crate) fn new(
        title: String,
        tone: &'static str,
        statements: Vec<String>,
        tiles: Vec<Tile>,
        tables: Vec<Table>,
        worst: Option<Verdict>,
    ) -> Self {
        let caveat = worst.and_then(Verdict::caveat).unwrap_or_default();
        Self {
            label: "Merged report",
            title,
            policy: policy(),
            style: STYLE,
            script: SCRIPT,
            tone,
            statements,
            tiles,
            plots: Vec::new(),
            tables,
            caveat,
        }
    }

    /// The same under another word for what it is.
    pub(crate) fn titled(mut self, label: &'static str) -> Self {
        self.label = label;
        self
    }

    /// The same with plots above the tables.
    pub(crate) fn with_plots(mut self, plots: Vec<Plot>) -> Self {
        self.plots = plots;
        self
    }

    /// The page as text.
    pub(crate) fn page(&self) -> Result<String, askama::Error> {
        self.render()
    }
}
