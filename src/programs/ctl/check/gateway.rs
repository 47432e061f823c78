//! Whether the gateway of this machine leads anybody anywhere, and gets there itself, to bridges that let it in; and whether
//! the one is there that this machine is told of.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::finding::{Finding, Level};
use super::rights::may_read;
use super::sandbox;
use super::settings::{services, setting};
use super::targets;
use super::units::Unit;
use crate::connect;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::gateway;
use crate::gateway::rules::{Rules, Source, in_words};
use crate::gateway_rules::{self, Leads, ResolvedRule};
use crate::target_list::TargetList;
use crate::this_machine;

const SUBJECT: &str = "gateway";
const PROXY: &str = "vsock-bridge-proxy.service";
/// A gateway is on the same machine, or one hop away.
const PATIENCE: Duration = Duration::from_secs(2);
/// Places of rules that one line names.
const PLACES_MAX: usize = 3;
/// Machines that are asked whether they let the gateway in.
const ASKED_MAX: usize = 16;

/// Returns a line for each gateway in use, and one for each that is to be reached from here.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = services(units).flat_map(rules).collect();
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

fn rules(service: &Unit) -> Vec<Finding> {
    let Some((source, rules)) = rules_of(service) else {
        return Vec::new();
    };
    let (id, files) = (&service.id, rules.files());
    let said = match rules.count() {
        0 => Finding::warn(
            SUBJECT,
            format!(
                "{id} leads nobody anywhere, as {files} has no rule: write one there, such as `web db:5432`, which holds at once"
            ),
        ),
        count => Finding::ok(SUBJECT, format!("{id} has {} of {files}", in_words(count))),
    };
    let mut findings = vec![said];
    findings.extend(unread(service, &source));
    match kept(service, &rules) {
        Some(finding) => findings.push(finding),
        None => findings.extend(not_let_in(id, &rules)),
    }
    findings
}

/// Returns a line for each machine that is to see who comes, and runs, and has no bridge that lets the gateway in.
fn not_let_in(id: &str, rules: &Rules) -> Vec<Finding> {
    let mut places = Vec::new();
    for rule in rules.iter().filter(|rule| rule.is_as_peer()) {
        for leads in rule.leads() {
            let Leads::To(place) = leads else { continue };
            places.extend(gateway::inbound(&place).filter(|place| !places.contains(place)));
        }
    }
    let refusal = |place: &Endpoint| {
        let error = connect::probe(place, PATIENCE).err()?;
        let is_refused = matches!(
            error,
            Error::Connect {
                source: Errno::ECONNREFUSED | Errno::ECONNRESET,
                ..
            }
        );
        let text = format!(
            "{}, where {id} brings machines: enable vsock-bridge-inbound.socket in that one, if it runs",
            error.report()
        );
        is_refused.then(|| Finding::warn(SUBJECT, text))
    };
    places.iter().take(ASKED_MAX).filter_map(refusal).collect()
}

/// Returns the rules of a service that is a gateway; what is wrong in them has its line with the settings.
fn rules_of(service: &Unit) -> Option<(Source, Rules)> {
    if target(service)? != Endpoint::Gateway {
        return None;
    }
    let source = match setting(service, gateway_rules::VARIABLE, " --rules").ok()? {
        Some(setting) => Source::File(setting.text.into()),
        None => Source::Usual,
    };
    let (rules, _) = source.read(targets::given(service).as_ref()).ok()?;
    Some((source, rules))
}

/// Returns a line for a file with rules that root reads here, and the gateway may not.
fn unread(service: &Unit, source: &Source) -> Option<Finding> {
    // What cannot be read has its line with the settings.
    let mut files = source.files().ok()?.into_iter();
    let is_closed =
        |file: &PathBuf| file.exists() && may_read(&service.identity, file) == Some(false);
    let file = files.find(is_closed)?;
    let (id, user, path) = (&service.id, &service.identity.user, file.display());
    let text = format!(
        "{id} runs as {user}, which may not read {path}: the rules that it has still hold, and it cannot start with others"
    );
    let finding = Finding::new(Level::Fail, SUBJECT, text);
    // Else it is a folder.
    let is_open = file.metadata().is_ok_and(|file| file.mode() & 0o004 != 0);
    Some(match is_open {
        true => finding,
        false => finding.open(&file),
    })
}

/// Returns a line for places of rules that the sandbox keeps the gateway from, which are all places to whoever asks for them.
fn kept(service: &Unit, rules: &Rules) -> Option<Finding> {
    let (mut places, mut settings) = (Vec::new(), Vec::new());
    for leads in rules.iter().flat_map(ResolvedRule::leads) {
        let (place, lacks) = match leads {
            Leads::To(place) => (place.to_string(), service.sandbox.lacks(&place)),
            Leads::Into(network, bits) => {
                let lacks = service.sandbox.lacks_network(network, bits);
                (format!("{network}/{bits}"), lacks)
            }
            Leads::Named(name) => (name.to_owned(), service.sandbox.lacks_outside()),
        };
        if !lacks.is_empty() && !places.contains(&place) && places.len() <= PLACES_MAX {
            places.push(place);
        }
        for setting in lacks {
            if !settings.contains(&setting) {
                settings.push(setting);
            }
        }
    }
    if settings.is_empty() {
        return None;
    }
    if places.len() > PLACES_MAX {
        places.truncate(PLACES_MAX);
        places.push("others".to_owned());
    }
    let (id, places, needed) = (&service.id, places.join(", "), settings.join(" and "));
    let text = format!(
        "{id} cannot reach {places}, where its rules lead: its sandbox needs {needed} in a drop-in"
    );
    let finding = Finding::new(Level::Fail, SUBJECT, text);
    Some(finding.run_all(sandbox::drop_in(
        id,
        "50-target.conf",
        &settings.join("\\n"),
    )))
}

fn reached(gateway: &Endpoint, user: &str) -> Finding {
    match connect::greet(gateway, PATIENCE) {
        Ok(()) => Finding::ok(SUBJECT, format!("{gateway} is there, for {user}")),
        Err(problem) => Finding::new(
            Level::Fail,
            SUBJECT,
            format!(
                "{problem}, the gateway for {user}: enable vsock-bridge-gateway.socket there, and let this machine in"
            ),
        ),
    }
}
