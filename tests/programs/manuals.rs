//! The manual pages and the programs tell the same: options, variables, subcommands, defaults, and each other's names.
//!
//! What a program says with `--help` is compared with what its page has as an item (`.It`, see mdoc(7)).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::program::ours;
use vsock_bridge::logging::{self, event};
use vsock_bridge_values::{names, port_list, prefix};

/// The programs with their pages.
const PROGRAMS: [(&str, &str); 6] = [
    ("vsock-bridge", "vsock-bridge.8"),
    ("vsock-exec", "vsock-exec.8"),
    ("vsock-connect", "vsock-connect.1"),
    ("vsock-notify", "vsock-notify.8"),
    ("vsockctl", "vsockctl.8"),
    ("vsock-bridge-generator", "vsock-bridge-generator.8"),
];
/// Pages of others that our units name.
const FOREIGN_PAGES: [&str; 1] = ["sshd(8)"];
/// clap indents an option by this much at most, and what it says about it by more.
const OPTION_INDENT_MAX: usize = 6;

#[test]
fn each_option_has_its_item_and_no_other_is_named() {
    for (program, page) in PROGRAMS {
        let offered: BTreeSet<String> = helps(program)
            .iter()
            .flat_map(|help| options(help))
            .map(|(name, _)| name)
            .collect();
        let text = read(page);
        assert!(offered.contains("help"), "{page}: no options in --help");
        assert_eq!(offered, flags(items(&text)), "{page}: options with an item");
        assert_eq!(offered, flags(macros(&text)), "{page}: options named");
    }
}

#[test]
fn each_default_stands_in_the_item_of_its_option() {
    for (program, page) in PROGRAMS {
        let text = read(page);
        for help in helps(program) {
            for (name, entry) in options(&help) {
                // A default in words is told in other words.
                let Some(default) = default(&entry).filter(|text| !text.contains(' ')) else {
                    continue;
                };
                let item = item(&text, &name);
                let words = item
                    .split_whitespace()
                    .map(|word| word.trim_matches([',', ';', '.']));
                let is_told = words.clone().any(|word| word == default);
                assert!(is_told, "{page}: --{name} has the default {default}");
            }
        }
    }
}

#[test]
fn each_variable_has_its_item() {
    for (program, page) in PROGRAMS {
        let text = read(page);
        let told: BTreeSet<String> = items(&text).flat_map(variables).collect();
        for help in helps(program) {
            for variable in variables(&help).chain([logging::VARIABLE.to_owned()]) {
                assert!(told.contains(&variable), "{page}: {variable}");
            }
        }
    }
    let text = read("vsock-bridge.conf.5");
    let told: BTreeSet<String> = items(&text).flat_map(variables).collect();
    for variable in [prefix::VARIABLE, names::VARIABLE, port_list::VARIABLE] {
        assert!(told.contains(variable), "vsock-bridge.conf.5: {variable}");
    }
}

#[test]
fn no_page_names_a_variable_that_is_none() {
    let mut known: BTreeSet<String> = PROGRAMS
        .iter()
        .flat_map(|(program, _)| helps(program))
        .flat_map(|help| variables(&help).collect::<Vec<_>>())
        .collect();
    known.extend([logging::VARIABLE, names::VARIABLE, port_list::VARIABLE].map(str::to_owned));
    // Of the file of a port.
    known.insert("VSOCK_BRIDGE_EXEC".to_owned());
    known.extend(fields());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for variable in variables(&text) {
            assert!(known.contains(&variable), "{}: {variable}", page.display());
        }
    }
}

#[test]
fn each_event_and_each_field_of_its_explanation_has_its_item() {
    let text = read("vsock-bridge.8");
    for event in event::ALL {
        let item = format!(".It {:032x}", event.id);
        assert!(
            items(&text).any(|line| line == item),
            "vsock-bridge.8: {item}"
        );
    }
    let catalog = fs::read_to_string(root().join("packaging/catalog/vsock-bridge.catalog"));
    // `@NAME@` stands for the value of a field.
    for field in catalog.unwrap().split('@').skip(1).step_by(2) {
        assert!(fields().contains(field), "vsock-bridge.8: {field}");
    }
}

