//! `vsockctl metrics`: the numbers of all bridges for Prometheus.
//!
//! Written by ourselves: they are those of other processes at one moment, where the libraries for this count in their own
//! process, and none writes both formats.

mod families;
mod format;

use clap::Args;

use super::bridges::survey;
use super::output;
use crate::error::Result;
use families::families;
use format::Format;

/// How the numbers are printed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// In the format of OpenMetrics, instead of Prometheus' own
    #[arg(long)]
    openmetrics: bool,
}

/// Prints the numbers.
///
/// Errors: [`crate::error::Error::Control`] when a bridge could not be asked, after the others are printed;
/// [`crate::error::Error::Output`].
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let format = match arguments.openmetrics {
        true => Format::OpenMetrics,
        false => Format::Text,
    };
    let survey = survey()?;
    output::write(&format.text(&families(&survey)))?;
    survey.complain()
}
