//! The record as one HTML file that works offline: no request leaves it, by its content-security policy too.
//!
//! Model output is hostile text. It reaches the page through templates only, and everything in a template goes
//! through [`Visible`], which shows what could hide or act as its code point.

pub(crate) mod activation;
pub(crate) mod index;
mod page;
pub(crate) mod plot;
pub(crate) mod table;
mod trigger;

use std::fmt::{self, Write};

use askama::Template as _;
use askama::filters::Escaper;
use sha2::{Digest as _, Sha256};

use super::{Format, FormatError, Rendered};
use crate::escape::{is_deceptive, write_code_point};
use crate::record::Record;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// A self-contained page.
pub(super) struct Html;

impl Format for Html {
    fn name(&self) -> &'static str {
        "html"
    }

    fn about(&self) -> &'static str {
        "one file for a browser: examples, plots, tables; works offline"
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        page::Page::of(record)
            .render()
            .map(Rendered::Text)
            .map_err(|error| FormatError::new(self.name(), error))
    }
}

/// The policy of the page: its own style and script by their digests, and nothing else from anywhere.
fn policy() -> String {
    format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        source(STYLE),
        source(SCRIPT)
    )
}

/// An inline text as a source of a content-security policy: its digest in base 64.
pub(super) fn source(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = Sha256::digest(text.as_bytes());
    let mut encoded = String::from("sha256-");
    for three in digest.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) as usize & 63;
            encoded.push(if place <= three.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    encoded
}

/// Escapes a text for HTML and shows controls, bidirectional overrides and invisible characters as code points. Line
/// breaks and tabs stay: the style sheet shows them where they matter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visible;

impl Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, mut to: W, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => to.write_str("&amp;")?,
                '<' => to.write_str("&lt;")?,
                '>' => to.write_str("&gt;")?,
                '"' => to.write_str("&quot;")?,
                '\'' => to.write_str("&#39;")?,
                '\n' | '\t' => to.write_char(character)?,
                _ if is_deceptive(character) => write_code_point(&mut to, character)?,
                _ => to.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_that_browsers_compute() {
        // `printf '' | openssl dgst -sha256 -binary | base64`
        assert_eq!(source(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(source("abc"), "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn nothing_that_acts_or_hides_survives() {
        let mut shown = String::new();
        Visible.write_escaped_str(&mut shown, "</style><script>\u{1b}[2J\u{202e}\u{e0041}&'\"\n").unwrap();
        assert_eq!(shown, "&lt;/style&gt;&lt;script&gt;\\u{1b}[2J\\u{202e}\\u{e0041}&amp;&#39;&quot;\n");
    }
}
