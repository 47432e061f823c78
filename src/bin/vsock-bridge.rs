//! Relays connections between sockets passed by systemd and a target.

use std::process::ExitCode;

use vsock_bridge::config::Arguments;
use vsock_bridge::{command_line, logging, server};

fn main() -> ExitCode {
    let mut problem = None;
    let parsed = command_line::parse_or(|line| problem = Some(line.to_owned()));
    let arguments: Arguments = match (parsed, problem) {
        (Ok(arguments), _) => arguments,
        (Err(status), None) => return status,
        (Err(status), Some(line)) => return server::refuse(&line, status),
    };
    let _log = logging::init("vsock-bridge", arguments.verbose, arguments.quiet);
    server::run(arguments)
}
