//! Runs the monitor of a virtual machine, and tells the service manager what the machine says of itself.

use std::process::ExitCode;

use vsock_bridge::logging;
use vsock_bridge::programs::command_line;
use vsock_bridge::programs::notify::{self, Arguments};

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let (verbose, quiet) = (arguments.verbose, arguments.quiet);
    // Before the log, which has a thread of its own: a process of one thread can be split.
    let part = notify::split(arguments);
    let _log = logging::init("vsock-notify", verbose, quiet);
    match notify::run(part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.report());
            error.exit_code()
        }
    }
}
