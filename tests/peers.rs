//! The comparison with other relays, as it stands in the tree, tells of every row that can be asked.
//!
//! The run itself takes minutes: `make peers`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_document_has_the_rows_of_the_program() {
    assert_eq!(rows_of_the_document(), rows_of_the_program());
}

#[test]
fn each_row_of_the_document_answers_for_every_relay() {
    let document = read("docs/faults.md");
    let rows: Vec<_> = document.lines().filter(|line| is_row(line)).collect();
    assert!(!rows.is_empty());
    for row in rows {
        let answers: Vec<_> = row.split('|').skip(3).map(str::trim).collect();
        let [ours, proxyd, socat, patient_socat, ""] = answers[..] else {
            panic!("{row}");
        };
        for answer in [ours, proxyd, socat, patient_socat] {
            assert!(["yes", "**no**"].contains(&answer), "{row}");
        }
    }
}

/// Lines such as `| 3 | client half-closes, the answer comes a while later | yes | …`.
fn rows_of_the_document() -> BTreeSet<String> {
    let document = read("docs/faults.md");
    let rows = document.lines().filter(|line| is_row(line));
    rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        format!("{} {}", cells[1], cells[2])
    })
    .collect()
}

fn is_row(line: &str) -> bool {
    line.strip_prefix("| ")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Lines such as `    """3 client half-closes, the answer comes a while later"""`.
fn rows_of_the_program() -> BTreeSet<String> {
    ["rows_of_bytes.py", "rows_of_life.py"]
        .iter()
        .flat_map(|file| {
            let text = read(&format!("tests/peers/{file}"));
            text.lines().filter_map(row).collect::<Vec<_>>()
        })
        .collect()
}

fn row(line: &str) -> Option<String> {
    let text = line.strip_prefix("    \"\"\"")?.strip_suffix("\"\"\"")?;
    text.starts_with(|c: char| c.is_ascii_digit())
        .then(|| text.to_owned())
}

fn read(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run make peers", path.display()))
}
