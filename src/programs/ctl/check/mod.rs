//! `vsockctl check`: one line for each thing that must be true, with the command that mends it.
//!
//! Each check is a function from facts to findings; what gathers the facts stands beside it. Nothing is changed, and
//! nobody is connected to but a gateway that this machine is told of, and the bridges of machines to which its own gateway
//! brings others; these hear nothing. Only what is in use can fail. The order is that of mending: what a line needs stands
//! above it, and what follows from a fault has no line of its own, where that is certain.

mod allowed;
mod commands;
mod device;
mod files;
mod finding;
mod gateway;
mod kernel;
mod listeners;
mod masked;
mod misnamed;
mod names;
mod nft;
mod port_lists;
mod ports;
mod prefix;
mod registry;
pub(crate) mod rights;
mod routes;
pub(crate) mod sandbox;
pub(crate) mod settings;
mod sshd;
mod states;
mod strays;
mod system;
mod targets;
mod ties;
mod transport;
pub(crate) mod units;

use std::path::Path;

use clap::Args;

use super::output;
use crate::error::{Error, Result};
use crate::prefix::Prefix;
use crate::programs::bridge::variables::FOLDER;

use finding::{Finding, Level};
use units::{Manager, Unasked, Unit, Use};

/// How the findings are shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Look at those of your own `systemctl --user`.
    ///
    /// Looks at your bridges in place of those of the machine, and at what these need.
    #[arg(long)]
    user: bool,
    /// Print JSON.
    ///
    /// Prints an array of objects instead of lines.
    #[arg(long)]
    json: bool,
}

/// Prints the table, without what is well if it is to be quiet. `given`: the prefix of option or environment.
///
/// Errors: [`Error::Checks`] when something has failed, [`Error::Output`].
pub(crate) fn run(arguments: &Arguments, is_quiet: bool, given: Option<Prefix>) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    let mut findings = match arguments.user {
        true => match units::gather(Manager::User) {
            Ok(units) => look_at_own(&units),
            Err(problem) => vec![unasked(&problem)],
        },
        false => match units::gather(Manager::System) {
            Ok(units) => look(given, is_root, &units, None),
            Err(problem) => look(given, is_root, &[], Some(&problem)),
        },
    };
    findings.retain(|finding| finding.level != Level::Ok || !is_quiet);
    let text = match arguments.json {
        true => output::json(&findings)?,
        false => finding::table(&findings, is_root),
    };
    output::print(&text)?;
    let failed = findings.iter().filter(|f| f.level == Level::Fail).count();
    match failed {
        0 => Ok(()),
        _ => Err(Error::Checks { failed }),
    }
}

/// Reads a text as each of the tables that the kernel and systemctl give; for the fuzzers.
pub(crate) fn read_tables(text: &str) {
    let _ = (listeners::parse_tcp(text), listeners::parse_unix(text));
    let _ = units::parse(text);
}

fn look(
    given: Option<Prefix>,
    is_root: bool,
    units: &[Unit],
    problem: Option<&Unasked>,
) -> Vec<Finding> {
    let is_used = Use {
        to_host: targets::has_host(units),
        systemd: problem != Some(&Unasked::NoSystemd),
        ..Use::of(units)
    };
    let (device, transports) = (device::gather(), transport::gather());
    let system = system::gather();
    let looker = match is_root {
        true => targets::Looker::Root,
        false => targets::Looker::Other,
    };
    let prefix = prefix::gather(given, problem.is_none());
    let own_cid = transports.knows_cid(&device).then_some(transports.cid);
    let listeners = listeners::gather();
    let clashes = ports::clashes(units, &listeners);
    let nft = nft::gather();
    let is_explained = |unit: &Unit| {
        let has_clash = clashes.iter().any(|clash| clash.unit.id == unit.id);
        has_clash || nft.keep_down(unit) || files::keep_down(unit)
    };

    let mut findings = vec![
        device::check(&device, &is_used),
        transport::check(&transports, &device, &is_used),
        transport::cid(&transports, &device),
    ];
    findings.extend(transport::nested(&transports, &device));
    findings.extend([
        kernel::check(&kernel::version()),
        system::ipv6(&system, &is_used),
    ]);
    findings.extend(system::user(&system, &is_used));
    findings.extend(system::namespaces(&system, units));
    findings.push(prefix::check(&prefix, &is_used, units));
    if system.ipv6_disabled == Some(false) {
        findings.extend(routes::check(&prefix, &is_used, own_cid, units));
    }
    if let Ok((prefix, _)) = &prefix.found {
        findings.extend(names::check(*prefix));
    }
    findings.extend(registry::check(units));
    findings.extend(strays::check());
    let folder = Path::new(FOLDER);
    findings.extend(files::check(units, folder, misnamed::check(units, folder)));
    findings.extend(sshd::check(&sshd::gather(units, is_root), &is_used));
    match problem {
        Some(Unasked::NoSystemd) => findings.push(Finding::ok(
            "units",
            "none, as systemd is not running: see `--listen` in vsock-bridge(8)",
        )),
        Some(problem) => findings.push(unasked(problem)),
        None => {
            findings.extend(nft::check(&nft, units));
            findings.extend(ports::check(&clashes, units));
            findings.extend(port_lists::check(units));
            findings.extend(states::check(units, is_explained, |unit| {
                states::last_error(unit, Manager::System)
            }));
            findings.extend(masked::check(units));
            findings.extend(ties::check(units));
            findings.extend(targets::check(units, &listeners, looker));
            findings.extend(commands::check(units));
            findings.extend(allowed::check(units));
            findings.extend(gateway::check(units));
        }
    }
    for finding in &mut findings {
        masked::spare(finding, units);
    }
    findings
}

fn unasked(problem: &Unasked) -> Finding {
    Finding::warn("units", format!("cannot be looked at: {problem}"))
}

/// Looks at the bridges of the user who asks. The prefix, its route and its rules are the machine's, and none of these needs
/// them.
fn look_at_own(units: &[Unit]) -> Vec<Finding> {
    let is_used = Use {
        to_host: targets::has_host(units),
        ..Use::of(units)
    };
    let (device, transports) = (device::gather(), transport::gather());
    let listeners = listeners::gather();
    let clashes = ports::clashes(units, &listeners);
    let is_explained = |unit: &Unit| {
        clashes.iter().any(|clash| clash.unit.id == unit.id) || files::keep_down(unit)
    };
    let reason = |unit: &Unit| states::last_error(unit, Manager::User);
    let mut findings = vec![
        device::check(&device, &is_used),
        transport::check(&transports, &device, &is_used),
        transport::cid(&transports, &device),
        kernel::check(&kernel::version()),
    ];
    // ~/.config, as the user's systemd has it; the files need not exist.
    let files = units.iter().flat_map(|unit| &unit.environment_files);
    let folder = files.filter_map(|path| path.parent()).next();
    if let Some(folder) = folder {
        let misnamed = misnamed::check(units, folder);
        findings.extend(files::check(units, folder, misnamed));
    }
    findings.extend(ports::check(&clashes, units));
    findings.extend(states::check(units, is_explained, reason));
    findings.extend(masked::check(units));
    findings.extend(targets::check(units, &listeners, targets::Looker::Owner));
    findings.extend(allowed::check(units));
    let configuration = folder.and_then(Path::parent);
    let own = |mut finding: Finding| {
        masked::spare(&mut finding, units);
        finding.of_user(configuration)
    };
    findings.into_iter().map(own).collect()
}
