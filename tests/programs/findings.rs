//! Every text of `vsockctl check` is in the table `tests/systemd/findings`: with the case that brings it about, or the reason
//! why none can. A new one is not forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::common::examples::root;

const SOURCE: &str = "src/programs/ctl/check";
const TABLE: &str = "tests/systemd/findings";

#[test]
fn each_text_of_check_is_in_the_table_of_those_that_are_tested() {
    let table = table();
    let said = texts_of_source();
    let known: BTreeSet<String> = table.keys().cloned().collect();
    let untested: Vec<_> = said.difference(&known).collect();
    let gone: Vec<_> = known.difference(&said).collect();
    assert!(untested.is_empty(), "not in {TABLE}: {untested:#?}");
    assert!(
        gone.is_empty(),
        "in {TABLE}, but not in {SOURCE}: {gone:#?}"
    );
    assert!(said.len() > 100, "{}", said.len());
}

#[test]
fn each_heading_of_the_table_is_a_case_or_has_its_reason() {
    let headings: BTreeSet<String> = table().into_values().collect();
    for heading in &headings {
        let (kind, rest) = heading.split_once(' ').unwrap_or((heading, ""));
        let is_right = match kind {
            // The case itself fails unless each of its lines was seen, and its command followed.
            "case" => root().join("tests/systemd/cases").join(rest).exists(),
            "vm" => root().join("tests/vm/cases").join(rest).exists(),
            "not:" => rest.len() > 20,
            "ok" | "part" => rest.is_empty(),
            _ => false,
        };
        assert!(is_right, "[{heading}]");
    }
}

/// Each text with its heading.
fn table() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join(TABLE)).unwrap();
    let mut heading = String::new();
    let mut table = BTreeMap::new();
    for line in text.lines() {
        let name = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        match name {
            Some(name) => name.clone_into(&mut heading),
            None if line.is_empty() || line.starts_with('#') => {}
            None => {
                let former = table.insert(line.to_owned(), heading.clone());
                assert_eq!(former, None, "twice: {line}");
            }
        }
    }
    table
}

/// Texts of several words in the files that make findings, without what is only for tests.
fn texts_of_source() -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    for entry in fs::read_dir(root().join(SOURCE)).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        if code.contains("Finding") {
            texts.extend(texts_in(code));
        }
    }
    texts
}

fn texts_in(code: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(['"', '/', '\'']) {
        rest = &rest[start..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with('"') {
            let end = end_of_text(rest);
            texts.push(joined(&rest[1..end]));
            end + 1
        } else {
            1
        };
        rest = &rest[length..];
    }
    texts.retain(|text| text.trim().contains(' '));
    texts
}

/// Finds the sign that ends it.
fn end_of_text(text: &str) -> usize {
    let mut is_escaped = true;
    text.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })
    .unwrap()
}

/// Takes the line breaks out that the source has and the text has not.
fn joined(text: &str) -> String {
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}
