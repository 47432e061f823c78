//! Shows and prepares the addresses of virtual machines.

use std::process::ExitCode;

use vsock_bridge::control::{self, Arguments, output};
use vsock_bridge::{command_line, logging};

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let _log = logging::init("vsockctl", arguments.verbose, arguments.quiet);
    let result = control::run(arguments).and_then(|text| output::print(&text));
    match result {
        // Whoever does not read to the end has seen enough.
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.report());
            error.exit_code()
        }
    }
}
