//! Shows and prepares the addresses of virtual machines.

use std::process::ExitCode;

use vsock_bridge::logging;
use vsock_bridge::programs::command_line;
use vsock_bridge::programs::ctl::{self, Arguments};

fn main() -> ExitCode {
    let arguments: Arguments =
        match command_line::parse_or(ctl::command(), |line| eprintln!("{line}")) {
            Ok(arguments) => arguments,
            Err(status) => return status,
        };
    let _log = logging::init("vsockctl", arguments.verbose, arguments.quiet);
    match ctl::run(arguments) {
        Ok(status) => status,
        Err(error) => {
            log::error!("{}", error.report());
            error.exit_code()
        }
    }
}
