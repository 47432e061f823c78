//! Shows and prepares the addresses of virtual machines.

use std::process::ExitCode;

use vsock_bridge::logging;
use vsock_bridge::programs::command_line;
use vsock_bridge::programs::ctl::{self, Arguments, output};

fn main() -> ExitCode {
    let arguments: Arguments =
        match command_line::parse_or(ctl::command(), |line| eprintln!("{line}")) {
            Ok(arguments) => arguments,
            Err(status) => return status,
        };
    let _log = logging::init("vsockctl", arguments.verbose, arguments.quiet);
    let result = ctl::run(arguments).and_then(|text| output::print(&text));
    match result {
        // Whoever does not read to the end has seen enough.
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.report());
            error.exit_code()
        }
    }
}
