//! The body of vsock-bridge: sockets from systemd or its own, settings, loop.

pub(crate) mod arguments;
pub(crate) mod complaints;
mod config;
mod gateway_options;
pub(crate) mod variables;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::accounting::Totals;
use crate::accounting::report::connections;
use crate::activation::Activation;
use crate::allow_list;
use crate::connect::circle::Place;
use crate::connect::{Dialer, Target, has_local_route};
use crate::descriptors::{self, Shares};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway::Gateway;
use crate::handover::{self, Inherited, Store};
use crate::known::Known;
use crate::listen;
use crate::notify;
use crate::peer::Family;
use crate::prefix::Prefix;
use crate::programs::pace;
use crate::serve::Loop;
use crate::serve::control::Inspection;
use crate::serve::signals;
use crate::stream::Listener;
use crate::this_machine;

pub use arguments::Arguments;
use config::Settings;
use variables::Variables;

/// What is wrong with sockets from both sides. systemd would start nobody for ours, nor keep it, when this process leaves.
const LISTENS_TWICE: &str = "systemd has passed sockets, and `--listen` or VSOCK_BRIDGE_LISTEN is for running without them: \
     give one or the other, e.g. add ListenStream= to the socket unit";

/// Why a bridge does not serve.
#[derive(Debug)]
struct Failure {
    error: Error,
    /// Connections of the process before, which are left to the next one.
    waiting: usize,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, waiting: 0 }
    }
}

/// Serves until systemd or the idle time says stop; gives the status to exit with.
///
/// With Accept=yes, when the one connection is over; then the status tells of a target that could not be
/// reached, which the log has told already.
pub fn run(arguments: Arguments) -> ExitCode {
    if let Some(unit) = &arguments.check {
        return complaints::say(unit, &arguments);
    }
    if let Some(status) = pace::begin() {
        return status;
    }
    match serve(arguments) {
        Ok(status) => status,
        Err(Failure { error, waiting }) => {
            let say = |line: &str| log::error!("{line}");
            pace::give_up(&error.report(), waiting, error.exit_code(), say)
        }
    }
}

/// Gives up before the options are known; `line` says what is wrong with them, if it is not a variable.
pub fn refuse(line: &str, status: ExitCode) -> ExitCode {
    let problems = Variables::of_process(pace::own_unit().as_deref()).problems();
    let line = match problems.is_empty() {
        true => line.to_owned(),
        false => format!("vsock-bridge: {}", problems.join("; ")),
    };
    let waiting = Activation::take().map_or(0, |activation| handover::waiting(activation.stored));
    pace::give_up(&line, waiting, status, |line| eprintln!("{line}"))
}

fn serve(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut activation = match Activation::take() {
        // What is not for this process is somebody else's.
        Err(Error::NotActivated(_)) if !arguments.listen.is_empty() => Activation::default(),
        taken => taken?,
    };
    let variables = Variables::of_process(pace::own_unit().as_deref());
    let mut settings = match settings(&arguments, &variables, &mut activation) {
        Ok(settings) => settings,
        Err(error) => {
            let waiting = handover::waiting(activation.stored);
            return Err(Failure { error, waiting });
        }
    };
    // Whoever hears that we serve may already tell us to stop.
    signals::block()?;
    warn_of_fence(&settings, &variables, &activation.locals());
    warn_of_shut_out(&settings);
    let is_listening = !activation.listeners.is_empty();
    // With Accept=yes there is one, which is open already.
    let wanted = if is_listening { settings.gate.limit } else { 1 };
    let shares = descriptors::share_out(wanted);
    settings.gate.limit = shares.connections;
    for listener in &activation.listeners {
        tell(listener, &settings);
    }
    let (store, inherited) = store(activation.stored, is_listening, &shares)?;
    let left = store.clone();
    let waiting = inherited.connections.len() + inherited.peers.len();
    // What was taken over is the next process's again, to the last byte.
    let leave = |error| {
        left.freeze();
        Failure { error, waiting }
    };
    let mut event_loop = Loop::new(
        activation.listeners,
        settings.dialer,
        settings.gate,
        store,
        settings.times,
    )
    .map_err(leave)?;
    (event_loop.handle_signals(arguments.is_typed)).map_err(leave)?;
    if let Some(inspection) = inspection().filter(|_| is_listening) {
        event_loop.show(inspection).map_err(leave)?;
    }
    if let Some(naming) = settings.naming {
        event_loop.follow(naming).map_err(leave)?;
    }
    event_loop.restore(inherited);
    for passed in activation.connections {
        event_loop.admit(passed.stream, passed.peer);
    }
    pace::forget();
    let totals = event_loop.run()?;
    Ok(status(&totals, is_listening))
}

/// Reads the settings, listens where they say so, and checks that they fit the listeners and what else was passed.
fn settings(
    arguments: &Arguments,
    variables: &Variables,
    activation: &mut Activation,
) -> Result<Settings> {
    let mut problems = variables.problems();
    problems.extend(variables.stray(arguments));
    if !problems.is_empty() {
        return Err(Error::Usage(problems.join("; ")));
    }
    if !arguments.listen.is_empty() {
        if !activation.locals().is_empty() {
            return Err(Error::Usage(LISTENS_TWICE.to_owned()));
        }
        let addresses = listen::addresses(
            &arguments.listen,
            &Known::settled(arguments.machines.names.as_ref()),
        )?;
        let routed = routed(arguments, &addresses);
        activation.listeners = listen::open(addresses, arguments.listen_mode, routed)?;
    }
    let mut settings = Settings::new(arguments, &activation.locals())?;
    let Dialer {
        targets, prefix, ..
    } = &settings.dialer;
    let listeners = activation.listeners.iter().map(Place::of_listener);
    let places = listeners.chain(activation.connected().map(Place::of_connection));
    let places: Vec<Place> = places.collect();
    let check = |target: &Target| target.check_circle(&places, *prefix);
    targets.iter().try_for_each(check)?;
    settings.naming = config::naming(arguments, targets, places);
    Ok(settings)
}

