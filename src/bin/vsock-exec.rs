//! Runs a command with a connection that systemd has accepted.

use std::process::ExitCode;

use vsock_bridge::logging;
use vsock_bridge::programs::command_line;
use vsock_bridge::programs::exec::{self, Arguments};

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let _log = logging::init("vsock-exec", arguments.verbose, arguments.quiet);
    match exec::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.report());
            error.exit_code()
        }
    }
}
