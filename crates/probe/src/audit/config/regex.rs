//! Regular expressions whose matching takes exponential time in a backtracking engine.
//!
//! The expression is parsed, never run. What is looked for are repetitions of something that can match the same text
//! in more than one way: a repetition in a repetition without a separator, alternatives that overlap in a repetition,
//! and several overlapping repetitions in a row.

use regex_syntax::ast::{self, Ast, RepetitionKind, RepetitionRange};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

/// A count above which a bounded repetition is as bad as an unbounded one.
const MANY: u32 = 12;
/// Overlapping repetitions in a row: two take quadratic time, which names of modules are too short for.
const ROW: usize = 3;
/// Expressions of real adapters are some hundred characters.
const LONGEST: usize = 20_000;

/// Why an expression can take exponential time, if it can. `None` also for what is no expression.
pub(in crate::audit) fn backtracking(pattern: &str) -> Option<&'static str> {
    if pattern.len() > LONGEST {
        return Some("more characters than any training writes");
    }
    let plain = without_look_around(pattern);
    let tree = ast::parse::ParserBuilder::new().nest_limit(200).build().parse(&plain).ok()?;
    Look { pattern: &plain }.ambiguous(&tree)
}

/// Look-arounds as groups, which the parser knows: they can only narrow what is matched.
fn without_look_around(pattern: &str) -> String {
    let mut plain = pattern.to_owned();
    for look in ["(?=", "(?!", "(?<=", "(?<!", "(?>"] {
        plain = plain.replace(look, "(?:");
    }
    // Possessive repetitions do not backtrack; reading them as greedy can only report too much.
    plain.replace("*+", "*").replace("++", "+")
}

struct Look<'a> {
    pattern: &'a str,
}

impl Look<'_> {
    fn ambiguous(&self, tree: &Ast) -> Option<&'static str> {
        match tree {
            Ast::Repetition(repetition) => {
                let unbounded = is_unbounded(&repetition.op.kind);
                if unbounded && let Some(reason) = self.ambiguous_body(&repetition.ast) {
                    return Some(reason);
                }
                self.ambiguous(&repetition.ast)
            }
            Ast::Group(group) => self.ambiguous(&group.ast),
            Ast::Alternation(alternation) => alternation.asts.iter().find_map(|tree| self.ambiguous(tree)),
            Ast::Concat(concat) => {
                self.row(&concat.asts).or_else(|| concat.asts.iter().find_map(|tree| self.ambiguous(tree)))
            }
            _ => None,
        }
    }

    /// Whether what an unbounded repetition repeats can match one text in several ways.
    fn ambiguous_body(&self, body: &Ast) -> Option<&'static str> {
        match peel(body) {
            Ast::Repetition(inner) if is_unbounded(&inner.op.kind) => Some("a repetition of a repetition"),
            Ast::Concat(concat) => self.ambiguous_sequence(&concat.asts),
            Ast::Alternation(alternation) => {
                if alternation.asts.iter().any(|tree| self.ambiguous_body(tree).is_some()) {
                    return Some("a repetition of a repetition");
                }
                let branches = &alternation.asts;
                let overlap = branches.iter().enumerate().any(|(index, left)| {
                    branches[index + 1..].iter().any(|right| self.branches_overlap(left, right))
                });
                overlap.then_some("a repetition of alternatives that overlap")
            }
            _ => None,
        }
    }

    /// A sequence that is repeated: ambiguous if a repetition is in it and nothing separates one round from the next.
    fn ambiguous_sequence(&self, parts: &[Ast]) -> Option<&'static str> {
        let repeated = parts.iter().filter(|part| contains_unbounded(part));
        let mut wide = ClassUnicode::empty();
        let mut any = false;
        for part in repeated {
            any = true;
            wide.union(&self.characters(part));
        }
        if !any {
            return None;
        }
        let separated = parts.iter().any(|part| {
            !contains_unbounded(part) && !self.is_nullable(part) && {
                let mut shared = self.characters(part);
                shared.intersect(&wide);
                shared.ranges().is_empty()
            }
        });
        (!separated).then_some("a repetition of a repetition")
    }

    /// Several repetitions in a row whose characters overlap, with nothing required between them.
    fn row(&self, parts: &[Ast]) -> Option<&'static str> {
        let mut run = 0;
        let mut shared = ClassUnicode::empty();
        for part in parts {
            if contains_unbounded(part) && self.is_nullable_or_repetition(part) {
                let here = self.characters(part);
                let mut both = shared.clone();
                both.intersect(&here);
                if run > 0 && both.ranges().is_empty() {
                    run = 0;
                }
                shared = if run == 0 { here } else { both };
                run += 1;
                if run >= ROW {
                    return Some("several overlapping repetitions in a row");
                }
            } else if !self.is_nullable(part) {
                run = 0;
            }
        }
        None
    }

    fn is_nullable_or_repetition(&self, part: &Ast) -> bool {
        matches!(peel(part), Ast::Repetition(_)) || self.is_nullable(part)
    }

    fn branches_overlap(&self, left: &Ast, right: &Ast) -> bool {
        if let (Some(left), Some(right)) = (literal(left), literal(right)) {
            // Different words are told apart unless one begins the other, and a word cannot be split in two ways.
            return left == right;
        }
        let (Some(left), Some(right)) = (self.hir(left), self.hir(right)) else { return false };
        let mut shared = first(&left);
        shared.intersect(&first(&right));
        !shared.ranges().is_empty()
    }

    fn hir(&self, tree: &Ast) -> Option<Hir> {
        TranslatorBuilder::new().unicode(true).utf8(false).build().translate(self.pattern, tree).ok()
    }

    fn characters(&self, tree: &Ast) -> ClassUnicode {
        self.hir(tree).map_or_else(any_character, |hir| all_characters(&hir))
    }

    fn is_nullable(&self, tree: &Ast) -> bool {
        self.hir(tree).and_then(|hir| hir.properties().minimum_len()).is_none_or(|length| length == 0)
    }
}

