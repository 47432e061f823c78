//! The commands of README and docs are ones that there are: our programs take them, systemctl and journalctl know their words,
//! and units have a file. Whether they do what the text says is for the cases that run them.

use std::fs;
use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;
use vsock_bridge::programs::{bridge, connect, ctl, exec, notify};

use crate::common::examples::root;
use crate::common::program::{command, finish};
use crate::common::skipped;
use crate::documents::documents;

const OURS: [&str; 5] = [
    "vsockctl",
    "vsock-connect",
    "vsock-bridge",
    "vsock-exec",
    "vsock-notify",
];
const SYSTEMD: [&str; 2] = ["systemctl", "journalctl"];
/// What a word may stand behind to be a command.
const BEFORE: [&str; 8] = [
    "sudo",
    "do",
    "&&",
    ";",
    "|",
    "$(",
    "/vsock-bridge/",
    "ProxyCommand",
];
/// The program of others that has the name of ours.
const OTHER: [&str; 2] = ["vsock-bridge", "--guest"];

/// A command of a document.
#[derive(Debug)]
struct Command {
    words: Vec<String>,
    /// It stands in a line of text, which may name only a part of one.
    is_mentioned: bool,
}

#[test]
fn our_programs_take_each_command_of_theirs() {
    let mut commands = commands(&OURS);
    commands.retain(|command| !command.words.starts_with(&OTHER.map(str::to_owned)));
    assert!(commands.len() > 60, "{}", commands.len());
    let problems: Vec<String> = commands.iter().filter_map(problem_of_ours).collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn systemd_knows_the_words_of_each_command_and_units_has_ours() {
    let commands = commands(&SYSTEMD);
    assert!(commands.len() > 60, "{}", commands.len());
    for program in SYSTEMD {
        if !Path::new("/usr/bin").join(program).exists() {
            return skipped("systemd is not installed");
        }
        let mut asked = command(program);
        asked.arg("--help");
        let help = finish(asked).stdout;
        let of_it = commands
            .iter()
            .filter(|command| command.words[0] == program);
        let problems: Vec<String> = of_it
            .filter_map(|command| problem_of_systemd(command, &help))
            .collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

#[test]
fn slips_in_commands_are_found() {
    let help = "  -u --unit=UNIT   Show one\n     --now\nUnit Commands:\n  enable UNIT...\n";
    for (text, is_right) in [
        ("sudo vsockctl check --quiet", true),
        ("sudo vsockctl chek", false),
        ("curl \"http://[$(vsockctl addr 3)]:80/\"", true),
        ("curl \"http://[$(vsockctl addr --now 3)]:80/\"", false),
        ("DOCKER_HOST=x vsockctl list --wach | cat", false),
        ("systemctl enable --now vsock-bridge@{80,81}.socket", true),
        ("systemctl enable --now vsock-bridge@445", true),
        ("systemctl enabel vsock-bridge@445", false),
        ("systemctl enable --nwo vsock-bridge@445", false),
        ("systemctl enable vsock-bridge@445.sock", false),
        ("systemctl enable sshd-vsock.socket; vsockctl", true),
        ("systemctl enable \"vsock-bridge-mx@$(x).socket\"", false),
        ("systemctl enable -z web.service", false),
    ] {
        let all: Vec<&str> = OURS.into_iter().chain(SYSTEMD).collect();
        let found = commands_of(text, false, &all);
        assert!(!found.is_empty(), "{text}");
        let problem = (found.iter()).find_map(|command| match &*command.words[0] {
            "systemctl" => problem_of_systemd(command, help),
            _ => problem_of_ours(command),
        });
        assert_eq!(problem.is_none(), is_right, "{text}: {problem:?}");
    }
}

#[test]
fn what_is_to_be_installed_for_a_build_is_all_that_it_wants() {
    let prepare = fs::read_to_string(root().join("tests/prepare")).unwrap();
    let line = prepare
        .lines()
        .find(|line| line.trim().starts_with("deb) "));
    let wanted = line
        .unwrap()
        .split_whitespace()
        .filter_map(|word| word.split_once(':'));
    let wanted: Vec<&str> = wanted.map(|(_, package)| package).collect();
    assert!(wanted.len() > 5, "{wanted:?}");
    for document in ["README.md", "docs/install.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let line = text
            .lines()
            .find(|line| line.contains("apt install build-essential"));
        let named: Vec<&str> = line.unwrap().split_whitespace().collect();
        let missing: Vec<_> = wanted
            .iter()
            .filter(|package| !named.contains(package))
            .collect();
        assert!(missing.is_empty(), "{document}: {missing:?}");
    }
}

/// Returns why a program of ours does not take the words.
fn problem_of_ours(command: &Command) -> Option<String> {
    let words = &command.words;
    let problem = match &*words[0] {
        "vsockctl" => ctl::Arguments::try_parse_from(words).err(),
        "vsock-connect" => connect::Arguments::try_parse_from(words).err(),
        "vsock-exec" => exec::Arguments::try_parse_from(words).err(),
        "vsock-notify" => notify::Arguments::try_parse_from(words).err(),
        _ => bridge::Arguments::try_parse_from(words).err(),
    }?;
    let last = words.last().map_or("", |last| last);
    let has_gap = last.starts_with("--") || last.chars().all(|letter| letter.is_ascii_uppercase());
    let is_part = match problem.kind() {
        ErrorKind::MissingRequiredArgument => true,
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => has_gap,
        _ => false,
    };
    (!is_part || !command.is_mentioned).then(|| format!("{words:?}: {problem}"))
}

/// Returns which word is none that the help has, or which unit none of `units/`.
fn problem_of_systemd(command: &Command, help: &str) -> Option<String> {
    let words = &command.words[1..];
    let is_in_help = |word: &str| {
        let mut known = help.split([' ', '\n', '=', '[', ',']);
        known.any(|known| known == word)
    };
    let is_known = |word: &str| match word.split_once('=').map_or(word, |(option, _)| option) {
        option if option.starts_with("--") => is_in_help(option),
        option if option.starts_with('-') => {
            let mut letters = option.chars().skip(1);
            letters.all(|letter| is_in_help(&format!("-{letter}")))
        }
        _ => true,
    };
    let is_verb = |word: &str| command.words[0] == "journalctl" || is_in_help(word);
    let verb = words.iter().position(|word| !word.starts_with('-'));
    let is_right = |(index, word): (usize, &String)| {
        let is_name_in_journal = index > 0 && words[index - 1] == "-t";
        is_known(word)
            && (Some(index) != verb || is_verb(word))
            && (is_name_in_journal || is_unit(word))
    };
    let wrong = (words.iter().enumerate()).find(|&(index, word)| !is_right((index, word)));
    wrong.map(|(_, word)| format!("{:?}: {word}", command.words))
}

/// Returns whether a word is no unit of ours, or one that there is.
fn is_unit(word: &str) -> bool {
    let names = ["vsock-bridge", "vsock-exec", "sshd-vsock"];
    if !names.iter().any(|name| word.starts_with(name)) || word.contains('*') {
        return true;
    }
    let file = match (word.split_once('@'), word.rsplit_once('.')) {
        (Some((name, rest)), Some((_, kind))) if rest.contains('.') => format!("{name}@.{kind}"),
        (Some((name, _)), _) => format!("{name}@.service"),
        (None, Some((_, "socket" | "service" | "path"))) => word.to_owned(),
        _ => format!("{word}.service"),
    };
    let is_there = |end| root().join("units").join(format!("{file}{end}")).exists();
    is_there("") || is_there(".in")
}

/// Returns each command of all documents that begins with one of the programs.
fn commands(programs: &[&str]) -> Vec<Command> {
    let mut commands = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(document).unwrap().replace("\\\n", " ");
        let (shown, told): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("    "));
        let is_no_comment = |line: &&str| !line.trim().starts_with('#');
        for line in shown.into_iter().filter(is_no_comment) {
            commands.extend(commands_of(line.trim(), false, programs));
        }
        // A span may go over the end of a line, but no farther than its paragraph.
        for paragraph in told.join("\n").split("\n\n") {
            for span in paragraph.split('`').skip(1).step_by(2) {
                commands.extend(commands_of(&span.replace('\n', " "), true, programs));
            }
        }
    }
    commands
}

/// Returns each command in a line that begins with one of the programs.
fn commands_of(text: &str, is_mentioned: bool, programs: &[&str]) -> Vec<Command> {
    let is_start = |index: usize| {
        let before = text[..index].trim_end_matches(' ');
        let has_gap = before.len() < index || before.ends_with(['(', '/']);
        let last = before.rsplit(' ').next().unwrap_or_default();
        let is_assignment = last.contains('=') && !last.contains(['"', '-']);
        let is_behind = BEFORE.iter().any(|end| before.ends_with(end)) || is_assignment;
        index == 0 || (has_gap && is_behind)
    };
    let starts = text.char_indices().map(|(index, _)| index);
    let commands = starts.filter(|&index| is_start(index)).filter_map(|index| {
        let rest = &text[index..];
        let program = rest.split([' ', ')', ';']).next()?;
        let words = programs.contains(&program).then(|| words(rest))?;
        Some(Command {
            words,
            is_mentioned,
        })
    });
    commands.collect()
}

/// Splits a command into words, up to what ends it in a shell. What may be left out is there, and a variable is a path.
fn words(text: &str) -> Vec<String> {
    let command = text[..end(text)].replace("[-", "-").replace("] ", " ");
    let command = command.strip_suffix(']').unwrap_or(&command);
    let mut words = shlex::split(command).unwrap_or_else(|| panic!("{text}"));
    for word in &mut words {
        if word.starts_with('$') && !word.contains(['(', '/']) {
            *word = "/run/value".to_owned();
        }
    }
    words
}

/// Finds the end of a command, which may be that of what `$(` puts into another one, between the quotes of that.
fn end(text: &str) -> usize {
    let (mut quote, mut depth) = (None, 0);
    for (index, letter) in text.char_indices() {
        match letter {
            '\'' | '"' if quote.is_none() => quote = Some(letter),
            letter if quote == Some(letter) => quote = None,
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            ')' => return index,
            '|' | ';' | '&' | '>' | '<' | '#' if quote.is_none() && depth == 0 => return index,
            _ => {}
        }
    }
    text.len()
}
