//! As much of XML Schema as `schemas/junit-10.xsd` uses to say which elements and attributes there are: children by
//! reference, attributes and the required ones. What it says about the order of children and the form of numbers is
//! left to `xmllint` (see `benches/report/`).

use std::collections::{BTreeMap, BTreeSet};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

const SCHEMA: &str = include_str!("../../../schemas/junit-10.xsd");

#[derive(Default)]
struct Element {
    children: BTreeSet<String>,
    attributes: BTreeSet<String>,
    required: BTreeSet<String>,
}

fn attributes(tag: &BytesStart<'_>) -> BTreeMap<String, String> {
    tag.attributes()
        .map(|attribute| {
            let attribute = attribute.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(attribute.key.as_ref()), text(&attribute.value))
        })
        .collect()
}

fn name(tag: &BytesStart<'_>) -> String {
    String::from_utf8(tag.name().as_ref().to_vec()).unwrap()
}

/// The top-level elements of the schema.
fn elements() -> BTreeMap<String, Element> {
    let mut reader = Reader::from_str(SCHEMA);
    let mut elements: BTreeMap<String, Element> = BTreeMap::new();
    let mut depth = 0;
    let mut current = None;
    loop {
        let (tag, opens) = match reader.read_event().unwrap() {
            Event::Start(tag) => (tag, true),
            Event::Empty(tag) => (tag, false),
            Event::End(_) => {
                depth -= 1;
                if depth == 1 {
                    current = None;
                }
                continue;
            }
            Event::Eof => return elements,
            _ => continue,
        };
        let given = attributes(&tag);
        match (name(&tag).as_str(), &current) {
            ("xs:element", _) if depth == 1 => {
                elements.insert(given["name"].clone(), Element::default());
                current = opens.then(|| given["name"].clone());
            }
            ("xs:element", Some(parent)) => {
                elements.get_mut(parent).unwrap().children.insert(given["ref"].clone());
            }
            ("xs:attribute", Some(parent)) => {
                let parent = elements.get_mut(parent).unwrap();
                parent.attributes.insert(given["name"].clone());
                if given.get("use").is_some_and(|form| form == "required") {
                    parent.required.insert(given["name"].clone());
                }
            }
            _ => {}
        }
        depth += i32::from(opens);
    }
}

/// Where a document is not what the schema says; the document must be well-formed.
pub(super) fn failures(document: &str) -> Vec<String> {
    let elements = elements();
    assert!(elements["testsuite"].required.contains("errors"), "the schema was read");
    let mut reader = Reader::from_str(document);
    reader.config_mut().check_end_names = true;
    let mut failures = Vec::new();
    let mut path: Vec<String> = Vec::new();
    loop {
        let (tag, opens) = match reader.read_event().unwrap() {
            Event::Start(tag) => (tag, true),
            Event::Empty(tag) => (tag, false),
            Event::End(_) => {
                path.pop();
                continue;
            }
            Event::Eof => return failures,
            _ => continue,
        };
        let name = name(&tag);
        match path.last() {
            None if name == "testsuites" => {}
            Some(parent) if elements.get(parent).is_some_and(|element| element.children.contains(&name)) => {}
            parent => failures.push(format!("{name} in {parent:?}")),
        }
        if let Some(element) = elements.get(&name) {
            let given: BTreeSet<String> = attributes(&tag).into_keys().collect();
            failures.extend(given.difference(&element.attributes).map(|more| format!("{name} has {more}")));
            failures.extend(element.required.difference(&given).map(|less| format!("{name} lacks {less}")));
        }
        if opens {
            path.push(name);
        }
    }
}