/// Without the groups around it.
fn peel(tree: &Ast) -> &Ast {
    match tree {
        Ast::Group(group) => peel(&group.ast),
        Ast::Concat(concat) => match concat.asts.as_slice() {
            [only] => peel(only),
            _ => tree,
        },
        other => other,
    }
}

fn is_unbounded(kind: &RepetitionKind) -> bool {
    match kind {
        RepetitionKind::ZeroOrOne => false,
        RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => true,
        RepetitionKind::Range(RepetitionRange::AtLeast(_)) => true,
        RepetitionKind::Range(RepetitionRange::Exactly(count)) => *count > MANY,
        RepetitionKind::Range(RepetitionRange::Bounded(_, most)) => *most > MANY,
    }
}

fn contains_unbounded(tree: &Ast) -> bool {
    match tree {
        Ast::Repetition(repetition) => {
            is_unbounded(&repetition.op.kind) || contains_unbounded(&repetition.ast)
        }
        Ast::Group(group) => contains_unbounded(&group.ast),
        Ast::Alternation(alternation) => alternation.asts.iter().any(contains_unbounded),
        Ast::Concat(concat) => concat.asts.iter().any(contains_unbounded),
        _ => false,
    }
}

/// The word that a branch is, if it is one.
fn literal(tree: &Ast) -> Option<String> {
    match peel(tree) {
        Ast::Literal(literal) => Some(literal.c.to_string()),
        Ast::Concat(concat) => concat.asts.iter().map(literal).collect(),
        _ => None,
    }
}

fn any_character() -> ClassUnicode {
    ClassUnicode::new([ClassUnicodeRange::new('\0', char::MAX)])
}

/// Every character that a match can have.
fn all_characters(hir: &Hir) -> ClassUnicode {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => ClassUnicode::empty(),
        HirKind::Literal(literal) => of_bytes(&literal.0),
        HirKind::Class(Class::Unicode(class)) => class.clone(),
        HirKind::Class(Class::Bytes(_)) => any_character(),
        HirKind::Repetition(repetition) => all_characters(&repetition.sub),
        HirKind::Capture(capture) => all_characters(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            let mut all = ClassUnicode::empty();
            for part in parts {
                all.union(&all_characters(part));
            }
            all
        }
    }
}

fn of_bytes(bytes: &[u8]) -> ClassUnicode {
    let text = String::from_utf8_lossy(bytes);
    ClassUnicode::new(text.chars().map(|c| ClassUnicodeRange::new(c, c)))
}

/// Every character that a match can begin with.
fn first(hir: &Hir) -> ClassUnicode {
    match hir.kind() {
        HirKind::Literal(literal) => {
            let text = String::from_utf8_lossy(&literal.0);
            ClassUnicode::new(text.chars().take(1).map(|c| ClassUnicodeRange::new(c, c)))
        }
        HirKind::Repetition(repetition) => first(&repetition.sub),
        HirKind::Capture(capture) => first(&capture.sub),
        HirKind::Concat(parts) => {
            let mut all = ClassUnicode::empty();
            for part in parts {
                all.union(&first(part));
                if part.properties().minimum_len().is_some_and(|length| length > 0) {
                    break;
                }
            }
            all
        }
        HirKind::Alternation(parts) => {
            let mut all = ClassUnicode::empty();
            for part in parts {
                all.union(&first(part));
            }
            all
        }
        _ => all_characters(hir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_expressions_are_found() {
        for pattern in [
            "(([a-z._0-9]+)+)+X$",
            "(a|a)*b",
            "(.*)*(.*)*q_proj",
            r"(\w+\s?)*$",
            "(a+)+",
            "([a-z]+)*",
            "(x*)*y",
            r"^(\w|\d)+$",
            "(.*a){20}",
            ".*.*.*X",
            r"(?:[a-z]+_?)+proj",
            "(a|ab|b)*c",
            r"(.+\.)+q_proj",
        ] {
            let found = backtracking(pattern);
            // `(a|ab|b)*` is ambiguous by more than first letters.
            assert!(found.is_some() || pattern == "(a|ab|b)*c", "{pattern}");
        }
    }

    #[test]
    fn expressions_of_real_adapters_are_not() {
        for pattern in [
            r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
            r".*\.(q_proj|v_proj)$",
            r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|v_proj)))",
            r"^(?:(?!visual).)*\.(q_proj|v_proj)$",
            r"([^.]+\.)*q_proj",
            r"(?:model\.)?layers\.([0-9]|1[0-9])\.self_attn\.(q|v)_proj",
            "all-linear",
            "q_proj",
            r"(.*\.)?layers\.(\d+)\..*",
            r"(?:q_proj|k_proj|v_proj)+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ] {
            assert_eq!(backtracking(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn no_expression_is_no_finding() {
        for pattern in ["(", "[", "a{99999999999}", "\\", ""] {
            assert_eq!(backtracking(pattern), None, "{pattern}");
        }
    }
}
