//! Help and usage errors of all programs: `-h` is a line for each option, `--help` whole sentences, an error one line.

use std::collections::BTreeSet;

use crate::common::program::{Finished, command, finish, ours};

const PROGRAMS: [&str; 6] = [
    "vsock-bridge",
    "vsock-exec",
    "vsock-connect",
    "vsock-notify",
    "vsockctl",
    "vsock-bridge-generator",
];
/// Options that clap tells of.
const OF_CLAP: [&str; 2] = ["--help", "--version"];

fn run(program: &str, arguments: &[&str]) -> Finished {
    let mut command = command(ours(program));
    command.args(arguments).env("COLUMNS", "100");
    finish(command)
}

/// Every command of a program, as words.
fn commands(program: &str) -> Vec<Vec<String>> {
    let (mut all, mut rest) = (Vec::new(), vec![Vec::<String>::new()]);
    while let Some(path) = rest.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["-h"]).collect();
        let help = run(program, &words).stdout;
        let names = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in names.take_while(|line| !line.is_empty()) {
            let name = line.split_whitespace().next().unwrap().to_owned();
            if name != "help" {
                rest.push(path.iter().cloned().chain([name]).collect());
            }
        }
        all.push(path);
    }
    all
}

fn help(program: &str, path: &[String], option: &str) -> String {
    let words: Vec<&str> = path.iter().map(String::as_str).chain([option]).collect();
    let finished = run(program, &words);
    assert_eq!(
        (finished.code, finished.stderr.len()),
        (0, 0),
        "{finished:#?}"
    );
    finished.stdout
}

/// What stands under "Options:", by option.
fn options(help: &str) -> Vec<(String, String)> {
    let mut options: Vec<(String, String)> = Vec::new();
    let lines = help.lines().skip_while(|line| *line != "Options:").skip(1);
    for line in lines.take_while(|line| line.is_empty() || line.starts_with("  ")) {
        let text = line.trim_start();
        if text.starts_with('-') {
            let long = text
                .split([' ', ',', '.', '['])
                .find(|word| word.starts_with("--"));
            options.push((long.unwrap().to_owned(), String::new()));
        } else if let Some((_, entry)) = options.last_mut() {
            entry.push_str(&format!("{text}\n"));
        }
    }
    options
}

#[test]
fn the_short_help_is_a_line_for_each_option_and_the_long_one_has_sentences() {
    for program in PROGRAMS {
        for path in commands(program) {
            let (short, long) = (help(program, &path, "-h"), help(program, &path, "--help"));
            for (option, more) in options(&short) {
                assert_eq!(more, "", "{program} {path:?} {option}");
            }
            assert!(!short.contains("[env: "), "{program} {path:?}");
            let (short, long) = (options(&short), options(&long));
            let names = |options: &[(String, String)]| -> BTreeSet<String> {
                options.iter().map(|(name, _)| name.clone()).collect()
            };
            assert_eq!(names(&short), names(&long), "{program} {path:?}");
            for (option, text) in long.iter().filter(|(name, _)| !OF_CLAP.contains(&&**name)) {
                let sentences = text
                    .split("\n\n")
                    .filter(|text| text.trim_end().ends_with(['.', ']']));
                assert!(
                    sentences.count() >= 2,
                    "{program} {path:?} {option}: {text:?}"
                );
            }
        }
    }
}

#[test]
fn a_command_has_no_option_in_its_help_that_says_nothing_to_it() {
    for (path, idle) in [
        (&["check"][..], &["--names"][..]),
        (&["list"], &["--prefix", "--names"]),
        (&["machines"], &["--prefix"]),
        (&["metrics"], &["--prefix", "--names"]),
        (&["prefix"], &["--names"]),
        (&["prefix", "show"], &["--names"]),
        (&["prefix", "generate"], &["--prefix", "--names"]),
        (&["prefix", "down"], &["--prefix", "--names"]),
        (&["rules"], &[]),
        (&["addr"], &[]),
        (&["cid"], &[]),
        (&["hosts"], &[]),
    ] {
        let path: Vec<String> = path.iter().map(|word| word.to_string()).collect();
        let shown = options(&help("vsockctl", &path, "--help"));
        for option in ["--prefix", "--names"] {
            let is_shown = shown.iter().any(|(name, _)| name == option);
            assert_eq!(is_shown, !idle.contains(&option), "{path:?} {option}");
        }
    }
    // They may stand there all the same, as in scripts that were written before.
    let finished = run(
        "vsockctl",
        &[
            "prefix", "generate", "--names", "web=3", "--prefix", "fd00::",
        ],
    );
    assert_eq!(
        (finished.code, finished.stderr.len()),
        (0, 0),
        "{finished:#?}"
    );
    let finished = run(
        "vsockctl",
        &["addr", "web", "--names", "web=3", "--prefix", "fd00::"],
    );
    assert_eq!(finished.stdout, "fd00::3\n");
}

#[test]
fn what_is_misspelt_is_told_with_what_is_meant_and_a_value_once() {
    let long = format!("/{}", "x".repeat(200));
    for (program, arguments, said) in [
        (
            "vsock-bridge",
            &["--too", "x"][..],
            "unexpected argument '--too' found; a similar argument exists: '--to'; see --help",
        ),
        (
            "vsockctl",
            &["lst"],
            "unrecognized subcommand 'lst'; a similar subcommand exists: 'list'; see --help",
        ),
        (
            "vsockctl",
            &["list", "--jsn"],
            "unexpected argument '--jsn' found; a similar argument exists: '--json'; see --help",
        ),
        (
            "vsockctl",
            &["--prefix", &long, "addr", "3"],
            &format!(
                "--prefix: {long:?} is not a valid prefix: the length must be /64; see --help"
            ),
        ),
        (
            "vsock-connect",
            &["--wait", "5x", "3"],
            "--wait: \"5x\" is not a valid time: expected e.g. 500ms, 5s, 10min, 1h 30min or infinity; see --help",
        ),
    ] {
        let finished = run(program, arguments);
        assert_eq!(finished.code, 2, "{finished:#?}");
        assert_eq!(finished.stderr, [format!("{program}: {said}")]);
    }
}
