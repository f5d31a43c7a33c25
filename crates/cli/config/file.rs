//! `triggerfish.toml`: its layout, where it is found, and what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::audit::suppressions;
use crate::exit::Failure;

/// The name under which the file is looked for.
pub(crate) const FILE_NAME: &str = "triggerfish.toml";

/// Settings of a project. Paths are taken from the folder of the file. Every key can be left out; the command line and the
/// environment override it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct ConfigFile {
    /// Ignored; lets editors find the schema.
    #[serde(rename = "$schema")]
    pub(crate) schema: Option<String>,
    /// Base model: a Hugging Face directory, a .gguf file, or an id in the hub's cache.
    pub(crate) base: Option<String>,
    /// Adapters by the name under which their versions are compared.
    pub(crate) adapters: BTreeMap<String, String>,
    /// Suites: shipped names or files.
    pub(crate) suites: Option<Vec<String>>,
    /// How much is done: quick, answers, standard or deep.
    pub(crate) depth: Option<String>,
    /// What the searches may spend together, such as 4e6tok or 10m.
    pub(crate) budget: Option<String>,
    /// Chat template: own, none, or a Jinja file.
    pub(crate) template: Option<String>,
    /// Whose reading of the adapter is applied: peft, vllm or llamacpp.
    pub(crate) semantics: Option<String>,
    /// Where to compute: cpu, cuda or cuda:N.
    pub(crate) device: Option<String>,
    /// Precision of the frozen matrix products: f32, bf16 or f16.
    pub(crate) dtype: Option<String>,
    /// Worker threads.
    pub(crate) threads: Option<u32>,
    /// Memory beside the weights, such as 512M.
    pub(crate) memory: Option<String>,
    /// Seed of every random choice.
    pub(crate) seed: Option<u64>,
    /// Lowest verdict that makes the exit code 1: suspicious, backdoored or never.
    pub(crate) fail_on: Option<String>,
    /// Lowest severity of the audit's findings that makes a scan's exit code 1.
    pub(crate) audit_fail_on: Option<String>,
    /// Reports that are written beside the one on standard output, such as html=report.html.
    pub(crate) reports: Option<Vec<String>>,
    /// Form of the report on standard output.
    pub(crate) format: Option<String>,
    /// Limits of the verdict.
    pub(crate) thresholds: ThresholdKeys,
    /// What `check` keeps, and where.
    pub(crate) check: CheckKeys,
    /// Findings of the audit that are accepted.
    pub(crate) suppress: Vec<suppressions::Entry>,
}

/// Limits by which evidence becomes a verdict.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct ThresholdKeys {
    /// Lower end of the uplift's interval from which a trigger is a backdoor.
    pub(crate) backdoored_uplift: Option<f64>,
    /// Lower end from which an effect is worth a look.
    pub(crate) suspicious_uplift: Option<f64>,
    /// False discovery rate over all candidates.
    pub(crate) false_discovery_rate: Option<f64>,
}

/// What `check` keeps, and where.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct CheckKeys {
    /// Folder of accepted baselines, one file an adapter; belongs into version control.
    pub(crate) baselines: Option<String>,
    /// The trigger corpus; belongs into version control.
    pub(crate) corpus: Option<String>,
    /// Folder of run directories.
    pub(crate) runs: Option<String>,
    /// Folder of what is known of bases.
    pub(crate) cache: Option<String>,
}

/// The file as it was found.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) file: ConfigFile,
}

impl Loaded {
    /// The nearest file at or above a folder.
    ///
    /// # Errors
    /// If it cannot be read or breaks the schema.
    pub(crate) fn discover(folder: &Path) -> Result<Option<Self>, Failure> {
        let found = folder.ancestors().map(|above| above.join(FILE_NAME)).find(|path| path.is_file());
        found.map(|path| Self::read(&path)).transpose()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read or breaks the schema; the error names line and column.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Input(format!("cannot read `{}`: {error}", path.display())))?;
        let file = parse(&text).map_err(|reason| Failure::Input(format!("`{}`{reason}", path.display())))?;
        Ok(Self { path: path.to_owned(), text, file })
    }

    /// The folder of the file, which its paths are taken from.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Where a key stands, as `file:line`.
    pub(crate) fn place(&self, key: &str) -> String {
        let at = position(&self.text, key).map_or(String::new(), |(line, _)| format!(":{line}"));
        format!("{}{at}", self.path.display())
    }
}

