//! `vsockctl metrics`: the numbers of all bridges for Prometheus.
//!
//! Written by ourselves: they are those of other processes at one moment, where the libraries for this count in their own
//! process, and none writes both formats.

mod exchange;
mod families;
mod format;
mod host;
mod http;

use clap::Args;

use super::bridges::{complain, survey};
use super::check::units::Manager;
use super::output;
use crate::error::Result;
use families::families;
use format::Format;

/// How the numbers are printed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print the format of OpenMetrics.
    ///
    /// Prints the format of OpenMetrics 1.0 instead of that of Prometheus, version 0.0.4.
    #[arg(long, conflicts_with = "http")]
    openmetrics: bool,
    /// Answer one HTTP request on standard input.
    ///
    /// Prints the answer to one HTTP request from standard input, a connection that systemd passes.
    #[arg(long)]
    http: bool,
}

/// Prints the numbers.
///
/// Errors: [`crate::error::Error::Control`] when a bridge could not be asked, after the others are printed;
/// [`crate::error::Error::Output`]; [`crate::error::Error::Usage`].
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.http {
        return exchange::run();
    }
    let format = match arguments.openmetrics {
        true => Format::OpenMetrics,
        false => Format::Text,
    };
    let survey = survey(Manager::System, &[])?;
    output::write(&format.text(&families(&survey)))?;
    complain(survey.errors(&[]))
}

/// Reads bytes as an HTTP request that comes in parts; for the fuzzers.
pub(crate) fn read_request(bytes: &[u8]) {
    http::read_in_parts(bytes);
}
