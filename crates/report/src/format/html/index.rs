//! The page of many adapters: what stands above the tables, and the tables.

use askama::Template;

use super::table::Table;
use super::{SCRIPT, STYLE, policy};
use crate::verdict::Verdict;

/// The whole page.
#[derive(Template)]
#[template(path = "index.html")]
pub(crate) struct Index {
    title: String,
    policy: String,
    style: &'static str,
    script: &'static str,
    tone: &'static str,
    statements: Vec<String>,
    tiles: Vec<Tile>,
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
            title,
            policy: policy(),
            style: STYLE,
            script: SCRIPT,
            tone,
            statements,
            tiles,
            tables,
            caveat,
        }
    }

    /// The page as text.
    pub(crate) fn page(&self) -> Result<String, askama::Error> {
        self.render()
    }
}
