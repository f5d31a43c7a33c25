//! Going through every value of a document, with where it stands.

use std::fmt::Write as _;

use serde_json::Value;

/// Where a value stands: keys and indices from the root.
#[derive(Clone, Debug, Default)]
pub(in crate::audit) struct Path(Vec<String>);

impl Path {
    /// The key or index of the value itself; empty at the root.
    pub(in crate::audit) fn key(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// Whether a key is on the way.
    pub(in crate::audit) fn passes(&self, key: &str) -> bool {
        self.0.iter().any(|step| step == key)
    }

    /// As a JSON pointer (RFC 6901).
    pub(in crate::audit) fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.0 {
            // Writing to a String cannot fail.
            let _ = write!(pointer, "/{}", step.replace('~', "~0").replace('/', "~1"));
        }
        pointer
    }
}

/// Calls `see` with every value, containers before what is in them. The reader bounds the depth.
pub(in crate::audit) fn visit<'a>(value: &'a Value, see: &mut dyn FnMut(&Path, &'a Value)) {
    go(value, &mut Path::default(), see);
}

fn go<'a>(value: &'a Value, path: &mut Path, see: &mut dyn FnMut(&Path, &'a Value)) {
    see(path, value);
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.0.push(index.to_string());
                go(item, path, see);
                path.0.pop();
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                path.0.push(key.clone());
                go(item, path, see);
                path.0.pop();
            }
        }
        _ => {}
    }
}
