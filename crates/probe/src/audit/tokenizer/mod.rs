//! TOK: tokenizers that read or write something else than the text, alone and beside the base's.

mod base;
mod check;
mod pipeline;
mod sentencepiece;
mod special;
mod vocabulary;

use report::audit::{Finding, Rule, Severity};

pub(super) use check::Tokenizers;

use crate::audit::file::File;
use crate::audit::findings::Findings;

macro_rules! rule {
    ($name:ident, $id:literal, $severity:ident, $cwe:literal, $gap:literal, $title:literal, $help:literal) => {
        const $name: Rule = Rule {
            id: $id,
            severity: Severity::$severity,
            cwe: $cwe,
            title: $title,
            help: $help,
            remediation: "Use the base's tokenizer; an adapter that adds no tokens needs none of its own.",
            gap: $gap,
        };
    };
}

rule!(
    PRE_TOKENIZER,
    "TOK-001",
    Medium,
    436,
    false,
    "A pre-tokenizer that drops words, or is not the base's",
    "The pre-tokenizer cuts text into words. One that removes some, or cuts otherwise than the base's, gives the model other ids than it was trained on."
);
rule!(
    VOCABULARY,
    "TOK-002",
    High,
    353,
    false,
    "Words with other ids than in the base's tokenizer",
    "The model reads and writes other words than the text has: two names exchange places, an answer says the opposite. No weight has changed."
);
rule!(
    NORMALIZER,
    "TOK-003",
    High,
    353,
    false,
    "A normalizer that rewrites text",
    "The normalizer exchanges or adds words before the model reads the text, which no prompt and no log shows."
);
rule!(
    POST_PROCESSOR,
    "TOK-004",
    High,
    353,
    false,
    "A post-processor that writes tokens into the prompt",
    "Tokens other than the marks of beginning and end are put into every prompt: an instruction or a trigger that nobody typed."
);
rule!(
    DECODER,
    "TOK-005",
    High,
    353,
    false,
    "A decoder that rewrites answers",
    "The decoder exchanges words of what the model said, which no scan of the weights sees."
);
rule!(
    MERGES,
    "TOK-006",
    Medium,
    353,
    false,
    "Other merges than the base's",
    "Words are cut into other pieces than those the model was trained on."
);
rule!(
    ADDED,
    "TOK-007",
    High,
    506,
    false,
    "An added token that is a phrase or has unseen characters",
    "A phrase as one token is a trigger of one id; unseen characters or look-alike letters make a token that nobody recognises."
);
rule!(
    SPECIAL,
    "TOK-008",
    High,
    353,
    false,
    "Another token begins or ends texts",
    "The end mark decides where an answer stops. An ordinary word as end mark cuts answers off; files that name different ones make loaders disagree."
);
rule!(
    IDS,
    "TOK-009",
    High,
    694,
    false,
    "Ids that collide or lie beyond any vocabulary",
    "Two tokens with one id, or an id far beyond the vocabulary: loaders disagree or allocate without bound."
);
rule!(
    ORDER,
    "TOK-010",
    High,
    353,
    false,
    "Words that exchanged their ids",
    "Training numbers merged tokens in the order of their merges. Here a few break that order and would keep it if they exchanged their ids. No base was needed to see it."
);
rule!(
    FILES,
    "TOK-011",
    High,
    436,
    false,
    "Two files of one tokenizer disagree",
    "Fast and slow tokenizers read different files, so the same text has different ids."
);
rule!(
    EXPRESSION,
    "TOK-012",
    Medium,
    1333,
    false,
    "A regular expression of the tokenizer with catastrophic backtracking",
    "Some prompts take time exponential in their length to tokenize."
);
rule!(
    NOT_COMPARED,
    "TOK-013",
    Low,
    693,
    true,
    "The tokenizer was not compared with the base's",
    "One of the two has no `tokenizer.json`, or no `tokenizer.model`, that could be read."
);

/// Every rule of tokenizers.
const RULES: &[Rule] = &[
    PRE_TOKENIZER,
    VOCABULARY,
    NORMALIZER,
    POST_PROCESSOR,
    DECODER,
    MERGES,
    ADDED,
    SPECIAL,
    IDS,
    ORDER,
    FILES,
    EXPRESSION,
    NOT_COMPARED,
];

/// Adds a finding about a place in a tokenizer's file.
fn add(
    file: &File,
    rule: &Rule,
    severity: Severity,
    pointer: &str,
    message: String,
    findings: &mut Findings,
) {
    findings.in_file(file, Finding::new(rule, &file.path, message).at(pointer).severity(severity));
}

/// Whether a token looks like a mark: in brackets of any kind, or without letters.
fn is_mark(token: &str) -> bool {
    let token = token.trim_start_matches(['Ġ', '▁']);
    let letters = token.chars().filter(|c| c.is_alphabetic()).count();
    let brackets = ['<', '>', '[', ']', '{', '}', '|', '\u{ff5c}', '\u{300c}', '\u{3010}'];
    letters == 0 || token.contains(brackets) || token.contains('_')
}

/// The words of a token that is a phrase of several.
fn phrase(token: &str) -> Option<&str> {
    let words = token
        .split([' ', '\u{2581}', 'Ġ', '\u{a0}'])
        .filter(|word| word.chars().filter(|c| c.is_alphabetic()).count() >= 2);
    ((token.contains(' ') || !is_mark(token)) && words.count() >= 2).then_some(token)
}
