//! The options of the gateway: what is wrong with them, and where they have no effect.

use std::path::Path;

use super::arguments::Arguments;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::gateway::cid_of;
use crate::gateway_rules;
use crate::known::Known;

/// The name of the variable of the machine behind a unix listener.
pub(super) const MACHINE: &str = "VSOCK_BRIDGE_MACHINE";
const AS_PEER: &str = "VSOCK_BRIDGE_AS_PEER";

/// Returns a line for each that is given to a bridge that is no gateway, where nobody would obey it. In the file of all bridges,
/// which is `common`, it is for the gateways among them. `place`: where a variable is set.
pub(super) fn stray<'a>(
    arguments: &Arguments,
    place: impl Fn(&str) -> &'a str,
    common: &Path,
) -> Vec<String> {
    let Some(to) = arguments.to.as_ref().filter(|_| !is_gateway(arguments)) else {
        return Vec::new();
    };
    let given = [
        (
            gateway_rules::VARIABLE,
            "--rules",
            arguments.rules.is_some(),
        ),
        (MACHINE, "--machine", arguments.machine.is_some()),
        (AS_PEER, "--as-peer", arguments.as_peer),
    ];
    let line = |(variable, option, is_given): (&str, &str, bool)| {
        let place = place(variable);
        let written = match place {
            "" => option.to_owned(),
            place => format!("{place}: {variable}"),
        };
        let is_stray = is_given && !place.starts_with(&*common.to_string_lossy());
        is_stray.then(|| {
            format!("{written} has no effect: it is for the target `gateway`, and this one is {to}; take it out")
        })
    };
    given.into_iter().filter_map(line).collect()
}

/// Returns what is wrong with the machine behind a unix listener.
pub(super) fn wrong_machine(arguments: &Arguments, names: &Known<'_>) -> Option<Error> {
    let machine = arguments.machine.as_ref().filter(|_| is_gateway(arguments));
    cid_of(machine?, names).err()
}

/// Returns what is wrong with the rules, one line each.
pub(super) fn wrong_rules(arguments: &Arguments) -> Vec<String> {
    if !is_gateway(arguments) {
        return Vec::new();
    }
    match arguments.rules().read(arguments.machines.names.as_ref()) {
        Ok((_, unknown)) => unknown,
        Err(problems) => problems,
    }
}

fn is_gateway(arguments: &Arguments) -> bool {
    let is_it = |endpoint: &Endpoint| *endpoint == Endpoint::Gateway;
    let targets = arguments.to.as_ref();
    targets.is_some_and(|targets| targets.endpoints().any(is_it))
}
