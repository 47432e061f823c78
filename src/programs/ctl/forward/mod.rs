//! `vsockctl forward`: a port or a unix socket of one side on the other, by one command: for as long as it runs, or from now on.
//!
//! What runs does so in this process, with the rights of whoever types: what they can open is forwarded, and nothing has to
//! be opened for it. A transient unit would run as another user, and needs root.

mod gives;
mod persist;
mod places;
mod plan;
mod slips;

use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches};

use super::output;
use crate::allow_list::{self, AllowList};
use crate::config_file;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::names;
use crate::programs::bridge::{self, Arguments as Bridge};
use crate::programs::ctl::check::units::Manager;
use crate::programs::options::Machines;

use places::{Listen, Target};
use plan::Wish;

/// What is forwarded.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to listen: 8080, vsock::8080, /run/x.sock
    listen: Listen,
    /// Where connections go: web:80, 3:80, /run/x.sock
    #[arg(required_unless_present = "remove", conflicts_with = "remove")]
    target: Option<Target>,
    /// As nc(1) has its port; here it is behind the machine.
    #[arg(hide = true)]
    more: Option<String>,
    /// As ssh has both ends; here they are two words.
    #[arg(short = 'L', hide = true, value_name = "ENDS", value_parser = of_ssh)]
    ends: Option<Listen>,
    /// Machines that may connect over vsock.
    ///
    /// As of vsock-bridge: any is every other machine, a list such as 3,web is the machines in it, and this machine itself
    /// comes in only by local.
    #[arg(long, value_name = "LIST", default_value = allow_list::DEFAULT)]
    allow_cid: AllowList,
    /// Have systemd forward, also after a boot.
    ///
    /// Writes the settings and drop-ins of a bridge, which open its sandbox as far as the target needs, and starts its
    /// socket. Needs root.
    #[arg(long)]
    persistent: bool,
    /// Have your own systemd forward, without root.
    ///
    /// With --persistent or --remove, what forwards is a bridge of `systemctl --user`, as the user who types.
    #[arg(long, conflicts_with = "owner")]
    user: bool,
    /// Undo what --persistent has done.
    ///
    /// Stops what forwards from there, and removes the files that were written. Needs root.
    #[arg(long, conflicts_with_all = ["persistent", "allow_cid"])]
    remove: bool,
    /// Print a script instead of doing it.
    ///
    /// With --persistent or --remove, nothing is changed; printed is a script for a shell of root that does the same.
    #[arg(long)]
    dry_run: bool,
    /// Whose the socket is that it listens on.
    ///
    /// With --persistent, the user who may connect to the path that it listens on, besides root.
    #[arg(long, value_name = "USER", requires = "persistent")]
    owner: Option<String>,
}

/// Forwards until it is told to end, or has systemd do so.
pub(super) fn run(arguments: Arguments, machines: Machines) -> Result<ExitCode> {
    let Arguments {
        listen: Listen(listen),
        target,
        allow_cid,
        persistent: is_persistent,
        dry_run: is_dry,
        owner,
        user: is_own,
        more,
        ..
    } = arguments;
    if let Some(more) = more {
        return Err(Error::Usage(format!(
            "{more:?} is one word too many: where connections go is one, such as web:80"
        )));
    }
    let manager = match is_own {
        true => Manager::User,
        false => Manager::System,
    };
    let Some(Target(target)) = target else {
        return print(persist::remove(manager, &listen, is_dry));
    };
    let is_vsock = |address: &Endpoint| matches!(address, Endpoint::Vsock(_));
    if allow_cid.text() != allow_list::DEFAULT && !listen.iter().any(is_vsock) {
        return Err(Error::Usage(
            "`--allow-cid` is for vsock, and what is listened on is none: leave it out".to_owned(),
        ));
    }
    if target == Endpoint::Inbound && !listen.iter().any(is_vsock) {
        return Err(Error::Usage(
            "inbound is for what the gateway of the host brings over vsock, and what is listened on is none: \
            systemctl enable --now vsock-bridge-inbound.socket"
                .to_owned(),
        ));
    }
    let has_names =
        matches!(target, Endpoint::VsockName { .. }) || allow_cid.names().next().is_some();
    if is_persistent && has_names && machines.names.is_some() {
        return Err(Error::Usage(format!(
            "names that are given here, by `--names` or {}, are not those of the service: write them into {}",
            names::VARIABLE,
            config_file::PATH
        )));
    }
    for line in gives::warnings(&listen, &target, allow_cid.text()) {
        log::warn!("{line}");
    }
    if is_persistent {
        let wish = Wish {
            listen: &listen,
            target: &target,
            allowed: allow_cid.text(),
            owner: owner.as_deref(),
        };
        return print(persist::add(manager, &wish, is_dry));
    }
    if is_dry || is_own {
        let option = if is_dry { "--dry-run" } else { "--user" };
        return Err(Error::Usage(format!(
            "`{option}` is for `--persistent` and `--remove`; without them nothing is changed"
        )));
    }
    Ok(bridge::run(settings(
        &listen, &target, allow_cid, machines,
    )?))
}

/// Refuses the option of ssh, with what is to be written.
fn of_ssh(text: &str) -> Result<Listen> {
    let hint = slips::of_listen(text).unwrap_or_else(|| "write e.g. 8080 web:80".to_owned());
    let hint = format!("`-L` is ssh's; {hint}");
    Err(Error::invalid("option", text, hint))
}

fn print(text: Result<String>) -> Result<ExitCode> {
    output::print(&text?)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns what `vsock-bridge --listen … --to …` would have.
fn settings(
    listen: &[Endpoint],
    target: &Endpoint,
    allow_cid: AllowList,
    machines: Machines,
) -> Result<Bridge> {
    let words = listen.iter().map(|address| format!("--listen={address}"));
    let words = words.chain([
        format!("--to={target}"),
        // For whoever types, and nobody else.
        "--listen-mode=0600".to_owned(),
        // It ends when it is told to.
        "--drain-timeout=0s".to_owned(),
    ]);
    let words = ["vsock-bridge".to_owned()].into_iter().chain(words);
    let matches = Bridge::command().try_get_matches_from(words);
    let bridge = matches.and_then(|matches| Bridge::from_arg_matches(&matches));
    let mut bridge = bridge.map_err(|error| Error::Usage(error.to_string()))?;
    (bridge.allow_cid, bridge.machines) = (allow_cid, machines);
    bridge.is_typed = true;
    Ok(bridge)
}
