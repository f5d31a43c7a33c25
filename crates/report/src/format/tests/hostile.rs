//! Text of an attacker in every string of a record: nothing of it acts, and nothing of it hides.

use super::{records, render, with_strings};
use crate::record::Record;

/// What could end a style, a script, an attribute, a code span, a table cell or a line; run as HTML; move a cursor;
/// reverse a line; hide; become a formula, a link or a mention.
const HOSTILE: &str = "=1+1|</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`` ` ]]>--> \
    \u{1b}[2J\u{1b}]8;;http://evil.example\u{7}\u{9b}31m\u{202e}txt.exe\u{200b}\u{e0041}\0\u{ffff}\r\n\
    | a | b |\n# h\n@everyone [x](javascript:alert(1)) www.evil.example http://evil.example &lt;b&gt; {{ 7*7 }}";

fn hostile(record: &Record) -> Record {
    with_strings(record, |count| format!("{HOSTILE}{count}"))
}

/// What no reader of text may get from a model.
fn assert_visible(format: &str, text: &str) {
    for character in ['\u{9b}', '\u{202e}', '\u{e0041}', '\0', '\u{ffff}', '\r', '\u{7}'] {
        assert!(!text.contains(character), "{format}: {character:?}");
    }
    assert!(!text.contains("\u{1b}[2J") && !text.contains("\u{1b}]8"), "{format}");
    assert!(text.contains("\\u{202e}txt.exe"), "{format}: it is shown as text");
}

/// The tags of a document with the names of their attributes, in order.
fn skeleton(document: &str) -> Vec<String> {
    let mut tags = Vec::new();
    for part in document.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("every tag ends");
        let mut quoted = false;
        let outside: String = tag
            .chars()
            .filter(|&c| {
                quoted ^= c == '"';
                !quoted && c != '"'
            })
            .collect();
        tags.push(outside);
    }
    tags
}

#[test]
fn text_for_a_terminal() {
    for (_, record) in records() {
        assert_visible("text", &render("text", &hostile(&record)));
    }
}

#[test]
fn html_keeps_its_structure() {
    for (_, record) in records() {
        let page = render("html", &hostile(&record));
        assert_visible("html", &page);
        let harmless = with_strings(&record, |count| format!("x{count}"));
        // Plots have a tick more or less, but no other tags.
        let without_plots = |page: &str| {
            let mut rest = String::new();
            for part in page.split("<svg") {
                rest += part.split_once("</svg>").map_or(part, |(_, after)| after);
            }
            skeleton(&rest)
        };
        let (found, expected) = (without_plots(&page), without_plots(&render("html", &harmless)));
        let difference = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert_eq!(difference, None);
        assert_eq!(found.len(), expected.len());
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
        assert_eq!((page.matches("<style").count(), page.matches("</style").count()), (1, 1));
        for svg in page.split("<svg").skip(1) {
            let (svg, _) = svg.split_once("</svg>").unwrap();
            let known = ["rect", "text", "/text", "polyline", "circle", "line", "polygon"];
            for tag in skeleton(&format!("<{svg}")).iter().skip(1) {
                let name = tag.split([' ', '\n']).next().unwrap_or_default().trim_end_matches('/');
                assert!(known.contains(&name), "{tag}");
            }
        }
    }
}

#[test]
fn markdown_is_text_outside_of_its_own_marks() {
    for (_, record) in records() {
        let page = render("markdown", &hostile(&record));
        assert_visible("markdown", &page);
        let mut outside = String::new();
        for line in page.lines() {
            outside += &without_code(line);
            outside.push('\n');
        }
        for own in ["<details>", "</details>", "<summary>", "</summary>"] {
            outside = outside.replace(own, "");
        }
        for markup in ["<", "](", "@everyone", "www.", "http:", "javascript:", "`"] {
            assert!(!outside.contains(markup), "{markup}: {outside}");
        }
        assert!(page.chars().count() < 65_536, "GitHub takes no longer comment");
    }
}

/// A line without its code spans, as CommonMark finds them: a run of backticks to the next run of that length.
fn without_code(line: &str) -> String {
    let (mut outside, mut rest) = (String::new(), line);
    while let Some(start) = rest.find('`') {
        outside += &rest[..start];
        let run = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let after = &rest[start + run..];
        let mut at = 0;
        let end = loop {
            let Some(next) = after[at..].find('`') else { break None };
            let begin = at + next;
            let length = after[begin..].len() - after[begin..].trim_start_matches('`').len();
            if length == run {
                break Some(begin + length);
            }
            at = begin + length;
        };
        match end {
            Some(end) => rest = &after[end..],
            None => {
                outside += &rest[start..start + run];
                rest = after;
            }
        }
    }
    outside + rest
}

#[test]
fn xml_keeps_its_structure() {
    for (name, record) in records() {
        let document = render("junit", &hostile(&record));
        assert_visible("junit", &document);
        let failures = super::junit_schema::failures(&document);
        assert!(failures.is_empty(), "{name}: {failures:#?}");
        let harmless = with_strings(&record, |count| format!("x{count}"));
        assert_eq!(skeleton(&document), skeleton(&render("junit", &harmless)), "{name}");
    }
}

#[test]
fn cells_are_text_and_each_line_has_them_all() {
    for (_, record) in records() {
        let table = render("csv", &hostile(&record));
        assert_visible("csv", &table.replace("\r\n", "\n"));
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        let columns = reader.headers().unwrap().len();
        let mut lines = 0;
        for line in reader.records() {
            let line = line.unwrap();
            assert_eq!(line.len(), columns);
            for cell in line.iter().filter(|cell| cell.parse::<f64>().is_err()) {
                assert!(!cell.starts_with(['=', '+', '-', '@', '|']), "{cell}");
            }
            lines += 1;
        }
        assert!(lines > 20);
    }
}

#[test]
fn json_gives_back_what_was_found_and_sarif_shows_it() {
    for (name, record) in records() {
        let hostile = hostile(&record);
        let back: Record = serde_json::from_str(&render("json", &hostile)).unwrap();
        assert_eq!(back, hostile, "{name}: evidence is not altered");
        for line in render("jsonl", &hostile).lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        let log = render("sarif", &hostile);
        serde_json::from_str::<serde_json::Value>(&log).unwrap();
        assert!(!log.contains('\u{202e}') && !log.contains("\\u001b"), "{name}");
    }
}
