//! SEC: secrets in files, which are reported by their kind and never shown.

use report::audit::{Finding, Rule, Severity};

use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::is_vocabulary;

const SECRET: Rule = Rule {
    id: "SEC-001",
    severity: Severity::High,
    cwe: 798,
    title: "A secret in a file",
    help: "The file has what looks like a working key, token or password. Whoever reads the repository can use it. It is not shown here.",
    remediation: "Tell the owner to revoke it. Do not use it.",
    gap: false,
};
const PRIVATE_KEY: Rule = Rule {
    id: "SEC-002",
    severity: Severity::High,
    cwe: 321,
    title: "A private key in a file",
    help: "The file has a private key. Whoever reads the repository can act as its owner. It is not shown here.",
    remediation: "Tell the owner to replace the key.",
    gap: false,
};
const COLLECTOR: Rule = Rule {
    id: "SEC-004",
    severity: Severity::Medium,
    cwe: 201,
    title: "An address that collects what is sent to it",
    help: "The file names a webhook, a paste site or a tunnel: places where stolen data goes and payloads come from.",
    remediation: "Find out who uses the address; do not run what names it.",
    gap: false,
};

/// No secret, key or address is shorter.
const SHORTEST: usize = 16;
/// Texts beyond this are data.
const LONGEST: usize = 8 << 20;

/// How a token begins, how many characters follow at least, which these are, and whose it is.
type Token = (&'static str, usize, fn(char) -> bool, &'static str);

/// Every token that is known.
const TOKENS: &[Token] = &[
    ("hf_", 30, alphanumeric, "a Hugging Face token"),
    ("api_org_", 30, alphanumeric, "a Hugging Face token"),
    ("sk-ant-", 30, word, "an Anthropic key"),
    ("sk-proj-", 30, word, "an OpenAI key"),
    ("sk-", 40, alphanumeric, "an OpenAI key"),
    ("ghp_", 36, alphanumeric, "a GitHub token"),
    ("gho_", 36, alphanumeric, "a GitHub token"),
    ("ghs_", 36, alphanumeric, "a GitHub token"),
    ("ghu_", 36, alphanumeric, "a GitHub token"),
    ("github_pat_", 40, word, "a GitHub token"),
    ("glpat-", 20, word, "a GitLab token"),
    ("AKIA", 16, upper, "an AWS key"),
    ("ASIA", 16, upper, "an AWS key"),
    ("AIza", 35, word, "a Google key"),
    ("ya29.", 40, word, "a Google token"),
    ("xoxb-", 20, word, "a Slack token"),
    ("xoxp-", 20, word, "a Slack token"),
    ("npm_", 36, alphanumeric, "an npm token"),
    ("pypi-AgE", 40, word, "a PyPI token"),
    ("sk_live_", 20, alphanumeric, "a Stripe key"),
    ("rk_live_", 20, alphanumeric, "a Stripe key"),
    ("SG.", 40, dotted, "a SendGrid key"),
    ("dop_v1_", 60, alphanumeric, "a DigitalOcean token"),
    ("r8_", 37, alphanumeric, "a Replicate token"),
    ("gsk_", 40, alphanumeric, "a Groq key"),
    ("eyJhbGciOi", 60, dotted, "a signed web token"),
];
/// Names whose value is a secret.
const NAMES: &[&str] = &[
    "api_key",
    "apikey",
    "api-key",
    "secret_access_key",
    "secret_key",
    "secret-key",
    "access_token",
    "auth_token",
    "hub_token",
    "client_secret",
    "password",
    "passwd",
    "private_token",
    "wandb_api_key",
    "hf_token",
    "token",
    "secret",
];
/// What stands where a secret belongs.
const PLACEHOLDERS: &[&str] = &[
    "your",
    "example",
    "xxxx",
    "....",
    "<",
    "${",
    "$(",
    "{{",
    "environ",
    "getenv",
    "placeholder",
    "changeme",
    "redacted",
    "****",
    "dummy",
    "sample",
    "insert",
    "todo",
    "none",
    "null",
    "hub_token",
    "test_",
    "abcdefgh",
    "00000000",
    "12345678",
    "fake",
    "notreal",
];
const COLLECTORS: &[&str] = &[
    "discord.com/api/webhooks/",
    "discordapp.com/api/webhooks/",
    "hooks.slack.com/services/",
    "api.telegram.org/bot",
    "webhook.site/",
    "requestbin.",
    "pipedream.net",
    ".ngrok.io",
    ".ngrok-free.app",
    "pastebin.com/raw/",
    "transfer.sh/",
    ".onion/",
    "burpcollaborator.net",
    "oastify.com",
    ".oast.",
    "interact.sh",
    "canarytokens.com",
    "requestcatcher.com",
    "beeceptor.com",
    "trycloudflare.com",
    "serveo.net",
];

/// Every text file but vocabularies.
pub(in crate::audit) struct Secrets;

