//! Connects to a port of a virtual machine, for ssh and for scripts.

use std::process::ExitCode;

use vsock_bridge::logging;
use vsock_bridge::programs::command_line;
use vsock_bridge::programs::connect::{self, Arguments};

/// What ssh itself gives when it cannot connect.
const NOT_CONNECTED: u8 = 255;

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let _log = logging::init("vsock-connect", arguments.verbose, arguments.quiet);
    match connect::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.report());
            match error.is_usage() {
                true => error.exit_code(),
                false => ExitCode::from(NOT_CONNECTED),
            }
        }
    }
}
