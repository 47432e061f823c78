//! vsock-bridge as a later version might be: what it begins to hand over has another layout.

use std::process::ExitCode;

use vsock_bridge::logging;
use vsock_bridge::programs::bridge::Arguments;
use vsock_bridge::programs::{bridge, command_line};

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let _log = logging::init("vsock-bridge", arguments.verbose, arguments.quiet);
    bridge::run(arguments)
}
