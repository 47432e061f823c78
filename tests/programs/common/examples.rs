//! The EXAMPLES of the manuals: what they show, and which of it the cases in guests and under systemd run.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cases that run examples are.
const CASES: [&str; 2] = ["tests/vm/cases", "tests/systemd/cases"];
/// How a case names the line of a page that it runs, or the first one of what it takes from there.
const MARKS: [&str; 2] = ["example", "shown"];

/// Lines that a page sets apart.
#[derive(Debug)]
pub struct Display {
    pub page: String,
    /// The last file or unit that the words before it name.
    pub file: Option<String>,
    pub lines: Vec<String>,
}

/// A line of a session, without the prompt, and what it prints.
#[derive(Debug)]
pub struct Step {
    pub command: String,
    pub output: Vec<String>,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the displays of all pages.
pub fn displays() -> Vec<Display> {
    let pages = files(&root().join("man"));
    let displays: Vec<Display> = pages.iter().flat_map(|page| displays_of(page)).collect();
    assert!(displays.len() > 30, "{displays:#?}");
    displays
}

fn displays_of(page: &Path) -> Vec<Display> {
    let name = page.file_name().unwrap().to_str().unwrap().to_owned();
    let text = fs::read_to_string(page).unwrap();
    let mut lines = text.lines().skip_while(|line| *line != ".Sh EXAMPLES");
    assert!(lines.next().is_some(), "{name} has no EXAMPLES");
    let mut lines = lines.take_while(|line| !line.starts_with(".Sh "));
    let mut displays = Vec::new();
    let mut file = None;
    while let Some(line) = lines.next() {
        if let Some(path) = line.strip_prefix(".Pa ") {
            file = path.split_whitespace().next().map(str::to_owned);
        }
        let lines: Vec<String> = match line.strip_prefix(".Dl ") {
            Some(line) => vec![plain(line)],
            None if line.starts_with(".Bd ") => {
                let shown = lines.by_ref().take_while(|line| *line != ".Ed");
                shown.map(plain).collect()
            }
            None => continue,
        };
        let (page, file) = (name.clone(), file.take());
        displays.push(Display { page, file, lines });
    }
    displays
}

/// Takes the escapes of roff away.
fn plain(line: &str) -> String {
    let escapes = [
        (r"\-", "-"),
        (r"\(aq", "'"),
        (r"\(dq", "\""),
        (r"\(ga", "`"),
        (r"\&", ""),
        (r"\e", r"\"),
    ];
    escapes
        .iter()
        .fold(line.to_owned(), |line, (escape, character)| {
            line.replace(escape, character)
        })
}

impl Display {
    /// The settings of a bridge or of all.
    pub fn is_settings(&self) -> bool {
        let file = self.file.as_deref().unwrap_or_default();
        file.starts_with("/etc/vsock-bridge/") && !self.is_session() && !self.is_rules()
    }

    /// Rules of the gateway.
    pub fn is_rules(&self) -> bool {
        let file = self.file.as_deref().unwrap_or_default();
        file.starts_with("/etc/vsock-bridge/gateway.conf")
    }

    /// A unit, or what is added to one.
    pub fn is_unit(&self) -> bool {
        self.lines[0].starts_with('[')
    }

    /// A part of an ssh_config(5).
    pub fn is_ssh_configuration(&self) -> bool {
        self.lines[0].starts_with("Host ")
    }

    /// Commands, perhaps with what they print.
    pub fn is_session(&self) -> bool {
        let file = self.file.as_deref().unwrap_or_default();
        // In settings it would be a comment.
        !file.ends_with(".conf") && prompt(&self.lines[0]).is_some()
    }

    /// Splits a session. What begins like a command behind a `cat` or `hosts` is part of a file that is shown.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut is_continued = false;
        for line in &self.lines {
            let command = prompt(line).filter(|command| is_command(command));
            match (command, steps.last_mut()) {
                (_, Some(step)) if is_continued => step.command += line.trim_start(),
                (Some(command), _) => steps.push(Step {
                    command: command.to_owned(),
                    output: Vec::new(),
                }),
                (None, Some(step)) => step.output.push(line.clone()),
                (None, None) => panic!("{}: no command: {line}", self.page),
            }
            let last = steps.last_mut().unwrap();
            is_continued = last.output.is_empty() && last.command.ends_with('\\');
            if is_continued {
                last.command.pop();
            }
        }
        steps
    }
}

/// Returns what stands behind a prompt.
fn prompt(line: &str) -> Option<&str> {
    let line = ["host", "guest"]
        .iter()
        .find_map(|machine| line.strip_prefix(machine))
        .unwrap_or(line);
    line.strip_prefix("# ").or_else(|| line.strip_prefix("$ "))
}

/// Comments of files begin with a capital letter.
fn is_command(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_uppercase())
}

/// Returns each text that a case names behind a mark, in quotes, with the name of the case.
pub fn named_by_cases() -> Vec<(String, String)> {
    let cases = CASES.iter().flat_map(|folder| files(&root().join(folder)));
    cases
        .flat_map(|case| {
            let name = case.file_name().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&case).unwrap();
            // A call may go on in the next line.
            let text = text.replace("(\n", "(");
            let named: Vec<String> = text.lines().filter_map(named).collect();
            named.into_iter().map(move |text| (name.clone(), text))
        })
        .collect()
}

/// Finds `example 'TEXT'`, `shown PAGE "TEXT"` or `example("TEXT")` in a line.
fn named(line: &str) -> Option<String> {
    let rest = MARKS.iter().find_map(|mark| {
        let (before, rest) = line.split_once(mark)?;
        let is_word = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let is_call = rest.starts_with([' ', '(']) && !rest.starts_with("()");
        let is_comment = before.trim_start().starts_with('#');
        (is_word && is_call && !is_comment).then_some(rest)
    })?;
    let start = rest.find(['\'', '"'])?;
    let (quote, text) = rest[start..].split_at(1);
    text.split(quote).next().map(str::to_owned)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
