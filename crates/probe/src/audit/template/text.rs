//! What a template does with text: what it writes, what it compares people's words with, what it exchanges in them.

use minijinja::machinery::ast::{Expr, Stmt};
use report::audit::Severity;

use super::expressions::{contains, is_comparison, numbers, raises};
use super::facts::bodies;
use super::judge::Judge;
use super::{CONTENT, DATE, INSTRUCTION, RANDOM, REWRITE, UNSEEN, words};
use crate::audit::{phrases, unseen};

impl Judge<'_> {
    /// Text that the template writes.
    pub(super) fn emitted(&mut self, text: &str) {
        if unseen::any(text) {
            self.add(
                &UNSEEN,
                UNSEEN.severity,
                "characters that nobody sees are written into the prompt".into(),
            );
        }
        if let Some(wants) = phrases::instruction(text) {
            self.add(
                &INSTRUCTION,
                INSTRUCTION.severity,
                format!("an instruction that {}: {}", wants.name(), text.trim()),
            );
        } else if let Some(address) = words::address(text) {
            self.add(
                &INSTRUCTION,
                Severity::Medium,
                format!("the address {address} is written into the prompt"),
            );
        }
    }

    /// All constant text that statements write or set.
    pub(super) fn written(&self, statements: &[Stmt], out: &mut Vec<String>) {
        for statement in statements {
            match statement {
                Stmt::EmitRaw(raw) => out.push(raw.raw.to_owned()),
                Stmt::EmitExpr(emit) if !raises(&emit.expr) => self.facts.strings(&emit.expr, out),
                Stmt::Set(set) => self.facts.strings(&set.expr, out),
                _ => {}
            }
            bodies(statement).into_iter().for_each(|body| self.written(body, out));
        }
    }

    /// A condition, and what is written where it holds.
    pub(super) fn condition(&mut self, expr: &Expr, rounds: f64, written: &[String]) {
        if self.facts.is_random(expr) || contains(expr, &|part| self.facts.is_random(part)) {
            self.add(&RANDOM, RANDOM.severity, "chance decides what is written".into());
        }
        let before = self.found.len();
        self.expr(expr, rounds);
        // A comparison with a control mark is ordinary, unless words follow from it.
        if self.found.len() == before
            && contains(expr, &|part| self.compares_marks(part))
            && written.iter().any(|text| words::sentence(text))
        {
            let text = written.iter().find(|text| words::sentence(text)).map_or("", String::as_str);
            self.add(
                &CONTENT,
                CONTENT.severity,
                format!("where the text has a certain mark, it writes: {}", text.trim()),
            );
        }
    }

    /// Whether an expression compares what people wrote with constant marks.
    pub(super) fn compares_marks(&self, expr: &Expr) -> bool {
        let (left, right) = match expr {
            Expr::BinOp(operation) if is_comparison(operation.op) => (&operation.left, &operation.right),
            Expr::Call(call) => {
                return matches!(&call.expr, Expr::GetAttr(get) if self.facts.is_content(&get.expr))
                    && !call.args.is_empty();
            }
            _ => return false,
        };
        let marks = |expr: &Expr| {
            let mut texts = Vec::new();
            self.facts.strings(expr, &mut texts);
            texts.iter().any(|text| !text.trim().is_empty() && !words::is_type(text))
        };
        (self.facts.is_content(left) && marks(right)) || (self.facts.is_content(right) && marks(left))
    }

    /// A comparison of two expressions, or the search of one in the other.
    pub(super) fn compare(&mut self, left: &Expr, right: &Expr, contains: bool) {
        for (subject, other) in [(left, right), (right, left)] {
            if self.facts.is_date(subject) && !self.facts.is_date(other) {
                let mut texts = Vec::new();
                self.facts.strings(other, &mut texts);
                let fixed = texts.iter().any(|text| text.chars().any(char::is_alphanumeric))
                    || self.facts.number(other).is_some()
                    || numbers(other);
                if fixed {
                    self.add(&DATE, DATE.severity, "what is written depends on the date".into());
                }
            } else if self.facts.is_content_length(subject) {
                if let Some(length) = self.facts.number(other).filter(|&length| length > 1.0) {
                    self.add(
                        &CONTENT,
                        Severity::Medium,
                        format!("it compares the length of what the user wrote with {length}"),
                    );
                }
            } else if self.facts.is_content(subject) && !self.facts.is_content(other) {
                let mut texts = Vec::new();
                self.facts.strings(other, &mut texts);
                self.literal(&texts, contains);
            }
        }
    }

    /// Constants that what people wrote is compared with.
    pub(super) fn literal(&mut self, texts: &[String], _contains: bool) {
        if let Some(text) = texts.iter().find(|text| words::is_word(text)) {
            self.add(&CONTENT, CONTENT.severity, format!("it looks for `{text}` in what the user wrote"));
        }
    }

    /// Words of the user that the template exchanges.
    pub(super) fn rewrite(&mut self, from: Option<String>, to: Option<String>) {
        let Some(from) = from else { return };
        if !words::is_word(&from) {
            return;
        }
        let to = to.unwrap_or_default();
        let severity = if to.trim().is_empty() { Severity::Medium } else { REWRITE.severity };
        self.add(&REWRITE, severity, format!("it writes `{to}` where the user wrote `{from}`"));
    }
}
