//! A JSON reader for files of strangers: it reads on where others give up, and says what was wrong.
//!
//! A fault must not blind the checks that look at the values, since other parsers read the file all the same:
//! Python takes NaN, the last of two equal keys, and lone surrogates.

use serde_json::{Map, Number, Value};

/// Containers inside each other; serde_json's own limit is 128, Python's about 1,000.
pub(crate) const DEPTH: usize = 100;
/// Faults that are kept of one document.
const FAULTS: usize = 32;

/// What is wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// A key stands twice in one object; the last value was taken, as Python and serde_json do.
    Duplicate,
    /// Containers nest deeper than [`DEPTH`]; what lies deeper was skipped.
    Deep,
    /// NaN, an infinity, or a number beyond the range of f64; null was taken.
    NonFinite,
    /// Something follows the document.
    Trailing,
    /// A byte-order mark comes first.
    ByteOrderMark,
    /// Half of a surrogate pair; U+FFFD was taken.
    Surrogate,
    /// Not JSON; nothing was taken.
    Malformed,
}

/// One fault, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What is wrong.
    pub(crate) kind: FaultKind,
    /// Line, counted from 1.
    pub(crate) line: usize,
    /// The key or text that is meant; not escaped.
    pub(crate) detail: String,
}

/// A document as far as it could be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    /// The value; `None` where the text is not JSON.
    pub(crate) value: Option<Value>,
    /// In the order of the text.
    pub(crate) faults: Vec<Fault>,
}

/// Reads a document.
pub(crate) fn read(text: &str) -> Document {
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, depth: 0, faults: Vec::new() };
    if text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
        reader.fault(FaultKind::ByteOrderMark, "U+FEFF".into());
    }
    let value = reader.value().ok();
    if value.is_some() {
        reader.blanks();
        if reader.at < reader.bytes.len() {
            let rest: String = text[reader.at..].chars().take(40).collect();
            reader.fault(FaultKind::Trailing, rest);
        }
    }
    Document { value, faults: reader.faults }
}

