//! What the file of a port says: which command serves its connections, and what else may stand there.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use crate::allow_list;
use crate::error::{Error, Result};
use crate::logging;
use crate::names;
use crate::prefix;

/// The command as a setting.
pub(crate) const VARIABLE: &str = "VSOCK_BRIDGE_EXEC";
/// What a file must have.
pub(crate) const EXAMPLE: &str = "VSOCK_BRIDGE_EXEC=/usr/lib/openssh/sftp-server";
/// Begins the name of each socket unit, and of its file.
pub(crate) const UNIT: &str = "vsock-exec@";
/// Begins the path of each file.
const FILES: &str = "/etc/vsock-bridge/vsock-exec@";
/// The settings that have an effect there.
const SETTINGS: [&str; 5] = [
    VARIABLE,
    allow_list::VARIABLE,
    names::VARIABLE,
    prefix::VARIABLE,
    logging::VARIABLE,
];

/// Returns the file with the settings of a port.
pub(crate) fn file(port: u16) -> PathBuf {
    format!("{FILES}{port}.conf").into()
}

/// Says that a setting has no effect where it is written: `FILE:LINE`, a unit, or `environment`.
pub(crate) fn wrong_place(name: &str, place: &str) -> Option<String> {
    match (place.starts_with(FILES), name == VARIABLE) {
        (true, _) if SETTINGS.contains(&name) => None,
        (true, _) => Some(format!(
            "{name} has no effect here: it is for bridges, and a command has {}",
            SETTINGS.join(", ")
        )),
        (false, true) => Some(format!(
            "{name} has no effect here: it is for the file of a port, such as {}",
            file(2222).display()
        )),
        (false, false) => None,
    }
}

/// A program and its arguments.
///
/// Text form: words as a shell has them, with quotes and backslashes, and without anything else of a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine(Vec<String>);

impl CommandLine {
    /// Returns the words; there is at least one.
    pub(crate) fn words(self) -> Vec<OsString> {
        self.0.into_iter().map(OsString::from).collect()
    }

    /// Returns the program, as it is written.
    pub(crate) fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }
}

impl FromStr for CommandLine {
    type Err = Error;

    fn from_str(text: &str) -> Result<CommandLine> {
        let fail = |hint| Err(Error::invalid("command", text, hint));
        match shlex::split(text) {
            None => fail("a quote is not closed, or a backslash is the end"),
            Some(words) if words.first().is_none_or(String::is_empty) => {
                fail("expected a program and its arguments")
            }
            Some(words) => Ok(CommandLine(words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_words_with_quotes_and_nothing_else_of_a_shell() {
        for (text, words) in [
            ("/bin/cat", &["/bin/cat"][..]),
            ("  a  b\tc ", &["a", "b", "c"]),
            (r#"a "b c" 'd "e' f\ g"#, &["a", "b c", "d \"e", "f g"]),
            (
                "a $HOME *.c | ; > x",
                &["a", "$HOME", "*.c", "|", ";", ">", "x"],
            ),
        ] {
            let command: CommandLine = text.parse().unwrap();
            assert_eq!(command.words(), words, "{text}");
        }
        for text in ["", " ", "''", "a 'b", "a \"b", "a \\"] {
            assert!(text.parse::<CommandLine>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_setting_stands_where_it_is_read() {
        let (own, bridge) = (
            "/etc/vsock-bridge/vsock-exec@22.conf:1",
            "/etc/vsock-bridge/vsock-bridge@22.conf:1",
        );
        for (name, place, is_well) in [
            (VARIABLE, own, true),
            (allow_list::VARIABLE, own, true),
            ("VSOCK_BRIDGE_TO", own, false),
            ("VSOCK_BRIDGE_TO", bridge, true),
            (VARIABLE, bridge, false),
            (VARIABLE, "environment", false),
            (allow_list::VARIABLE, "environment", true),
        ] {
            assert_eq!(
                wrong_place(name, place).is_none(),
                is_well,
                "{name} {place}"
            );
        }
    }
}
