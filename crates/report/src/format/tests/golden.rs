//! What each format makes of the committed records, byte for byte. A change is written with
//! `TRIGGERFISH_UPDATE_GOLDENS=1 cargo test -p report golden`, and read before it is committed.

use std::path::PathBuf;

use super::{records, render, texts};
use crate::format::FORMATS;

#[test]
fn every_format_of_every_record() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens/format");
    let update = std::env::var_os("TRIGGERFISH_UPDATE_GOLDENS").is_some();
    let mut changed = Vec::new();
    for format in texts() {
        for (name, record) in records() {
            let found = render(format.name(), &record);
            assert_eq!(found, render(format.name(), &record), "the same bytes each time");
            let path = folder.join(format!("{name}.{}", format.name()));
            if update {
                std::fs::write(&path, &found).unwrap();
            } else if std::fs::read_to_string(&path).ok().as_deref() != Some(&found) {
                changed.push(path);
            }
        }
    }
    assert!(changed.is_empty(), "these are written otherwise: {changed:?}");
}

#[test]
fn a_record_survives_json() {
    for (name, record) in records() {
        let text = render("json", &record);
        assert_eq!(serde_json::from_str::<crate::record::Record>(&text).unwrap(), record, "{name}");
    }
}

#[test]
fn records_of_earlier_minor_versions_are_read() {
    let (_, mut record) = records().next().unwrap();
    record.evidence.answers.clear();
    record.comparison = None;
    for tested in &mut record.evidence.tested {
        tested.examples.iter_mut().for_each(|example| example.scores = None);
        tested.characterisation = None;
    }
    let text = render("json", &record);
    assert!(!text.contains("scores") && !text.contains("answers"));
    assert_eq!(serde_json::from_str::<crate::record::Record>(&text).unwrap(), record);
    for format in FORMATS {
        format.render(&record).unwrap();
    }
}
