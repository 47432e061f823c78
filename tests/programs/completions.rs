//! The completions of the shells: they have what the programs have, and complete commands, options and machines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::own_etc::OwnEtc;
use crate::common::program::{command, finish, ours, path_with_ours};
use crate::common::{own_folder, skipped};

const VSOCKCTL: &str = "vsockctl";
const CONNECT: &str = "vsock-connect";
/// Files with the programs that they complete.
const FILES: [(&str, &[&str]); 4] = [
    ("vsock.bash", &[VSOCKCTL, CONNECT]),
    ("_vsock", &[VSOCKCTL, CONNECT]),
    ("vsockctl.fish", &[VSOCKCTL]),
    ("vsock-connect.fish", &[CONNECT]),
];
const SETTINGS: &str = "VSOCK_BRIDGE_PREFIX=fd00::/64\nVSOCK_BRIDGE_NAMES=\"web=3 db=4\"\n";
/// What is completed, with the word that comes of it among others.
const LINES: &[(&str, &[&str])] = &[
    ("vsockctl ", &["addr", "check", "prefix", "metrics"]),
    ("vsockctl pre", &["prefix"]),
    ("vsockctl prefix g", &["generate"]),
    (
        "vsockctl --prefix fd00::/64 addr ",
        &["host", "web", "3", "local"],
    ),
    ("vsockctl cid w", &["web"]),
    ("vsockctl hosts --re", &["--remove", "--resolved"]),
    ("vsockctl list --", &["--json", "--watch"]),
    ("vsockctl metrics --o", &["--openmetrics"]),
    ("vsockctl forward --p", &["--persistent"]),
    ("vsock-connect d", &["db"]),
    ("vsock-connect --f", &["--fdpass"]),
    ("vsock-connect lib", &["libvirt/"]),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions")
}

fn help(program: &str, subcommands: &[String]) -> String {
    let mut command = command(ours(program));
    command.args(subcommands).arg("--help");
    finish(command).stdout
}

/// Returns the subcommands of a help.
fn subcommands(help: &str) -> impl Iterator<Item = String> {
    let section = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    section
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

/// Returns all subcommands and long options of a program.
fn offered(program: &str) -> BTreeSet<String> {
    let mut offered = BTreeSet::new();
    let mut rest = vec![Vec::new()];
    while let Some(path) = rest.pop() {
        let help = help(program, &path);
        let lines = help.lines().map(str::trim_start);
        let options = lines.filter(|line| line.starts_with('-'));
        let words = options.flat_map(|line| line.split([' ', ',', '.', '[']).map(str::to_owned));
        offered.extend(words.filter(|word| word.starts_with("--")));
        for name in subcommands(&help) {
            offered.insert(name.clone());
            if name != "help" {
                rest.push(path.iter().cloned().chain([name]).collect());
            }
        }
    }
    offered
}

/// Returns the long options that a file names; fish has its own way to write them.
fn options(text: &str) -> BTreeSet<String> {
    let fish = text.lines().filter(|line| line.starts_with("complete "));
    let fish = fish.filter_map(|line| line.split(" -l ").nth(1)?.split(' ').next());
    let mut options: BTreeSet<String> = fish.map(|name| format!("--{name}")).collect();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let is_option = |word: &&str| word.len() > 3 && word.starts_with("--");
    let lines = text.lines().filter(|line| {
        !line.contains("string ") && !line.contains("2>/dev/null") && !line.contains(" -l ")
    });
    for line in lines {
        let words = line.split(|c: char| !is_part(c)).filter(is_option);
        options.extend(words.map(str::to_owned));
    }
    options
}

#[test]
fn each_option_and_subcommand_is_completed_and_no_other() {
    for (file, programs) in FILES {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        let offered: BTreeSet<String> = programs.iter().flat_map(|p| offered(p)).collect();
        let (longs, commands): (BTreeSet<_>, BTreeSet<_>) =
            (offered.into_iter()).partition(|word| word.starts_with("--"));
        assert!(longs.len() > 8, "{longs:?}");
        assert_eq!(options(&text), longs, "{file}");
        let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_lowercase()).collect();
        for name in commands {
            assert!(words.contains(&*name), "{file}: {name}");
        }
    }
}

/// Has a shell complete each line; `script` prints the candidates for the line in $1.
fn complete(shell: &str, arguments: &[&str], script: &str) {
    if command(shell).args(["-c", "true"]).output().is_err() {
        return skipped(&format!("{shell} is not installed"));
    }
    let Some(etc) = OwnEtc::new() else {
        return skipped("no mount namespaces here");
    };
    etc.write("vsock-bridge/vsock-bridge.conf", SETTINGS);
    let path = path_with_ours();
    let home = own_folder();
    for &(line, expected) in LINES {
        let mut command = etc.command(shell);
        command.args(arguments).args(["-c", script]);
        if shell != "fish" {
            command.arg(shell);
        }
        command.arg(line).arg(folder());
        command.env("PATH", &path).env("HOME", home.path());
        let finished = finish(command);
        let found: Vec<&str> = finished.stdout.lines().collect();
        for word in expected {
            assert!(found.contains(word), "{line:?}: {word}: {finished:#?}");
        }
        assert!(finished.stderr.is_empty(), "{line:?}: {finished:#?}");
        let start = line.rsplit(' ').next().unwrap();
        let is_fit = found.iter().all(|word| word.starts_with(start));
        assert!(is_fit, "{line:?}: {found:?}");
    }
}

#[test]
fn bash_completes() {
    let script = r#". "$2/vsock.bash"
        COMP_LINE=$1 COMP_POINT=${#1}
        function=$(complete -p "${1%% *}")
        function=${function#*-F }
        "${function%% *}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    complete("bash", &["--norc", "--noprofile"], script);
}

/// Completing itself needs a terminal.
#[test]
fn zsh_reads_it() {
    let mut zsh = command("zsh");
    zsh.args(["-f", "-n"]).arg(folder().join("_vsock"));
    if zsh.output().is_err() {
        return skipped("zsh is not installed");
    }
    let finished = finish(zsh);
    assert_eq!(
        (finished.code, finished.stderr.len()),
        (0, 0),
        "{finished:#?}"
    );
}

#[test]
fn fish_completes() {
    let script = "source $argv[2]/vsockctl.fish; source $argv[2]/vsock-connect.fish; \
        complete --do-complete \"$argv[1]\" | string split --fields 1 \\t";
    complete("fish", &["--no-config"], script);
}
