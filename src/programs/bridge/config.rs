//! The settings of one bridge: [`Arguments`] is what was written, [`Settings`] what holds, with defaults filled in, prefix
//! found and targets resolved.

use std::path::Path;
use std::sync::Arc;

use super::arguments::{Arguments, NO_TARGET, SourceArgument};
use crate::connect::circle::Place;
use crate::connect::{Dialer, Inbound, Source, Target, Targets};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::gateway::rules::{RuleFiles, in_words};
use crate::gateway::{Gateway, cid_of};
use crate::known::Known;
use crate::names::{self, GivenNames, Names};
use crate::prefix::Prefix;
use crate::programs::options::LONGEST;
use crate::relay::Limits;
use crate::serve::LoopSettings;
use crate::serve::naming::Naming;
use crate::stream::Tuning;
use crate::this_machine;

/// What the relay of one bridge runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How the target is reached.
    pub dialer: Dialer,
    /// Who may come in.
    pub gate: Gate,
    /// Names of machines that may change while it runs; none if it needs none.
    pub naming: Option<Naming>,
    /// Times of connections and of the program.
    pub times: LoopSettings,
}

impl Settings {
    /// Fills in defaults and checks what belongs together. `locals`: where the peers connect to.
    ///
    /// Errors: a missing `--to`, a name that does not resolve, a source that does not fit, a missing route.
    pub(crate) fn new(arguments: &Arguments, locals: &[Endpoint]) -> Result<Settings> {
        let dialer = dialer(arguments, locals)?;
        let names = arguments.machines.names.as_ref();
        let (allowed, absent) = arguments
            .allow_cid
            .resolve_present(&Known::settled(names))?;
        for problem in absent {
            log::warn!("{problem}; {}", problem.in_a_list());
        }
        // Those whom the host brings are counted by themselves.
        let per_peer = match dialer.inbound {
            None => arguments.max_connections_per_peer,
            Some(_) => usize::MAX,
        };
        let gate = Gate::new(allowed, arguments.max_connections, per_peer, dialer.prefix);
        if let Some(Err(problem)) = names.map(GivenNames::names) {
            log::warn!("{problem}; no name was needed so far");
        }
        Ok(Settings {
            dialer,
            gate,
            naming: None,
            times: times(arguments),
        })
    }
}

/// Begins to watch the names that the bridge needs; none if none of them can change. `places`: where peers come to.
pub(crate) fn naming(
    arguments: &Arguments,
    targets: &Targets,
    places: Vec<Place>,
) -> Option<Naming> {
    let given = match &arguments.machines.names {
        Some(given) => given.clone(),
        // What is wrong there was told if a name was needed.
        None => Names::read().unwrap_or_default().into(),
    };
    let registry = Path::new(names::REGISTRY);
    let allowed = arguments.allow_cid.clone();
    Naming::new(registry, given, allowed, targets, places)
}

fn dialer(arguments: &Arguments, locals: &[Endpoint]) -> Result<Dialer> {
    let has_vsock = (locals.iter()).any(|local| matches!(local, Endpoint::Vsock(_)));
    let list = (arguments.to.as_ref()).ok_or_else(|| Error::Usage(NO_TARGET.to_owned()))?;
    let names = Known::settled(arguments.machines.names.as_ref());
    let targets = Targets::resolve(list, locals, &names)?;
    let mut targets = targets.led(arguments.beyond.route()?);
    for target in targets.iter_mut() {
        target.source = match arguments.source {
            Some(SourceArgument(source)) => source,
            None if has_vsock && target.sees_machines() => Source::Mapped,
            None => Source::Kernel,
        };
    }
    let is_mapped = |target: &Target| target.source == Source::Mapped || target.is_mapped();
    let is_told = has_vsock && arguments.proxy_protocol.is_some();
    let needs_prefix = is_told || targets.iter().any(is_mapped);
    let has_gateway = targets.iter().any(Target::is_gateway);
    let is_inbound = targets.iter().any(Target::is_inbound);
    let dialer = Dialer {
        gateway: has_gateway
            .then(|| gateway(arguments))
            .transpose()?
            .map(Arc::new),
        prefix: find_prefix(arguments.machines.prefix, needs_prefix)?,
        tuning: tuning(arguments, has_vsock || targets.iter().any(Target::is_vsock)),
        inbound: is_inbound.then(|| Arc::new(Inbound::new(arguments.max_connections_per_peer))),
        targets,
        timeout: arguments.connect_timeout,
        retry: arguments.connect_retry,
        mux_answer: arguments.beyond.mux_answer,
        proxy_protocol: arguments.proxy_protocol,
    };
    dialer.check()?;
    for problem in dialer.targets.absences() {
        log::warn!("{problem}; until it is there, connections to it fail");
    }
    Ok(dialer)
}

/// Reads the rules, and the names that are in them.
fn gateway(arguments: &Arguments) -> Result<Gateway> {
    let names = arguments.machines.names.clone();
    let known = Known::settled(names.as_ref());
    let machine = arguments.machine.as_ref();
    let machine = machine.map(|machine| cid_of(machine, &known)).transpose()?;
    let files = RuleFiles::read(arguments.rules(), names.clone())?;
    let rules = files.current();
    match rules.count() {
        0 => log::warn!(
            "nobody gets anywhere: there is no rule in {}; add one, such as `web db:5432`, which holds at once",
            rules.files()
        ),
        count => log::info!("{} of {}", in_words(count), rules.files()),
    }
    Gateway::new(files, names, machine, arguments.as_peer)
}

fn tuning(arguments: &Arguments, has_vsock: bool) -> Tuning {
    let keepalive = arguments.keepalive;
    let is_probed = !keepalive.is_zero() && keepalive < LONGEST;
    Tuning {
        keepalive: is_probed.then_some(keepalive),
        vsock_buffer_bytes: arguments.vsock_buffer,
        vsock_packets: arguments.beyond.packets(has_vsock, log::Level::Info),
    }
}

fn times(arguments: &Arguments) -> LoopSettings {
    LoopSettings {
        limits: Limits {
            idle: arguments.idle_timeout.0,
            half_close: arguments.half_close_timeout.0,
        },
        exit_idle: arguments.exit_idle_time.0,
        drain: arguments.drain_timeout,
        busy_poll: arguments.busy_poll,
        crash_proof: arguments.crash_proof,
    }
}

/// Finds the prefix; without need for one, a machine that has none does well without.
fn find_prefix(given: Option<Prefix>, is_needed: bool) -> Result<Option<Prefix>> {
    match this_machine::prefix(given, Path::new("/")) {
        Ok((prefix, origin)) => {
            log::debug!("the prefix is {prefix}, {origin}");
            Ok(Some(prefix))
        }
        Err(error) if is_needed => Err(error),
        Err(error) => {
            log::debug!("no prefix: {}", error.report());
            Ok(None)
        }
    }
}
