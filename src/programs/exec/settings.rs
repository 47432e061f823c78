//! What serves one connection, and who may come in: from the command line, or from the file of the port that it came to.

use std::ffi::OsString;
use std::path::Path;

use super::arguments::Arguments;
use super::command::{self, CommandLine};
use crate::allow_list::AllowedCids;
use crate::config_file;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::known::Known;
use crate::prefix::Prefix;
use crate::programs::bridge::variables::Variables;
use crate::programs::replace::expect_name;
use crate::this_machine;

/// What holds for a connection.
#[derive(Debug)]
pub(super) struct Settings {
    /// The machines that may connect.
    pub(super) allowed: AllowedCids,
    /// The /64 whose addresses stand for machines; a machine may have none.
    pub(super) prefix: Option<Prefix>,
    /// The program and its arguments.
    pub(super) command: Vec<OsString>,
    /// Where that is written, as `FILE:LINE`; empty for the command line.
    pub(super) place: String,
    /// Variables for the program, which are not ours.
    pub(super) variables: Vec<(String, String)>,
}

impl Settings {
    /// Reads them. `local`: where the peer has connected to.
    ///
    /// Errors: each wrong setting with its place; a file without a command; a listener that names no port.
    pub(super) fn new(arguments: &Arguments, local: &Endpoint) -> Result<Settings> {
        let mut variables = Variables::of_process(None);
        if arguments.command.is_empty() {
            variables.read(Path::new(config_file::PATH))?;
            variables.read(&command::file(port(local)?))?;
        }
        // A machine that is not there is not let in, and others are.
        let problems = variables.complaints().into_iter();
        let problems: Vec<String> = problems
            .filter(|complaint| !complaint.is_absence)
            .map(|complaint| complaint.text)
            .collect();
        if !problems.is_empty() {
            return Err(Error::Usage(problems.join("; ")));
        }
        // There are none where there is no problem.
        let common = variables.arguments();
        let common = common.map_err(|error| Error::Usage(error.to_string()))?;
        let listed = arguments.allow_cid.as_ref().unwrap_or(&common.allow_cid);
        let machines = &common.machines;
        let (words, place) = command(arguments, &variables, local)?;
        let (allowed, absent) = listed.resolve_present(&Known::settled(machines.names.as_ref()))?;
        for problem in absent {
            log::warn!("{problem}; {}", problem.in_a_list());
        }
        Ok(Settings {
            allowed,
            prefix: prefix(machines.prefix),
            command: words,
            place,
            variables: variables.of_others(),
        })
    }
}

/// Finds the command, and where it is written.
fn command(
    arguments: &Arguments,
    variables: &Variables,
    local: &Endpoint,
) -> Result<(Vec<OsString>, String)> {
    if !arguments.command.is_empty() {
        expect_name("COMMAND", &arguments.command)?;
        return Ok((arguments.command.clone(), String::new()));
    }
    let missing = |port| {
        let file = command::file(port);
        let example = command::EXAMPLE;
        Error::Usage(format!(
            "no command for port {port}: write one into {}, such as {example}",
            file.display()
        ))
    };
    match variables.last(command::VARIABLE) {
        Some(variable) => {
            let line: CommandLine = variable.value.parse()?;
            Ok((line.words(), variable.place.clone()))
        }
        None => Err(missing(port(local)?)),
    }
}

/// Returns the port whose file is read.
fn port(local: &Endpoint) -> Result<u16> {
    local.named_port().ok_or_else(|| {
        Error::Usage(format!(
            "the listener {local} names no port from 1 to 65535, whose file would have the command: let its path end in \
             `_PORT`, such as /run/vm.vsock_2222"
        ))
    })
}

/// Returns the prefix for the environment of the program, which may do without.
fn prefix(given: Option<Prefix>) -> Option<Prefix> {
    let found = this_machine::prefix(given, Path::new("/"));
    let found = found.inspect_err(|error| log::warn!("no REMOTE_ADDR: {}", error.report()));
    found.ok().map(|(prefix, _)| prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_tells_the_port() {
        for (local, expected) in [
            ("vsock::2222", Some(2222)),
            ("[::1]:2222", Some(2222)),
            ("/run/vm.vsock_2222", Some(2222)),
            ("/run/vm.vsock", None),
            ("vsock::65536", None),
        ] {
            let port = port(&local.parse().unwrap());
            assert_eq!(port.ok(), expected, "{local}");
        }
    }
}