impl Check for Secrets {
    fn name(&self) -> &'static str {
        "secrets"
    }

    fn rules(&self) -> &'static [Rule] {
        &[SECRET, PRIVATE_KEY, COLLECTOR]
    }

    fn wants(&self, file: &File) -> bool {
        file.text().is_some()
            && !is_vocabulary(file.name())
            && !file.name().starts_with("merges")
            && file.name() != "vocab.txt"
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(text) = file.text() else { return };
        let end = (0..=text.len().min(LONGEST)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        for (index, line) in text[..end].lines().enumerate() {
            if line.len() < SHORTEST {
                continue;
            }
            let mut add = |rule: &Rule, message: String| {
                findings.in_file(file, Finding::new(rule, &file.path, message).line(index + 1));
            };
            if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY") {
                add(&PRIVATE_KEY, "a private key in PEM form".into());
            }
            if let Some(collector) = COLLECTORS.iter().find(|collector| line.contains(**collector)) {
                add(&COLLECTOR, format!("an address of `{}`", collector.trim_matches(['.', '/'])));
            }
            if let Some((kind, length)) = secret(line) {
                add(&SECRET, format!("{kind} of {length} characters (not shown)"));
            }
        }
    }
}

/// The kind and length of a secret in a line, if it has one.
fn secret(line: &str) -> Option<(&'static str, usize)> {
    if let Some(length) = url_password(line) {
        return Some(("a password in an address", length));
    }
    let run = line.split(|c: char| !dotted(c) && c != '/' && c != '+').map(str::len).max().unwrap_or(0);
    if run < SHORTEST {
        return None;
    }
    for (start, least, may, kind) in TOKENS {
        for (at, _) in line.match_indices(start) {
            let own =
                line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '-');
            let rest = &line[at + start.len()..];
            let length = rest.find(|c| !may(c)).unwrap_or(rest.len());
            let value = &rest[..length];
            if own && length >= *least && is_random(value) && !is_placeholder(value) {
                return Some((kind, start.len() + length));
            }
        }
    }
    assigned(line).map(|length| ("a value of a name that says it is secret,", length))
}

/// The length of the password in `scheme://user:password@host`.
fn url_password(line: &str) -> Option<usize> {
    let (_, rest) = line.split_once("://")?;
    let end = rest.find(|c: char| c.is_whitespace() || "/\"'<>)".contains(c)).unwrap_or(rest.len());
    let (user, _) = rest[..end].rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (password.len() >= 8 && !is_placeholder(password) && !password.contains('$')).then_some(password.len())
}

/// The length of a value that is assigned to a name of a secret.
fn assigned(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    NAMES.iter().find_map(|name| {
        let at = lower.find(name)?;
        let rest = lower[at + name.len()..].trim_start_matches(['"', '\'', ' ']);
        let rest = rest.strip_prefix([':', '='])?.trim_start_matches(['=', ' ']);
        let start = line.len() - rest.len();
        let value = line[start..].trim_start_matches(['"', '\'', ' ']);
        let length =
            value.find(|c: char| !c.is_ascii_alphanumeric() && !"/+_-.=".contains(c)).unwrap_or(value.len());
        let value = &value[..length];
        let mixed =
            value.chars().any(|c| c.is_ascii_digit()) && value.chars().any(|c| c.is_ascii_alphabetic());
        // Paths, names of models and calls are no secrets.
        let plain = !value.contains('.') && value.matches('/').count() < 3 && !value.contains("--");
        (length >= 20 && mixed && plain && is_random(value) && !is_placeholder(value)).then_some(length)
    })
}

fn is_placeholder(value: &str) -> bool {
    let lower = value.to_lowercase();
    PLACEHOLDERS.iter().any(|placeholder| lower.contains(placeholder)) && !lower.starts_with("abcdefghij")
}

/// Whether a value has as many different characters as drawn ones have: at least three bits each.
fn is_random(value: &str) -> bool {
    let mut counts = [0_usize; 128];
    let characters: Vec<char> = value.chars().take(200).filter(char::is_ascii).collect();
    characters.iter().for_each(|&c| counts[c as usize] += 1);
    let total = characters.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = count as f64 / total;
            -share * share.log2()
        })
        .sum();
    entropy >= 3.0
}

fn alphanumeric(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn upper(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit()
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn dotted(c: char) -> bool {
    word(c) || c == '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised() {
        // Made of counting characters; none of them works anywhere.
        let letters = "qWeRtYuIoPaSdFgHjKlZxCvBnM0192837465";
        for line in [
            format!("export HF_TOKEN=hf_{letters}"),
            format!("key = sk-proj-{letters}"),
            "aws AKIAZ3Q7XW5NRT2PLM4K".to_owned(),
            format!("\"secret_access_key\": \"{letters}\""),
            format!("url = https://user:{letters}@huggingface.co/a/b"),
        ] {
            assert!(secret(&line).is_some(), "{line}");
        }
    }

    #[test]
    fn placeholders_and_names_are_not() {
        for line in [
            "set `HF_TOKEN=hf_...` in the environment",
            "api_key = os.environ[\"OPENAI_API_KEY\"]",
            "hf_hub_download(repo_id=x)",
            "\"hub_token\": \"<HUB_TOKEN>\"",
            "token: your_token_here_1234567890",
            "AKIAIOSFODNN7EXAMPLE",
            "\"eos_token\": \"<|im_end|>\"",
            "password",
            "sha256: 12fd25f77366fa6b3b4b768ec3050bf629380bac",
            "tokenizer: HuggingFaceTB/SmolLM2-135M-Instruct",
        ] {
            assert_eq!(secret(line), None, "{line}");
        }
    }
}