#[test]
fn each_subcommand_has_its_item() {
    for (program, page) in PROGRAMS {
        let text = read(page);
        for path in command_paths(program) {
            let start = format!(".It Cm {}", path.join(" "));
            let is_item = |line: &str| line == start || line.starts_with(&format!("{start} "));
            let is_group = !subcommands(&help(program, &path)).is_empty();
            let is_told = items(&text).any(is_item);
            assert!(is_told || is_group, "{page}: {}", path.join(" "));
        }
    }
}

#[test]
fn each_page_that_a_unit_names_exists() {
    let mut missing = Vec::new();
    for unit in files(&root().join("units")) {
        let text = fs::read_to_string(&unit).unwrap();
        let documentation = text
            .lines()
            .filter_map(|line| line.strip_prefix("Documentation="));
        for page in documentation
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.strip_prefix("man:"))
        {
            if !FOREIGN_PAGES.contains(&page) && !exists(page) {
                missing.push(format!("{}: {page}", unit.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such page: {missing:#?}");
}

#[test]
fn each_page_of_ours_that_a_page_names_exists() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in macros(&text) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [".Xr", name, section, ..] = words[..] else {
                continue;
            };
            let named = format!("{name}({section})");
            // vsock(7) is the kernel's.
            let is_ours = name.starts_with("vsock") && name != "vsock";
            assert!(!is_ours || exists(&named), "{}: {named}", page.display());
        }
    }
}

#[test]
fn mandoc_has_no_complaint() {
    for page in pages() {
        let lint = Command::new("mandoc")
            .args(["-Tlint", "-Wwarning"])
            .arg(&page)
            .output();
        let output = match lint {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: mandoc is not installed");
                return;
            }
            Err(error) => panic!("mandoc: {error}"),
        };
        let complaints = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && complaints.is_empty(),
            "{complaints}"
        );
    }
}

/// What stands between the dots is printed by some program.
#[test]
fn each_diagnostic_is_said() {
    let sources: String = ["src", "crates"]
        .iter()
        .flat_map(|folder| files(&root().join(folder)))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| unwrapped(&fs::read_to_string(path).unwrap()))
        .collect();
    let mut said = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for item in diagnostics(&text) {
            for part in item.split("...").map(str::trim) {
                assert!(sources.contains(part), "{}: {part:?}", page.display());
            }
            said += 1;
        }
    }
    assert!(said > 20, "{said} diagnostics");
}

/// Joins strings that a backslash carries to the next line.
fn unwrapped(source: &str) -> String {
    let lines = source.split("\\\n");
    let first = lines.clone().take(1);
    let rest = lines.skip(1).map(str::trim_start);
    first.chain(rest).collect()
}

/// Returns the lines of our programs under DIAGNOSTICS.
fn diagnostics(page: &str) -> impl Iterator<Item = &str> {
    let list = page.lines().skip_while(|line| *line != ".Bl -diag");
    list.take_while(|line| *line != ".El")
        .filter_map(|line| line.strip_prefix(".It "))
}

