//! Every fuzz target over its seeds, and what a fuzzer once found: without a fuzzer, and in each run of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vsock_bridge::fuzzing::TARGETS;

#[test]
fn every_seed_passes_its_target() {
    for (name, target) in TARGETS {
        let folder = folder("seeds").join(name);
        let mut count = 0;
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            // Shown if the test fails.
            eprintln!("{}", path.display());
            target(&fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}

#[test]
fn every_target_has_a_program_for_the_fuzzer() {
    let programs = fs::read_dir(folder("fuzz_targets")).unwrap();
    let programs: BTreeSet<_> = programs
        .map(|file| file.unwrap().path().file_stem().unwrap().to_owned())
        .collect();
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).into()).collect();
    assert_eq!(programs, targets);
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(name)
}
