//! Whether the gateway of this machine leads anybody anywhere, and whether the one is there that this machine is told of.

use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, Level};
use super::settings::{services, setting};
use super::targets;
use super::units::Unit;
use crate::connect;
use crate::endpoint::Endpoint;
use crate::gateway::rules::{Source, in_words};
use crate::gateway_rules;
use crate::target_list::TargetList;
use crate::this_machine;

const SUBJECT: &str = "gateway";
const PROXY: &str = "vsock-bridge-proxy.service";
/// A gateway is on the same machine, or one hop away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns a line for each gateway in use, and one for each that is to be reached from here.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = services(units).filter_map(rules).collect();
    let proxy = services(units).find(|service| service.id == PROXY);
    let beyond = proxy.and_then(|proxy| Some((target(proxy)?, PROXY.to_owned())));
    let via = match this_machine::via(None, Path::new("/")) {
        Ok(via) => via.map(|(gateway, origin)| (gateway, format!("other machines, {origin}"))),
        // A file has its line with the settings.
        Err(_) => None,
    };
    for (gateway, user) in beyond.into_iter().chain(via) {
        findings.push(reached(&gateway, &user));
    }
    findings
}

/// Returns where a bridge connects to, if that is one place for all.
fn target(service: &Unit) -> Option<Endpoint> {
    match targets::target(service).ok()??.text.parse().ok()? {
        TargetList::Common(endpoint) => Some(endpoint),
        TargetList::Each(_) => None,
    }
}

fn rules(service: &Unit) -> Option<Finding> {
    if target(service)? != Endpoint::Gateway {
        return None;
    }
    let source = match setting(service, gateway_rules::VARIABLE, " --rules").ok()? {
        Some(setting) => Source::File(setting.text.into()),
        None => Source::Usual,
    };
    // What is wrong in them has its line with the settings.
    let (rules, _) = source.read(targets::given(service).as_ref()).ok()?;
    let (id, files) = (&service.id, rules.files());
    Some(match rules.count() {
        0 => Finding::warn(
            SUBJECT,
            format!(
                "{id} leads nobody anywhere, as {files} has no rule: write one there, such as `web db:5432`, which holds at once"
            ),
        ),
        count => Finding::ok(SUBJECT, format!("{id} has {} of {files}", in_words(count))),
    })
}

fn reached(gateway: &Endpoint, user: &str) -> Finding {
    match connect::probe(gateway, PATIENCE) {
        Ok(()) => Finding::ok(SUBJECT, format!("{gateway} is there, for {user}")),
        Err(error) => Finding::new(
            Level::Fail,
            SUBJECT,
            format!(
                "{}, the gateway for {user}: enable vsock-bridge-gateway.socket there, and let this machine in",
                error.report()
            ),
        ),
    }
}