/// What a reader types who knows none of our names.
#[test]
fn each_word_of_a_reader_finds_its_page() {
    for (word, page) in [
        ("vsock", "vsock-bridge.7"),
        ("vm", "vsock-bridge.7"),
        ("virtual machine", "vsock-bridge.7"),
        ("guest", "vsock-bridge.7"),
        ("ssh", "vsock-bridge.7"),
        ("samba", "vsock-bridge.7"),
        ("forward", "vsock-bridge.8"),
        ("relay", "vsock-bridge.8"),
        ("proxy", "vsock-connect.1"),
        ("ssh", "vsock-connect.1"),
        ("netcat", "vsock-connect.1"),
        ("vm", "vsockctl.8"),
        ("names", "nss-vsock.8"),
        ("allow lists", "vsock-bridge.conf.5"),
    ] {
        let text = read(page).to_lowercase();
        let named = macros(&text).find(|line| line.starts_with(".nd "));
        assert!(named.unwrap().contains(word), "{page}: {word}: {named:?}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    let path = root().join("man").join(page);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pages() -> Vec<PathBuf> {
    files(&root().join("man"))
}

/// Returns all files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths = entries.map(|entry| entry.expect("the directory can be read").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Returns whether we have the page, written like `vsockctl(8)`.
fn exists(page: &str) -> bool {
    let file = page.trim_end_matches(')').replace('(', ".");
    root().join("man").join(file).is_file()
}

/// Returns what the program prints with `--help` behind the subcommands.
fn help(program: &str, subcommands: &[String]) -> String {
    let mut command = Command::new(ours(program));
    // Help shows the values of variables that are set.
    command.env_clear().args(subcommands).arg("--help");
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {subcommands:?} --help");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the help of the program and of each of its subcommands.
fn helps(program: &str) -> Vec<String> {
    let paths = command_paths(program);
    std::iter::once(Vec::new())
        .chain(paths)
        .map(|path| help(program, &path))
        .collect()
}

/// Returns all subcommands of the program, such as `prefix` and `prefix show`.
fn command_paths(program: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = vec![Vec::new()];
    while let Some(path) = rest.pop() {
        for name in subcommands(&help(program, &path)) {
            let below: Vec<String> = path.iter().cloned().chain([name]).collect();
            paths.push(below.clone());
            rest.push(below);
        }
    }
    paths
}

/// Reads the subcommands out of a help, without `help`, which is clap's own.
fn subcommands(help: &str) -> Vec<String> {
    let section = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    section
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Reads the long options out of a help, each with what is said about it.
fn options(help: &str) -> Vec<(String, String)> {
    let mut options: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        let text = line.trim_start();
        let is_option = text.starts_with('-') && line.len() - text.len() <= OPTION_INDENT_MAX;
        if is_option {
            let long = text
                .split([' ', ',', '['])
                .find_map(|word| word.strip_prefix("--"))
                .unwrap_or_else(|| panic!("no long option in {line:?}"));
            options.push((long.trim_end_matches('.').to_owned(), String::new()));
        }
        if let Some((_, entry)) = options.last_mut().filter(|_| !text.is_empty()) {
            entry.push_str(text);
            entry.push(' ');
        }
    }
    options
}

/// Finds the default in what help says about an option.
fn default(entry: &str) -> Option<&str> {
    let (_, rest) = entry.split_once("[default: ")?;
    rest.split(']').next()
}

/// Finds our variables in a text.
fn variables(text: &str) -> impl Iterator<Item = String> + use<> {
    text.split(|c: char| !c.is_ascii_uppercase() && c != '_')
        .filter(|word| word.len() > "VSOCK_BRIDGE_".len() && word.starts_with("VSOCK_BRIDGE_"))
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

/// Returns the fields of the journal, which begin like variables and are marked up with Dv.
fn fields() -> BTreeSet<String> {
    let text = read("vsock-bridge.8");
    let lines =
        macros(&text).filter(|line| line.starts_with(".It Dv ") || line.starts_with(".Dv "));
    lines.flat_map(variables).collect()
}

/// Returns the lines of a page that are macros.
fn macros(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with('.'))
}

/// Returns the lines of a page that begin an item.
fn items(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with(".It "))
}

/// Finds the long options, `Fl -name`, in lines of macros.
fn flags<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for line in lines {
        let words: Vec<&str> = line.trim_start_matches('.').split_whitespace().collect();
        let longs = words
            .windows(2)
            .filter(|pair| pair[0] == "Fl")
            .filter_map(|pair| pair[1].strip_prefix('-'));
        flags.extend(longs.map(str::to_owned));
    }
    flags
}

/// Returns all that a page says about a long option, up to the next one.
fn item(page: &str, option: &str) -> String {
    let is_item = |line: &str| line.starts_with(".It ") && line.contains("Fl -");
    let mut lines = page
        .lines()
        .skip_while(|line| !flags(items(line)).contains(option))
        .skip(1);
    let mut text = String::new();
    for line in lines.by_ref().take_while(|line| !is_item(line)) {
        text.push_str(line);
        text.push('\n');
    }
    text
}
