//! Every format: against golden files, against its schema, and with hostile text in every string.

mod golden;
mod hostile;
mod html;
mod junit_schema;
mod schema;

use serde_json::Value;

use crate::record::Record;

/// Records that the program wrote; see `goldens/format/README.md`.
const RECORDS: [(&str, &str); 2] = [
    ("scan", include_str!("../../../goldens/format/scan.json")),
    ("hunt", include_str!("../../../goldens/format/hunt.json")),
];

fn records() -> impl Iterator<Item = (&'static str, Record)> {
    RECORDS.iter().map(|(name, text)| (*name, serde_json::from_str(text).unwrap()))
}

fn render(format: &str, record: &Record) -> String {
    super::by_name(format).unwrap().render(record).unwrap()
}

/// Keys whose strings are words of the program.
const OWN: [&str; 6] = ["schema_version", "tool", "verdict", "confidence", "kind", "sha256"];

/// A record with every string that can come from elsewhere replaced, by its number.
fn with_strings(record: &Record, string: impl Fn(usize) -> String) -> Record {
    fn replace(value: &mut Value, count: &mut usize, string: &impl Fn(usize) -> String) {
        match value {
            Value::String(text) => {
                *text = string(*count);
                *count += 1;
            }
            Value::Array(items) => items.iter_mut().for_each(|item| replace(item, count, string)),
            Value::Object(fields) => {
                // An anomaly's kind is a suite's word; a dependence's is the program's.
                let anomaly = fields.contains_key("grader");
                for (key, value) in fields.iter_mut() {
                    if !OWN.contains(&key.as_str()) || (anomaly && key == "kind") {
                        replace(value, count, string);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut value = serde_json::to_value(record).unwrap();
    replace(&mut value, &mut 0, &string);
    serde_json::from_value(value).unwrap()
}
