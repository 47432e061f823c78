//! The comparison with other relays, as it stands in the tree, tells of every row that can be asked.
//!
//! The run itself takes minutes: `make peers`.

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
    let relays = document
        .lines()
        .find_map(|line| line.strip_prefix("| # | case |"));
    let mut relays: Vec<_> = cells(relays.unwrap()).collect();
    let next = relays.remove(2);
    // That of Debian's next release has its version in its name, which changes there.
    assert!(
        next.starts_with("systemd-socket-proxyd 2"),
        "{next}: the one of another systemd"
    );
    assert_eq!(
        relays,
        [
            "vsock-bridge",
            "systemd-socket-proxyd",
            "socat",
            "socat -t 86400",
            "HAProxy",
            "nginx"
        ]
    );
    let rows: Vec<_> = document.lines().filter(|line| is_row(line)).collect();
    assert!(!rows.is_empty());
    for row in rows {
        let answers: Vec<_> = cells(row).skip(3).collect();
        assert_eq!(answers.len(), relays.len() + 1, "{row}");
        for answer in answers {
            assert!(["yes", "**no**", "-"].contains(&answer), "{row}");
        }
    }
}

#[test]
fn the_documents_name_the_versions_that_were_asked() {
    let document = read("docs/faults.md");
    let versions: Vec<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("- systemd-socket-proxyd "))
        .filter_map(|rest| rest.split_once(':'))
        .map(|(version, _)| version)
        .take(2)
        .collect();
    let sentence = format!("systemd-socket-proxyd {}", versions.join(" and "));
    for name in ["README.md", "docs/others.md"] {
        assert!(read(name).contains(&sentence), "{name} lacks {sentence}");
    }
    assert!(
        document.contains(concat!("- vsock-bridge ", env!("CARGO_PKG_VERSION"), ": ")),
        "docs/faults.md is of another version; run make peers"
    );
}

#[test]
fn each_no_of_the_document_says_what_was_seen_and_each_gap_why() {
    let document = read("docs/faults.md");
    let count = |text: &str| {
        let rows = document.lines().filter(|line| is_row(line));
        rows.flat_map(cells).filter(|cell| *cell == text).count()
    };
    let below = |title: &str| {
        let (_, rest) = document.split_once(title).unwrap_or_default();
        let lines = rest.lines().skip(2);
        lines.take_while(|line| line.starts_with("- ")).count()
    };
    assert_eq!(below("## What was seen where it says no"), count("**no**"));
    assert_eq!(below("## Why some were not asked"), count("-"));
}

/// What stands between the strokes.
fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.trim_end_matches('|').split('|').map(str::trim)
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
    ["rows_of_bytes.py", "rows_of_life.py", "rows_of_reports.py"]
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
