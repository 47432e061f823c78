//! Relays connections between sockets passed by systemd and a target.

use std::process::ExitCode;

use clap::CommandFactory;
use vsock_bridge::logging;
use vsock_bridge::programs::bridge::Arguments;
use vsock_bridge::programs::{bridge, command_line};

fn main() -> ExitCode {
    let mut problem = None;
    let parsed =
        command_line::parse_or(Arguments::command(), |line| problem = Some(line.to_owned()));
    let arguments: Arguments = match (parsed, problem) {
        (Ok(arguments), _) => arguments,
        (Err(status), None) => return status,
        (Err(status), Some(line)) => return bridge::refuse(&line, status),
    };
    let _log = logging::init("vsock-bridge", arguments.verbose, arguments.quiet);
    bridge::run(arguments)
}
