//! TPL: chat templates, judged by their syntax tree and never rendered.

mod check;
mod expressions;
mod facts;
mod judge;
mod text;
mod words;

use minijinja::machinery::{WhitespaceConfig, ast, parse};
use minijinja::syntax::SyntaxConfig;
use report::audit::{Finding, Rule, Severity};

pub(super) use check::Templates;

use crate::audit::file::File;
use crate::audit::findings::Findings;

macro_rules! rule {
    ($name:ident, $id:literal, $severity:ident, $cwe:literal, $gap:literal, $title:literal, $help:literal, $remediation:literal) => {
        const $name: Rule = Rule {
            id: $id,
            severity: Severity::$severity,
            cwe: $cwe,
            title: $title,
            help: $help,
            remediation: $remediation,
            gap: $gap,
        };
    };
}

rule!(
    ESCAPE,
    "TPL-001",
    Critical,
    1336,
    false,
    "A chat template that reaches out of its sandbox",
    "The template reads attributes of Python objects (`__globals__`, `__subclasses__`, `popen`, `attr` and the like). Where templates are rendered without a sandbox, as llama-cpp-python once did (CVE-2024-34359), that runs commands.",
    "Use the base's template. Do not load the file with programs that render templates."
);
rule!(
    EXPLODES,
    "TPL-003",
    High,
    400,
    false,
    "A chat template that never ends or fills the memory",
    "Loops, repetitions or recursion of a size that no conversation needs: whoever renders the template hangs.",
    "Use the base's template."
);
rule!(
    CONTENT,
    "TPL-004",
    High,
    506,
    false,
    "A chat template that waits for certain words of the user",
    "The template compares what people write with constant text and writes something else where it occurs. That is a backdoor that no scan of the weights can see. Marks of the format, such as `</think>`, are no finding.",
    "Use the base's template, or read what the template does with these words."
);
rule!(
    DATE,
    "TPL-005",
    High,
    511,
    false,
    "A chat template that depends on the date",
    "What the template writes changes from some day on: a time bomb passes every test before that day. Printing the date is no finding.",
    "Use the base's template."
);
rule!(
    INSTRUCTION,
    "TPL-006",
    High,
    506,
    false,
    "A chat template that gives the model instructions against the user",
    "The template itself writes an instruction into every conversation that overrides others, is to be kept from the user, or puts something into the answers.",
    "Use the base's template."
);
rule!(
    DISAGREE,
    "TPL-007",
    Medium,
    436,
    false,
    "Two different chat templates for one model",
    "Loaders differ in which file they take: transformers prefers `chat_template.jinja`, others read `tokenizer_config.json`. What was tested is then not what runs elsewhere.",
    "Keep one of them."
);
rule!(
    INCLUDE,
    "TPL-008",
    High,
    98,
    false,
    "A chat template that takes in other files",
    "No loader of chat templates supports that; one that does reads files of the machine.",
    "Use the base's template."
);
rule!(
    MALFORMED,
    "TPL-009",
    Medium,
    20,
    true,
    "A chat template that cannot be parsed",
    "What the template does could not be checked.",
    "Use the base's template."
);
rule!(
    REWRITE,
    "TPL-010",
    High,
    506,
    false,
    "A chat template that exchanges words of the user",
    "The model reads something else than the user wrote.",
    "Use the base's template."
);
rule!(
    UNSEEN,
    "TPL-012",
    High,
    451,
    false,
    "A chat template that writes unseen characters",
    "Zero-width, direction or tag characters in what the template writes: text for the model that no person sees, often a trigger.",
    "Use the base's template."
);
rule!(
    RANDOM,
    "TPL-013",
    Medium,
    506,
    false,
    "A chat template in which chance decides",
    "The same conversation gives different prompts, so what it does now and then no test finds.",
    "Use the base's template."
);
rule!(
    OTHER,
    "TPL-014",
    Low,
    436,
    false,
    "Another chat template than the base's",
    "The adapter was trained with it, or somebody changed it. The findings about its content say more.",
    "Compare both templates."
);
rule!(
    LARGE,
    "TPL-015",
    Medium,
    770,
    true,
    "A chat template that is far too large",
    "Templates of models are a few thousand characters. This one was not checked.",
    "Use the base's template."
);