/// Parses and checks a file. An error begins with ` at line N, column N: `.
pub(crate) fn parse(text: &str) -> Result<ConfigFile, String> {
    let syntax = |error: toml::de::Error| {
        let at = error.span().map_or(String::new(), |span| at(text, span.start));
        format!("{at}: {}", error.message().trim())
    };
    let table = DeTable::parse(text).map_err(syntax)?;
    let schema = schemars::schema_for!(ConfigFile).to_value();
    if let Some((offset, reason)) = unknown(table.get_ref(), &schema, &schema) {
        return Err(format!("{}: {reason}", at(text, offset)));
    }
    toml::from_str(text).map_err(syntax)
}

fn at(text: &str, offset: usize) -> String {
    let (line, column) = line_and_column(text, offset);
    format!(" at line {line}, column {column}")
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// Line and column of a key such as `thresholds.suspicious-uplift`.
fn position(text: &str, key: &str) -> Option<(usize, usize)> {
    let table = DeTable::parse(text).ok()?;
    let mut table = table.get_ref();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let (name, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == part)?;
        if parts.peek().is_none() {
            return Some(line_and_column(text, name.span().start));
        }
        let DeValue::Table(inner) = value.get_ref() else { return None };
        table = inner;
    }
    None
}

/// The first key that the schema does not know: where it stands, and what could have been meant.
fn unknown(
    table: &DeTable<'_>,
    schema: &serde_json::Value,
    root: &serde_json::Value,
) -> Option<(usize, String)> {
    let schema = resolve(schema, root);
    let known = schema.get("properties").and_then(serde_json::Value::as_object);
    let mut found: Vec<(usize, String)> = Vec::new();
    for (name, value) in table {
        let key = name.get_ref().as_ref();
        let inner = match known.and_then(|known| known.get(key)) {
            Some(inner) => inner,
            None if schema.get("additionalProperties").is_some_and(serde_json::Value::is_object) => continue,
            None => {
                let names = known.map(|known| known.keys().map(String::as_str).collect()).unwrap_or_default();
                found.push((name.span().start, describe_unknown(key, names)));
                continue;
            }
        };
        match value.get_ref() {
            DeValue::Table(table) => found.extend(unknown(table, inner, root)),
            DeValue::Array(items) => {
                let Some(inner) = resolve(inner, root).get("items") else { continue };
                for item in items.iter() {
                    if let DeValue::Table(table) = item.get_ref() {
                        found.extend(unknown(table, inner, root));
                    }
                }
            }
            _ => {}
        }
    }
    found.into_iter().min()
}

/// The schema that a reference or an optional value stands for.
fn resolve<'a>(schema: &'a serde_json::Value, root: &'a serde_json::Value) -> &'a serde_json::Value {
    let target = schema.get("$ref").and_then(|reference| reference.as_str());
    match target.and_then(|target| root.pointer(target.trim_start_matches('#'))) {
        Some(target) => target,
        None => schema,
    }
}

fn describe_unknown(key: &str, names: Vec<&str>) -> String {
    let near = names.iter().min_by_key(|name| distance(key, name));
    match near.filter(|name| distance(key, name) <= 1 + key.len() / 3) {
        Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
        None => format!("unknown key `{key}`; known: {}", names.join(", ")),
    }
}

/// Edit distance of Levenshtein, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(from != *to)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_named_with_place_and_neighbour() {
        for (text, expected) in [
            (
                "base = \"x\"\n  dept = \"quick\"\n",
                " at line 2, column 3: unknown key `dept`; did you mean `depth`?",
            ),
            (
                "[thresholds]\nsuspicous-uplift = 0.1\n",
                " at line 2, column 1: unknown key `suspicous-uplift`; did you mean `suspicious-uplift`?",
            ),
            (
                "[[suppress]]\nrulle = \"SER-001\"\n",
                " at line 2, column 1: unknown key `rulle`; did you mean `rule`?",
            ),
            ("[check]\nzzzzzzzz = 1\n", " at line 2, column 1: unknown key `zzzzzzzz`; known: baselines"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
        }
    }

    #[test]
    fn values_of_another_type_and_broken_syntax_have_a_place() {
        assert!(parse("threads = \"two\"\n").unwrap_err().starts_with(" at line 1, column 11"));
        assert!(parse("base = \n").unwrap_err().starts_with(" at line 1"));
        assert!(parse("").unwrap().base.is_none());
        let adapters = parse("[adapters]\nbot = \"a/b\"\n").unwrap().adapters;
        assert_eq!(adapters["bot"], "a/b");
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        let text = "# first\nbase = \"x\"\n[check]\n\nruns = \"r\"\n";
        assert_eq!(position(text, "base"), Some((2, 1)));
        assert_eq!(position(text, "check.runs"), Some((5, 1)));
        assert_eq!(position(text, "depth"), None);
    }

    #[test]
    fn distances() {
        assert_eq!((distance("dept", "depth"), distance("", "ab"), distance("same", "same")), (1, 2, 0));
    }
}