/// Returns the prefix if one of the addresses is in it and its route is there.
fn routed(arguments: &Arguments, addresses: &[Endpoint]) -> Option<Prefix> {
    let may_be = |address: &Endpoint| matches!(address, Endpoint::Tcp(addr) if addr.is_ipv6() && !addr.ip().is_loopback());
    addresses.iter().find(|address| may_be(address))?;
    let (prefix, _) = this_machine::prefix(arguments.machines.prefix, Path::new("/")).ok()?;
    let is_one = addresses
        .iter()
        .any(|address| listen::is_in(prefix, address));
    (is_one && has_local_route(prefix)).then_some(prefix)
}

/// Logs what was done, and gives the status that tells it.
fn status(totals: &Totals, is_listening: bool) -> ExitCode {
    let Totals {
        served,
        refused,
        unreachable,
        ..
    } = totals;
    log::info!(
        "stopped: {} served, {refused} refused, {unreachable} without target",
        connections(*served)
    );
    match !is_listening && *unreachable > 0 {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Says what is bridged, and who may come over vsock.
fn tell(listener: &Listener, settings: &Settings) {
    let local = listener.local();
    let target = settings.dialer.targets.for_all_of(local);
    match listener.family() {
        Family::Vsock => {
            let allowed = settings.gate.allowed.described();
            log::info!("bridging {local} to {target}, open to {allowed}");
        }
        _ => log::info!("bridging {local} to {target}"),
    }
    let gateway = settings.dialer.gateway.as_deref();
    let is_unknown = |gateway: &Gateway| match listener.family() {
        Family::Vsock => false,
        Family::Unix => !gateway.knows_unix_peers(),
        Family::Tcp | Family::File => true,
    };
    if gateway.is_some_and(is_unknown) {
        log::warn!(
            "whoever comes to {local} gets nowhere, since no machine is known there: listen on vsock, or on the unix \
             socket of one machine and name it by VSOCK_BRIDGE_MACHINE"
        );
    }
}

/// Says that a list of machines keeps nobody out, unless it is the one for all bridges.
fn warn_of_fence(settings: &Settings, variables: &Variables, locals: &[Endpoint]) {
    let list = settings.gate.allowed.list();
    let is_common = variables
        .place(allow_list::VARIABLE)
        .starts_with(&*variables::common_file().to_string_lossy());
    if !is_common && lets_everybody_in(list, locals) {
        log::warn!(
            "{}={list} has no effect: it is for vsock, which no listener of this bridge is; whoever reaches them comes in",
            allow_list::VARIABLE
        );
    }
}

/// Says that machines have a target, and do not come in.
fn warn_of_shut_out(settings: &Settings) {
    let allowed = &settings.gate.allowed;
    for machines in settings.dialer.targets.shut_out(allowed) {
        log::warn!(
            "{machines} has a target in VSOCK_BRIDGE_TO, and is not let in: {}={},{machines} lets it in",
            allow_list::VARIABLE,
            allowed.list()
        );
    }
}

/// Returns whether a list is given and no listener is one that it holds for.
pub(crate) fn lets_everybody_in(list: &str, locals: &[Endpoint]) -> bool {
    let is_vsock = |local: &Endpoint| matches!(local, Endpoint::Vsock(_));
    list != allow_list::DEFAULT && !locals.is_empty() && !locals.iter().any(is_vsock)
}

/// Goes on with what the process before has left, else begins anew.
fn store(
    stored: Vec<(String, OwnedFd)>,
    is_listening: bool,
    shares: &Shares,
) -> Result<(Arc<Store>, Inherited)> {
    if !stored.is_empty() {
        match Store::adopt(stored, shares.room) {
            Ok(adopted) => {
                adopted.0.limit(shares);
                return Ok(adopted);
            }
            Err(problem) => {
                log::warn!("the connections of the process before are lost: {problem}");
            }
        }
    }
    let store = match is_listening && notify::is_heard() {
        true => Store::new().or_else(|errno| {
            let cause = errno.desc();
            log::warn!("connections would survive neither a crash nor a restart: no memory file can be made: {cause}");
            Store::private()
        }),
        false => Store::private(),
    };
    let store = store.map_err(Error::system("get memory for buffers"))?;
    store.limit(shares);
    Ok((store, Inherited::default()))
}

/// Opens the control socket in the folder that RuntimeDirectory= made; without one, nobody can look.
fn inspection() -> Option<Inspection> {
    let folder = pace::folder()?;
    let report = |error: &std::io::Error| {
        let folder = folder.display();
        log::warn!(
            "no control socket in {folder}, so `vsockctl list` does not show this bridge: {error}"
        );
    };
    Inspection::open(&folder).inspect_err(report).ok()
}