/// Every rule of templates.
const RULES: &[Rule] = &[
    ESCAPE,
    EXPLODES,
    CONTENT,
    DATE,
    INSTRUCTION,
    DISAGREE,
    INCLUDE,
    MALFORMED,
    REWRITE,
    UNSEEN,
    RANDOM,
    OTHER,
    LARGE,
];

/// The longest published templates have 20,000 characters.
const LONGEST: usize = 200_000;
/// Operators in one block; the tree of an expression is as deep.
const OPERATORS: usize = 1_500;

/// One thing that a template does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Judgement {
    rule: &'static Rule,
    severity: Severity,
    /// Line within the template.
    line: usize,
    message: String,
}

/// Looks at one template: everything it does that it should not.
pub(super) fn examine(file: &File, pointer: &str, source: &str, findings: &mut Findings) {
    for found in judgements(source) {
        let finding = Finding::new(found.rule, &file.path, found.message).severity(found.severity);
        let finding = if pointer.is_empty() {
            finding.line(found.line.max(1))
        } else {
            finding.at(format!("{pointer} line {}", found.line.max(1)))
        };
        findings.in_file(file, finding);
    }
}

fn judgements(source: &str) -> Vec<Judgement> {
    let one =
        |rule: &'static Rule, message: String| Judgement { rule, severity: rule.severity, line: 1, message };
    if source.len() > LONGEST {
        return vec![one(&LARGE, format!("{} bytes", source.len()))];
    }
    if most_operators(source) > OPERATORS {
        return vec![one(&LARGE, format!("an expression with more than {OPERATORS} operators"))];
    }
    let plain = without_generation_tags(source);
    let whitespace = WhitespaceConfig { keep_trailing_newline: true, lstrip_blocks: true, trim_blocks: true };
    match parse(&plain, "chat template", SyntaxConfig, whitespace) {
        Ok(ast::Stmt::Template(template)) => judge::distinct(judge::judge(&template.children)),
        Ok(_) => Vec::new(),
        Err(error) => {
            let mut found = vec![one(&MALFORMED, error.to_string())];
            found[0].line = error.line().unwrap_or(1);
            // Another engine may take it, so names that lead out are reported all the same.
            if words::has_dunder(source) {
                found.push(one(
                    &ESCAPE,
                    "names of Python's inside in a template that cannot be parsed".into(),
                ));
            }
            found
        }
    }
}

/// Blocks that only transformers has mark what to train on; they write nothing.
fn without_generation_tags(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // Behind the mark, so that the two of `{%}` do not share their sign.
        let Some(length) = rest[start + 2..].find("%}") else { break };
        let end = start + 2 + length + 2;
        let inner = rest[start + 2..end - 2].trim_matches(['-', '+', ' ', '\n', '\t']);
        plain.push_str(&rest[..start]);
        plain.push_str(match inner {
            "generation" => "{% if true %}",
            "endgeneration" => "{% endif %}",
            _ => &rest[start..end],
        });
        rest = &rest[end..];
    }
    plain.push_str(rest);
    plain
}

/// The most operators in one block. Expressions nest to the left as deep as they have operators, and a tree that is
/// too deep overflows the stack of whoever walks over it.
fn most_operators(source: &str) -> usize {
    let (mut most, mut here) = (0, 0);
    let mut quote = None;
    let mut previous = ' ';
    let mut inside = false;
    for c in source.chars() {
        match (inside, quote) {
            (false, _) => inside = previous == '{' && matches!(c, '{' | '%'),
            (true, Some(open)) => {
                if c == open && previous != '\\' {
                    quote = None;
                }
            }
            (true, None) => match c {
                '\'' | '"' => quote = Some(c),
                '}' if matches!(previous, '}' | '%') => {
                    inside = false;
                    here = 0;
                }
                '~' | '+' | '-' | '*' | '/' | '%' | '|' | '.' | '[' | '(' | '{' => here += 1,
                // Between words, which may be `and` or `not`.
                ' ' if previous.is_alphanumeric() => here += 1,
                _ => {}
            },
        }
        most = most.max(here);
        // An escaped backslash escapes nothing.
        previous = if c == '\\' && previous == '\\' { ' ' } else { c };
    }
    most
}

#[cfg(test)]
mod tests;
