//! `vsockctl list`: the bridges and their open connections, as tables for people or as JSON for programs.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::bridges::{Survey, complain, survey};
use super::check::units::{self, Manager};
use super::output;
use super::overview::overview;
use super::picture;
use super::wanted;
use crate::error::{Error, Result};
use crate::programs::options::parse_positive;

/// How often `--watch` looks.
const INTERVAL: &str = "1s";
const NO_BRIDGES: &str =
    "no bridge is there; `systemctl start vsock-bridge@445.socket` starts the one of port 445";
/// Where systemd makes no folder for the control socket of a bridge.
const NO_BRIDGES_WITHOUT_SYSTEMD: &str = "no bridge is there that has a folder below /run/vsock-bridge as RUNTIME_DIRECTORY; \
     see `--listen` in vsock-bridge(8)";
const NO_BRIDGES_OF_USER: &str = "you have no bridge; `systemctl --user start vsock-bridge@4450.socket` starts the one of port 4450, and \
     `vsockctl list` shows those of the machine";
const NONE_MATCHES: &str = "no bridge matches; `vsockctl list` shows all that run or wait";

/// Which bridges are shown, and how.
#[derive(Debug, Default, Args)]
pub(crate) struct Arguments {
    /// Bridges to show [default: all].
    ///
    /// Names such as vsock-bridge@445, with or without .socket or .service, or patterns such as 'vsock-bridge@*'.
    #[arg(value_name = "UNIT")]
    units: Vec<wanted::Unit>,
    /// Show those of your own `systemctl --user`.
    ///
    /// Shows your bridges in place of those of the machine.
    #[arg(long)]
    user: bool,
    /// Print JSON.
    ///
    /// Prints an array of objects instead of tables.
    #[arg(long)]
    json: bool,
    /// Leave out the titles of the columns.
    ///
    /// Prints the rows of the tables without the lines of their titles.
    #[arg(long)]
    no_legend: bool,
    /// Print again each second, or after that time.
    ///
    /// Prints until interrupted: on a terminal in the same place, else behind an empty line.
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = INTERVAL,
        value_parser = parse_positive
    )]
    watch: Option<Duration>,
}

impl Arguments {
    fn manager(&self) -> Manager {
        match self.user {
            true => Manager::User,
            false => Manager::System,
        }
    }
}

/// Prints the bridges.
///
/// Errors: one is not there or could not be asked, after the others are printed; or nothing can be written.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(interval) = arguments.watch {
        return watch(arguments, interval);
    }
    let survey = survey(arguments.manager(), &arguments.units)?;
    let is_read = output::print(&text(arguments, &survey)?)?;
    let is_empty = survey.is_empty();
    let errors = survey.errors(&arguments.units);
    if is_read && !arguments.json && is_empty && errors.is_empty() {
        log::info!("{}", nothing(arguments));
    }
    complain(errors)
}

/// Prints again and again, until nobody reads it: in place on a terminal, else one below the other.
fn watch(arguments: &Arguments, interval: Duration) -> Result<()> {
    if output::terminal().is_some() {
        picture::begin()?;
    }
    let mut gap = "";
    loop {
        let survey = survey(arguments.manager(), &arguments.units)?;
        let text = text(arguments, &survey)?;
        let is_read = match output::terminal() {
            Some((_, height)) => {
                let text = format!("{}{}", output::suited(&text), notes(arguments, survey));
                picture::draw(&text, height)?
            }
            None => {
                let is_read = output::print(&format!("{gap}{text}"))?;
                if let Err(error) = complain(survey.errors(&arguments.units)) {
                    log::error!("{}", error.report());
                }
                is_read
            }
        };
        if !is_read {
            return Ok(());
        }
        gap = "\n";
        // It is time itself that is waited for.
        thread::sleep(interval);
    }
}

/// What would go to stderr, where it stands below the picture instead.
fn notes(arguments: &Arguments, survey: Survey) -> String {
    let is_empty = survey.is_empty();
    let errors = survey.errors(&arguments.units);
    if is_empty && errors.is_empty() {
        return nothing(arguments).to_owned();
    }
    let line = |error: &Error| format!("{}\n", error.report());
    errors.iter().map(line).collect()
}

fn nothing(arguments: &Arguments) -> &'static str {
    match arguments.units[..] {
        [] if arguments.user => NO_BRIDGES_OF_USER,
        [] if units::has_systemd() => NO_BRIDGES,
        [] => NO_BRIDGES_WITHOUT_SYSTEMD,
        _ => NONE_MATCHES,
    }
}

fn text(arguments: &Arguments, survey: &Survey) -> Result<String> {
    if arguments.json {
        return output::json(&survey.bridges);
    }
    let width = output::terminal().map(|(width, _)| width);
    Ok(overview(&survey.bridges, width, !arguments.no_legend))
}

#[cfg(test)]
mod tests {
    use crate::programs::ctl::bridges::example;

    #[test]
    fn json_has_the_names_of_the_manual() {
        let expected = concat!(
            r#"[{"bridge":"vsock-bridge-ipv6@445","state":"waiting","listeners":["[fd00::2]:445"]},"#,
            r#"{"bridge":"vsock-bridge@445","pid":4711,"state":"serving","listeners":["vsock::445"],"#,
            r#""target":"[::1]:445","allow_cid":"any","open":3,"served":1204,"refused":2,"#,
            r#""refused_by_reason":{"max_connections":0,"not_allowed":1},"#,
            r#""unreachable":1,"unreachable_by_reason":{"other":0,"refused":1},"#,
            r#""last_failure":{"reason":"cannot connect","age_seconds":1.5},"#,
            r#""inbound_bytes":1000,"outbound_bytes":2000,"#,
            r#""connect_times":{"count":1206,"sum_seconds":12.5,"buckets":[[0.001,1000],[10.0,1205]]},"#,
            r#""connections":["#,
            r#"{"peer":"vsock:3:1025","cid":3,"target":"[::1]:445","stage":"open","#,
            r#""inbound_bytes":1610612736,"outbound_bytes":12,"age_seconds":3720.5,"idle_seconds":0.25},"#,
            r#"{"peer":"vsock:3:1026","cid":3,"target":"[::1]:445","stage":"half-closed","#,
            r#""inbound_bytes":0,"outbound_bytes":4096,"age_seconds":200.0,"idle_seconds":121.0},"#,
            r#"{"peer":"[::1]:50000","cid":null,"target":"[::1]:445","stage":"connecting","#,
            r#""inbound_bytes":0,"outbound_bytes":0,"age_seconds":1.0,"idle_seconds":1.0}]}]"#,
        );
        assert_eq!(serde_json::to_string(&example()).unwrap(), expected);
    }
}
