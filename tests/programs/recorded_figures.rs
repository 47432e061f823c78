//! The recorded runs in the tree: their pictures are drawn from them, and they are complete.

use std::fs;
use std::path::Path;

use crate::figures::recording::Recording;
use crate::figures::{goals, plot, summary};

const RUNS: [&str; 2] = ["relay", "vm"];

#[test]
fn each_picture_is_drawn_from_its_run() {
    for run in RUNS {
        assert!(
            plot::draw(&recording(run)) == read(run, "svg"),
            "{run}.svg is not drawn from {run}.jsonl: run make bench-plot"
        );
    }
}

#[test]
fn the_small_picture_is_drawn_from_the_run_of_relays() {
    assert!(
        summary::draw(&recording("relay")) == read("summary", "svg"),
        "summary.svg is not drawn from relay.jsonl: run make bench-plot"
    );
}

#[test]
fn the_runs_tell_of_every_goal() {
    let runs = RUNS.into_iter().map(recording);
    let all: Vec<_> = runs.flat_map(|run| run.measurements).collect();
    let report = goals::report(&all);
    assert!(report.contains("\ngoals not measured: 0\n"), "{report}");
}

fn recording(run: &str) -> Recording {
    Recording::parse(&read(run, "jsonl")).unwrap()
}

fn read(run: &str, extension: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    let path = folder.join(run).with_extension(extension);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
