//! Relays connections between sockets passed by systemd and a target.

use std::process::ExitCode;

use vsock_bridge::config::Arguments;
use vsock_bridge::{command_line, logging, server};

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let _log = logging::init("vsock-bridge", arguments.verbose, arguments.quiet);
    match server::run(arguments) {
        Ok(status) => status,
        Err(error) => {
            log::error!("{}", error.report());
            error.exit_code()
        }
    }
}