/// The document is not JSON; the fault was noted.
struct NotJson;

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, kind: FaultKind, detail: String) {
        // What makes a document unreadable must not be lost to many smaller faults.
        if self.faults.len() < FAULTS || kind == FaultKind::Malformed {
            let line = 1 + self.bytes[..self.at].iter().filter(|&&byte| byte == b'\n').count();
            self.faults.push(Fault { kind, line, detail });
        }
    }

    fn malformed<T>(&mut self, expected: &str) -> Result<T, NotJson> {
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(character) => format!("expected {expected}, found `{character}`"),
            None => format!("expected {expected}, found the end"),
        };
        self.fault(FaultKind::Malformed, found);
        Err(NotJson)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }

    fn value(&mut self) -> Result<Value, NotJson> {
        self.blanks();
        match self.peek() {
            Some(b'{' | b'[') if self.depth >= DEPTH => self.skip(),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b't') if self.take("true") => Ok(Value::Bool(true)),
            Some(b'f') if self.take("false") => Ok(Value::Bool(false)),
            Some(b'n') if self.take("null") => Ok(Value::Null),
            Some(b'N' | b'I' | b'-' | b'0'..=b'9') => self.number(),
            _ => self.malformed("a value"),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, NotJson>) -> Result<Value, NotJson> {
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, NotJson> {
        let mut map = Map::new();
        self.blanks();
        if self.take("}") {
            return Ok(Value::Object(map));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return self.malformed("a key");
            }
            let key = self.string()?;
            self.blanks();
            if !self.take(":") {
                return self.malformed("`:`");
            }
            let value = self.value()?;
            if map.insert(key.clone(), value).is_some() {
                self.fault(FaultKind::Duplicate, key);
            }
            self.blanks();
            if self.take("}") {
                return Ok(Value::Object(map));
            }
            if !self.take(",") {
                return self.malformed("`,` or `}`");
            }
        }
    }

    fn array(&mut self) -> Result<Value, NotJson> {
        let mut items = Vec::new();
        self.blanks();
        if self.take("]") {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.blanks();
            if self.take("]") {
                return Ok(Value::Array(items));
            }
            if !self.take(",") {
                return self.malformed("`,` or `]`");
            }
        }
    }

    /// Passes over a container that nests too deep, without a stack.
    fn skip(&mut self) -> Result<Value, NotJson> {
        self.fault(FaultKind::Deep, format!("more than {DEPTH} levels"));
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'{' | b'[') => open += 1,
                Some(b'}' | b']') => open -= 1,
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                None => return self.malformed("the end of a container"),
                Some(_) => {}
            }
            self.at += 1;
            if open == 0 {
                return Ok(Value::Null);
            }
        }
    }

    fn number(&mut self) -> Result<Value, NotJson> {
        for word in ["NaN", "Infinity", "-Infinity"] {
            if self.take(word) {
                self.fault(FaultKind::NonFinite, word.into());
                return Ok(Value::Null);
            }
        }
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        // The grammar's details, such as leading zeros, are serde_json's; it refuses what is too large.
        if let Ok(number) = serde_json::from_str::<Number>(text) {
            return Ok(Value::Number(number));
        }
        if text.parse::<f64>().is_ok_and(f64::is_infinite) {
            self.fault(FaultKind::NonFinite, text.chars().take(40).collect());
            return Ok(Value::Null);
        }
        self.at = start;
        self.malformed("a number")
    }

    /// A string; `at` is on its opening quote.
    fn string(&mut self) -> Result<String, NotJson> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            // Both ends are at ASCII bytes or the ends of the text.
            out.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => self.escape(&mut out)?,
                _ => return self.malformed("the end of a string"),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), NotJson> {
        self.at += 1;
        let plain = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(out),
            _ => return self.malformed("an escape"),
        };
        self.at += 1;
        out.push(plain);
        Ok(())
    }

    fn unicode(&mut self, out: &mut String) -> Result<(), NotJson> {
        self.at += 1;
        let Some(first) = self.hex() else { return self.malformed("four hex digits") };
        if let Some(character) = char::from_u32(first) {
            out.push(character);
            return Ok(());
        }
        let before = self.at;
        if first < 0xdc00 && self.take("\\u") {
            if let Some(second) = self.hex().filter(|second| (0xdc00..0xe000).contains(second)) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                out.extend(char::from_u32(code));
                return Ok(());
            }
            self.at = before;
        }
        self.fault(FaultKind::Surrogate, format!("U+{first:04X}"));
        out.push('\u{fffd}');
        Ok(())
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds(text: &str) -> Vec<FaultKind> {
        read(text).faults.iter().map(|fault| fault.kind).collect()
    }

    #[test]
    fn reads_what_serde_json_reads() {
        for text in
            [r#"{"a": [1, -2.5e3, true, null, "x\n\u00e9\ud83d\ude00"], "b": {}}"#, "[]", " 3 ", r#""\\\"""#]
        {
            let document = read(text);
            assert_eq!(document.value, serde_json::from_str(text).ok(), "{text}");
            assert_eq!(document.faults, [], "{text}");
        }
    }

    #[test]
    fn faults_do_not_hide_values() {
        let document = read(r#"{"a": NaN, "b": 1, "b": 2, "c": 1e999, "d": "\ud800x"} {}"#);
        assert_eq!(document.value, Some(json!({"a": null, "b": 2, "c": null, "d": "\u{fffd}x"})));
        let kinds: Vec<FaultKind> = document.faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(
            kinds,
            [
                FaultKind::NonFinite,
                FaultKind::Duplicate,
                FaultKind::NonFinite,
                FaultKind::Surrogate,
                FaultKind::Trailing
            ]
        );
    }

    #[test]
    fn depth_is_bounded_and_the_rest_is_read() {
        let deep = format!(r#"{{"a": {}1{}, "b": 2}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let document = read(&deep);
        assert_eq!(document.faults.len(), 1);
        assert_eq!(document.faults[0].kind, FaultKind::Deep);
        assert_eq!(document.value.expect("an object")["b"], 2);
    }

    #[test]
    fn other_text_is_malformed() {
        for text in
            ["", "{", "[1,]", "{'a': 1}", "// x\n{}", "01", "\"\u{1}\"", "tru", "{\"a\" 1}", "\"\\u12\""]
        {
            assert_eq!(kinds(text).last(), Some(&FaultKind::Malformed), "{text}");
            assert_eq!(read(text).value, None, "{text}");
        }
        assert_eq!(kinds("\u{feff}{}"), [FaultKind::ByteOrderMark]);
    }
}
