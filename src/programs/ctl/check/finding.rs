//! What one check found, and the table of all of them. Pure: who prints decides about colours.

use std::fmt::Write;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// The command for units of a user.
const OF_USER: &str = "systemctl --user ";
/// Where drop-ins of the machine's units are.
const OF_MACHINE: &str = "/etc/systemd/system/";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it must be, or not in use.
    Ok,
    /// Works, but not as well as it could; or could not be looked at.
    Warn,
    /// Something that is in use does not work.
    Fail,
}

impl Level {
    /// Returns what a fault means: a failure where the thing is in use.
    pub(super) fn of_fault(is_in_use: bool) -> Level {
        if is_in_use { Level::Fail } else { Level::Warn }
    }

    fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        }
    }

    fn style(self) -> Style {
        let color = match self {
            Level::Ok => AnsiColor::Green,
            Level::Warn => AnsiColor::Yellow,
            Level::Fail => AnsiColor::Red,
        };
        color.on_default().bold()
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, in a word or two.
    pub subject: String,
    /// What is the case.
    pub text: String,
    /// What mends it: commands for root, in order.
    pub commands: Vec<String>,
}

/// Returns whether a shell takes the path for itself.
pub(super) fn is_plain(path: &Path) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._@-".contains(letter);
    path.to_string_lossy().chars().all(is_plain)
}

impl Finding {
    /// Makes a finding that no command mends.
    pub(super) fn new(level: Level, subject: &str, text: impl Into<String>) -> Finding {
        Finding {
            level,
            subject: subject.to_owned(),
            text: text.into(),
            commands: Vec::new(),
        }
    }

    /// All is well.
    pub(super) fn ok(subject: &str, text: impl Into<String>) -> Finding {
        Finding::new(Level::Ok, subject, text)
    }

    /// Could be better, or could not be looked at.
    pub(super) fn warn(subject: &str, text: impl Into<String>) -> Finding {
        Finding::new(Level::Warn, subject, text)
    }

    /// Adds a command that mends it, to be run as root behind the others.
    pub(super) fn run(mut self, command: impl Into<String>) -> Finding {
        self.commands.push(command.into());
        self
    }

    /// Adds several of them.
    pub(super) fn run_all(mut self, commands: impl IntoIterator<Item = String>) -> Finding {
        self.commands.extend(commands);
        self
    }

    /// Adds the command that lets everybody read a file.
    pub(super) fn open(self, path: &Path) -> Finding {
        match is_plain(path) {
            true => self.run(format!("chmod a+r {}", path.display())),
            false => self,
        }
    }

    /// Makes it one about units of a user, whose systemd reads their drop-ins in a folder of `configuration`.
    pub(super) fn of_user(mut self, configuration: Option<&Path>) -> Finding {
        self.text = self.text.replace("`journalctl -", "`journalctl --user -");
        let folder = configuration.map(|folder| format!("{}/systemd/user/", folder.display()));
        let own = |command: String| {
            let command = match command.strip_prefix("systemctl ") {
                Some(rest) => format!("{OF_USER}{rest}"),
                None => command,
            };
            match &folder {
                Some(folder) => command.replace(OF_MACHINE, folder),
                None => command,
            }
        };
        self.commands = self.commands.into_iter().map(own).collect();
        self
    }

    /// Joins the commands to one line for a shell.
    fn command_line(&self, is_root: bool) -> Option<String> {
        // What is the user's is not for root.
        let is_own = self
            .commands
            .iter()
            .any(|command| command.starts_with(OF_USER));
        let sudo = if is_root || is_own { "" } else { "sudo " };
        let commands: Vec<String> = self.commands.iter().map(|c| format!("{sudo}{c}")).collect();
        (!commands.is_empty()).then(|| commands.join(" && "))
    }
}

/// Writes one line for each finding; root needs no sudo.
pub(super) fn table(findings: &[Finding], is_root: bool) -> String {
    let width = findings.iter().map(|f| f.subject.len()).max().unwrap_or(0);
    let mut table = String::new();
    for finding in findings {
        let (word, style) = (finding.level.word(), finding.level.style());
        let remedy = finding
            .command_line(is_root)
            .map(|command| format!("; run `{command}`"))
            .unwrap_or_default();
        // Whatever a file or the kernel said, it is one line.
        let text = finding.text.replace(char::is_control, " ");
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "{style}{word:4}{style:#}  {:width$}  {text}{remedy}",
            finding.subject
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_no_path_that_a_shell_would_change() {
        let commands = |path: &str| Finding::warn("names", "").open(Path::new(path)).commands;
        assert_eq!(commands("/etc/a@1.conf"), ["chmod a+r /etc/a@1.conf"]);
        assert_eq!(commands("/etc/a b.conf"), [""; 0]);
    }

    fn plain(findings: &[Finding], is_root: bool) -> String {
        anstream::adapter::strip_str(&table(findings, is_root)).to_string()
    }

    #[test]
    fn each_finding_is_one_line_with_the_command_at_its_end() {
        let findings = [
            Finding::ok("a", "is well"),
            Finding::new(Level::Fail, "longer", "is\nbroken")
                .run("one")
                .run("two --now"),
        ];
        let lines =
            "OK    a       is well\nFAIL  longer  is broken; run `sudo one && sudo two --now`\n";
        assert_eq!(plain(&findings, false), lines);
        assert_eq!(plain(&findings, true), lines.replace("sudo ", ""));
    }

    #[test]
    fn commands_of_a_user_are_not_for_root() {
        let finding = Finding::new(Level::Fail, "a", "see `journalctl -eu a`")
            .run("mkdir -p '/etc/systemd/system/a.d'")
            .run("systemctl daemon-reload");
        let device = Finding::warn("device", "is missing").run("modprobe vsock");
        let own = [finding, device].map(|one| one.of_user(Some(Path::new("/home/a/.config"))));
        let lines = "FAIL  a       see `journalctl --user -eu a`; run `mkdir -p \
             '/home/a/.config/systemd/user/a.d' && systemctl --user daemon-reload`\n\
             WARN  device  is missing; run `sudo modprobe vsock`\n";
        assert_eq!(plain(&own, false), lines);
    }

    #[test]
    fn a_fault_fails_only_what_is_in_use() {
        assert_eq!(Level::of_fault(true), Level::Fail);
        assert_eq!(Level::of_fault(false), Level::Warn);
    }
}
