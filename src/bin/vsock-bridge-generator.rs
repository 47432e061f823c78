//! Tells the socket units the prefix and lists of ports; run by systemd at boot and at daemon-reload.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use vsock_bridge::logging;
use vsock_bridge::programs::{command_line, generator};

/// Writes the drop-ins that tell socket units of bridges the prefix and lists of ports (systemd.generator(7)).
#[derive(Debug, Parser)]
#[command(name = "vsock-bridge-generator", version)]
struct Arguments {
    /// Directory for the drop-in.
    normal: PathBuf,
    /// Not used.
    early: Option<PathBuf>,
    /// Not used.
    late: Option<PathBuf>,
    /// Read the configuration below this directory.
    ///
    /// Every path of the configuration is looked up below this directory.
    #[arg(long, env = "VSOCK_BRIDGE_GENERATOR_ROOT", default_value = "/")]
    root: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let _log = logging::init_generator("vsock-bridge-generator");
    if let Err(error) = generator::run(&arguments.normal, &arguments.root) {
        log::error!("{}", error.report());
    }
    // A failed generator must not hold up the boot: the units that need the prefix say so themselves.
    ExitCode::SUCCESS
}
