//! The body of vsock-bridge: sockets from systemd, settings, loop.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::activation::Activation;
use crate::config::{Arguments, Settings};
use crate::error::{Error, Result};
use crate::handover::{Estate, Keeper};
use crate::notify;
use crate::peer::Family;
use crate::relay::inspection::Inspection;
use crate::relay::report::connections;
use crate::relay::{Loop, Totals};
use crate::stream::Listener;

/// Descriptors of a connection: its two ends.
const PER_CONNECTION: u64 = 2;
/// Descriptors for all else: listeners, epoll, pooled pipes, log, one accept in flight.
const RESERVE: u64 = 128;

/// Serves until systemd or the idle time says stop.
///
/// With Accept=yes, when the one connection is over; then the status tells of a target that could not be
/// reached, which the log has told already.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let activation = Activation::take()?;
    Arguments::warn_of_unknown_variables();
    let mut settings = Settings::new(arguments, &activation.locals())?;
    let is_listening = !activation.listeners.is_empty();
    if is_listening {
        settings.gate.limit = promised(settings.gate.limit);
    }
    for listener in &activation.listeners {
        tell(listener, &settings);
    }
    let (keeper, estate) = keeper(activation.stored, is_listening)?;
    let mut event_loop = Loop::new(
        activation.listeners,
        settings.dialer,
        settings.gate,
        keeper,
        settings.times,
    )?;
    event_loop.handle_signals()?;
    if let Some(inspection) = inspection().filter(|_| is_listening) {
        event_loop.show(inspection)?;
    }
    event_loop.restore(estate);
    for passed in activation.connections {
        event_loop.admit(passed.stream, passed.peer, passed.destination);
    }
    let Totals {
        served,
        refused,
        unreachable,
        ..
    } = event_loop.run()?;
    log::info!(
        "stopped: {} served, {refused} refused, {unreachable} without target",
        connections(served)
    );
    let has_failed = !is_listening && unreachable > 0;
    Ok(if has_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Says what is bridged, and who may come over vsock.
fn tell(listener: &Listener, settings: &Settings) {
    let (local, target) = (listener.local(), &settings.dialer.target.endpoint);
    match listener.family() {
        Family::Vsock => {
            let allowed = settings.gate.allowed.described();
            log::info!("bridging {local} to {target}, open to {allowed}");
        }
        _ => log::info!("bridging {local} to {target}"),
    }
}

/// Goes on with what the process before has left, else begins anew.
fn keeper(stored: Vec<(String, OwnedFd)>, is_listening: bool) -> Result<(Keeper, Estate)> {
    if !stored.is_empty() {
        match Keeper::adopt(stored) {
            Ok(adopted) => return Ok(adopted),
            Err(problem) => {
                log::warn!("the connections of the process before are lost: {problem}");
            }
        }
    }
    let keeper = match is_listening && notify::is_heard() {
        true => Keeper::new().or_else(|errno| {
            let cause = errno.desc();
            log::warn!("connections would survive neither a crash nor a restart: no memory file can be made: {cause}");
            Keeper::private()
        }),
        false => Keeper::private(),
    };
    let keeper = keeper.map_err(Error::system("get memory for buffers"))?;
    Ok((keeper, Estate::default()))
}

/// Opens the control socket in the folder that RuntimeDirectory= made; without one, nobody can look.
fn inspection() -> Option<Inspection> {
    let folders = std::env::var("RUNTIME_DIRECTORY").ok()?;
    let folder = Path::new(folders.split(':').next()?);
    let report = |error: &std::io::Error| {
        let folder = folder.display();
        log::warn!(
            "no control socket in {folder}, so `vsockctl list` does not show this bridge: {error}"
        );
    };
    Inspection::open(folder).inspect_err(report).ok()
}

/// Gives as many connections as there will be descriptors for, at most those that were asked for.
fn promised(wanted: usize) -> usize {
    let needed = wanted as u64 * PER_CONNECTION + RESERVE;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let raised = needed.min(hard);
    let limit = match soft < raised {
        // A sandbox may forbid it; the unit sets LimitNOFILE= instead.
        true => setrlimit(Resource::RLIMIT_NOFILE, raised, hard).map_or(soft, |()| raised),
        false => soft,
    };
    if limit >= needed {
        return wanted;
    }
    let possible = (limit.saturating_sub(RESERVE) / PER_CONNECTION).max(1) as usize;
    log::warn!(
        "{limit} descriptors suffice for {possible} connections, not for {wanted}: set LimitNOFILE={needed}"
    );
    possible
}
