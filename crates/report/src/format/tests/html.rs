//! The page: nothing comes from elsewhere, its policy fits it, and it stays small.

use super::{records, render};
use crate::format::html::source;
use crate::record::Record;

/// What stands between two marks, the first time.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap();
    rest.split_once(to).unwrap().0
}

/// A record with so many rows in its two large tables.
pub(super) fn large(rows: usize) -> Record {
    let (_, mut record) = records().next().unwrap();
    let repeat = |count: usize| (0..rows).map(move |row| row % count);
    let evidence = &mut record.evidence;
    evidence.screened = repeat(evidence.screened.len()).map(|row| evidence.screened[row].clone()).collect();
    evidence.answers = repeat(evidence.answers.len()).map(|row| evidence.answers[row].clone()).collect();
    record
}

#[test]
fn the_policy_names_the_style_and_the_script_of_the_page_and_nothing_else() {
    let (_, record) = records().next().unwrap();
    let page = render("html", &record);
    let policy = between(&page, "http-equiv=\"Content-Security-Policy\" content=\"", "\"");
    let style = source(between(&page, "<style>", "</style>"));
    let script = source(between(&page, "<script>", "</script>"));
    let expected = format!(
        "default-src 'none'; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"
    );
    assert_eq!(policy, expected);
}

#[test]
fn nothing_comes_from_elsewhere() {
    for (_, record) in records() {
        let page = render("html", &record).replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for outside in [" src=", "url(", "@import", "<link", "<iframe", " style=\"", "http://", "https://"] {
            // A URL may be a payload; then it stands in a text, not in an attribute.
            let at = page.find(outside).map(|at| &page[at.saturating_sub(60)..(at + 60).min(page.len())]);
            let payload = at.is_some_and(|at| outside.starts_with("http") && !at.contains("href"));
            assert!(at.is_none() || payload, "{outside}: {at:?}");
        }
        for link in page.split("href=\"").skip(1) {
            assert!(link.starts_with('#'), "{}", &link[..40.min(link.len())]);
        }
    }
}

#[test]
fn the_verdict_and_its_reasons_come_first() {
    let (_, record) = records().next().unwrap();
    let page = render("html", &record);
    let (_, main) = page.split_once("<main>").unwrap();
    assert!(between(main, "<h1", "</h1>").ends_with(record.judgement.verdict.title()));
    let reasons = main.find("class=\"reasons\"").unwrap();
    for later in ["id=\"triggers\"", "id=\"behaviour\"", "id=\"coverage\"", "id=\"provenance\""] {
        assert!(main.find(later).unwrap() > reasons, "{later}");
    }
}

#[test]
fn two_thousand_rows_are_below_five_megabytes() {
    let page = render("html", &large(2000));
    assert!(page.matches("<tr>").count() > 4000);
    assert!(page.len() < 5_000_000, "{}", page.len());
    assert!(render("markdown", &large(2000)).chars().count() < 65_536);
}
