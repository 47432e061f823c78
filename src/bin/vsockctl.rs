//! Shows and prepares the addresses of virtual machines.

use std::io::Write;
use std::process::ExitCode;

use vsock_bridge::control::{self, Arguments};
use vsock_bridge::{command_line, logging};

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let _log = logging::init("vsockctl", arguments.verbose, arguments.quiet);
    let error = match control::run(arguments) {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => return ExitCode::SUCCESS,
            // Whoever read our output has gone, and has seen enough.
            Err(_) => return ExitCode::FAILURE,
        },
        Err(error) => error,
    };
    log::error!("{}", error.report());
    error.exit_code()
}
