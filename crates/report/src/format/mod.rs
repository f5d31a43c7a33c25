//! Forms of a record for people and programs. A new one is one file and one line in [`FORMATS`].

mod json;
mod text;

use crate::record::Record;

/// A form of a record.
pub trait Format: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// The whole text; ANSI colours may be in it, for the printer to keep or strip.
    fn render(&self, record: &Record) -> String;
}

/// Every format.
pub const FORMATS: &[&dyn Format] = &[&text::Text, &json::Json];

/// The format of a name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.name() == name)
}
