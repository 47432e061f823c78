//! The links of the documents lead to files and headings that are there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::examples::root;

#[test]
fn each_link_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links_of(&text).filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                _ => document.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: no file {link}", document.display());
            let is_there = heading.is_empty() || has_heading(&target, heading);
            assert!(is_there, "{}: no heading {link}", document.display());
            links += 1;
        }
    }
    assert!(links > 60, "{links} links");
}

pub fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/recipes", "tests"].map(|folder| root().join(folder));
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// Gives what stands in the brackets of `[text](link)`, outside of code.
fn links_of(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| !line.starts_with("    "));
    lines.flat_map(|line| {
        let ends = line.split("](").skip(1);
        ends.filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
    })
}

/// Tells whether a document has the heading, written as GitHub does in links.
fn has_heading(document: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(document).unwrap();
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    headings.any(|line| anchor(line.trim_start_matches('#').trim()) == wanted)
}

fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}
