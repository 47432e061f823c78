//! Whether somebody listens where the bridges connect to, as far as that is on this machine.

use std::fs;
use std::time::Duration;

use super::finding::{Finding, Level};
use super::listeners::Listeners;
use super::rights;
use super::sandbox;
use super::settings::{Setting, configuration, services, setting, sockets_of};
use super::units::Unit;
use crate::accounting::snapshot::{OpenConnection, Snapshot, Stage};
use crate::connect::circle::Place;
use crate::connect::{Target, check_listeners};
use crate::endpoint::{ADDRESS_BYTES_MAX, Endpoint, UnixName};
use crate::error::Error;
use crate::known::Known;
use crate::names::{self, GivenNames};
use crate::programs::ctl::bridges;
use crate::target_list::TargetList;
use crate::vsock::Cid;

/// `--to` as an environment variable.
const VARIABLE: &str = "VSOCK_BRIDGE_TO";
/// Of targets that one line names.
const PLACES_MAX: usize = 3;

/// What is known of a target.
enum Looked {
    /// This.
    Told(Finding),
    /// Nobody listens there.
    Unserved,
    /// Nothing that could be seen from here.
    Unknown,
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looker {
    /// Who may look at everything.
    Root,
    /// The user whose bridges they are.
    Owner,
    /// Some other user.
    Other,
}

/// Returns a line for each target, on this machine, of a bridge in use, and for each bridge that reaches none. Only root can
/// ask what the user of a service may do.
pub(super) fn check(units: &[Unit], listeners: &Listeners, looker: Looker) -> Vec<Finding> {
    services(units)
        .flat_map(|service| match target(service) {
            Ok(Some(target)) => {
                let look = |endpoint: &Endpoint| look_at(service, endpoint, listeners, looker);
                let given = given(service);
                let names = Known::now(given.as_ref());
                let sockets = sockets_of(service, units);
                let mut findings = look_at_all(service, &target, &names, &sockets, look);
                // A fault that was found has its line.
                let is_well = |finding: &Finding| finding.level == Level::Ok;
                if findings.iter().all(is_well) {
                    findings.extend(ask(service).and_then(|said| in_vain(&service.id, &said)));
                }
                findings
            }
            Ok(None) => Vec::new(),
            Err(error) => vec![Finding::warn("target", error.report())],
        })
        .collect()
}

/// Returns whether some bridge in use connects to the host.
pub(super) fn has_host(units: &[Unit]) -> bool {
    let is_host = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Vsock(addr) if addr.cid == Some(Cid::HOST));
    services(units)
        // What is wrong with a target has its line.
        .filter_map(|service| target(service).ok()??.text.parse().ok())
        .any(|list: TargetList| list.endpoints().any(is_host))
}

/// Reads where a bridge connects to.
pub(super) fn target(service: &Unit) -> Result<Option<Setting>, Error> {
    setting(service, VARIABLE, " --to")
}

/// Returns the names of machines that a service is told.
pub(super) fn given(service: &Unit) -> Option<GivenNames> {
    let names = setting(service, names::VARIABLE, " --names").ok()?;
    names.and_then(|names| names.text.parse().ok())
}

fn look_at_all(
    service: &Unit,
    target: &Setting,
    names: &Known<'_>,
    sockets: &[Endpoint],
    look: impl Fn(&Endpoint) -> Looked,
) -> Vec<Finding> {
    // What is none has its line with the settings.
    let Ok(list) = target.text.parse::<TargetList>() else {
        return Vec::new();
    };
    let endpoints = match endpoints(&list, names, sockets) {
        Ok(endpoints) => endpoints,
        Err(error) => {
            let text = format!("{}: {}", target.place, error.report());
            return vec![Finding::new(Level::Fail, "target", text)];
        }
    };
    let (mut findings, mut unserved) = (Vec::new(), Vec::new());
    for endpoint in &endpoints {
        match look(endpoint) {
            Looked::Told(finding) => findings.push(finding),
            Looked::Unserved => unserved.push(endpoint.to_string()),
            Looked::Unknown => {}
        }
    }
    findings.extend(nobody_listens(service, &unserved));
    findings
}

/// Returns one line for all of them, which may be those of a list of ports.
fn nobody_listens(service: &Unit, unserved: &[String]) -> Option<Finding> {
    if unserved.is_empty() {
        return None;
    }
    let id = &service.id;
    let mut places = unserved[..unserved.len().min(PLACES_MAX)].join(", ");
    if unserved.len() > PLACES_MAX {
        places += &format!(" and {} more", unserved.len() - PLACES_MAX);
    }
    let text = format!(
        "nobody listens on {places}, where {id} connects to: start that server, or set another \
         {VARIABLE} in {}",
        configuration(service)
    );
    Some(Finding::warn("target", text))
}

fn look_at(service: &Unit, endpoint: &Endpoint, listeners: &Listeners, looker: Looker) -> Looked {
    let id = &service.id;
    if let Some(finding) = sandbox::check(id, &service.sandbox, endpoint) {
        return Looked::Told(finding);
    }
    let path = match &endpoint {
        Endpoint::Unix(UnixName::Path(path))
        | Endpoint::Mux {
            path: UnixName::Path(path),
            ..
        } => Some(path),
        _ => None,
    };
    if let Some(finding) = (path.filter(|_| looker == Looker::Root))
        .and_then(|path| rights::check(id, &service.identity, path))
    {
        return Looked::Told(finding);
    }
    let is_served = match endpoint {
        Endpoint::Tcp(address) if address.ip().is_loopback() => listeners.serve(*address),
        // The kernel lists it under the name that it was bound by, which cannot have been this path.
        Endpoint::Unix(UnixName::Path(path)) if path.as_os_str().len() > ADDRESS_BYTES_MAX => {
            return Looked::Unknown;
        }
        Endpoint::Unix(name) => {
            // As it was bound, which may be another name of the same place, such as /run for /var/run.
            let real = path.and_then(|path| fs::canonicalize(path).ok());
            listeners.serve_unix(name)
                || real.is_some_and(|path| listeners.serve_unix(&UnixName::Path(path)))
        }
        // On another machine, or to be resolved first.
        _ => return Looked::Unknown,
    };
    if is_served && path.is_some() && looker == Looker::Other {
        let text = format!(
            "{endpoint}, of {id}, is listened to; whether {id} may write to it can be looked at by root only"
        );
        return Looked::Told(Finding::warn("target", text));
    }
    if is_served {
        let text = format!("{endpoint}, of {id}, is listened to");
        return Looked::Told(Finding::ok("target", text));
    }
    Looked::Unserved
}

fn ask(service: &Unit) -> Option<Snapshot> {
    (service.is_active()).then(|| bridges::snapshot(service.id.trim_end_matches(".service")))?
}

/// Returns a line for a bridge that has reached its target for nobody; the next process, which a restart brings, begins anew.
fn in_vain(id: &str, said: &Snapshot) -> Option<Finding> {
    let last = said.last_failure.as_ref()?;
    let is_reached = |connection: &OpenConnection| connection.stage != Stage::Connecting;
    if said.served > 0 || said.connections.iter().any(is_reached) {
        return None;
    }
    let clients = match said.unreachable {
        1 => "its only client".to_owned(),
        count => format!("any of its {count} clients"),
    };
    let ago = humantime::format_duration(Duration::from_secs(last.age_seconds as u64));
    let text = format!(
        "{id} did not reach {} for {clients}, the last of them {ago} ago: {}; the first that \
         gets through takes this line away",
        said.target, last.reason
    );
    Some(Finding::warn("target", text))
}

/// Returns all places that the bridge would connect to, each once; asks no resolver, and leaves out machines that are not
/// there, which have their line with the settings.
fn endpoints(
    list: &TargetList,
    names: &Known<'_>,
    sockets: &[Endpoint],
) -> Result<Vec<Endpoint>, Error> {
    let places: Vec<_> = (sockets.iter().cloned())
        .map(Place::of_connection)
        .collect();
    check_listeners(list, sockets)?;
    let mut found = Vec::new();
    for endpoint in list.endpoints() {
        for (_, endpoint) in endpoint.clone().at_ports_of(sockets)? {
            let endpoint = match endpoint.into_target()? {
                Endpoint::VsockName { name, port } => match names.endpoint(&name, port) {
                    Ok(endpoint) => endpoint,
                    Err(_) => continue,
                },
                endpoint => endpoint,
            };
            let is_known = matches!(
                endpoint,
                Endpoint::Tcp(_) | Endpoint::Unix(_) | Endpoint::Vsock(_) | Endpoint::Mux { .. }
            );
            if is_known {
                Target::resolve(endpoint.clone(), names)?.check_circle(&places, None)?;
            }
            if !found.contains(&endpoint) {
                found.push(endpoint);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {

    use super::super::listeners::TcpListener;
    use super::super::units::tests::{active, inactive};
    use super::*;
    use crate::accounting::snapshot::Failure;
    use crate::programs::ctl::bridge::Activity;

    fn units(to: &str) -> [Unit; 2] {
        let service = Unit {
            environment: vec![format!("{VARIABLE}={to}")],
            ..inactive("vsock-bridge@445.service")
        };
        [active("vsock-bridge@445.socket"), service]
    }

    fn listeners() -> Listeners {
        Listeners {
            tcp: vec![TcpListener {
                address: "[::1]:445".parse().unwrap(),
                inode: 0,
            }],
            unix: vec!["/run/x.sock".into()],
        }
    }

    fn levels(to: &str) -> Vec<Level> {
        let findings = check(&units(to), &listeners(), Looker::Root);
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_target_that_nobody_listens_on_is_a_warning() {
        for (to, level) in [
            ("[::1]:445", Level::Ok),
            ("[::1]:446", Level::Warn),
            ("127.0.0.1:445", Level::Warn),
            ("/run/x.sock", Level::Ok),
            ("/run/y.sock", Level::Warn),
            ("@x", Level::Warn),
        ] {
            assert_eq!(levels(to), [level], "{to}");
        }
        let text = &check(&units("[::1]:446"), &listeners(), Looker::Root)[0].text;
        assert!(text.contains("[::1]:446") && text.contains("vsock-bridge@445.conf"));
    }

    #[test]
    fn a_mapped_port_is_that_of_the_socket() {
        let mut units = units("[::1]:mapped");
        let levels = |units: &[Unit]| {
            check(units, &listeners(), Looker::Root)
                .pop()
                .map(|f| f.level)
        };
        assert_eq!(levels(&units), Some(Level::Fail));
        for (listener, level) in [
            ("/run/vm.vsock_445", Level::Ok),
            ("/run/vm.vsock_446", Level::Warn),
            ("/run/vm.vsock", Level::Fail),
        ] {
            units[0].listen = vec![listener.into()];
            assert_eq!(levels(&units), Some(level), "{listener}");
        }
    }

    #[test]
    fn targets_of_a_list_of_ports_that_nobody_listens_on_are_one_line() {
        let service = active("vsock-bridge@1.service");
        let places = ["[::1]:1", "[::1]:2", "[::1]:3", "[::1]:4", "[::1]:5"].map(str::to_owned);
        for (count, named) in [
            (1, "on [::1]:1, where"),
            (3, "on [::1]:1, [::1]:2, [::1]:3, where"),
            (5, "on [::1]:1, [::1]:2, [::1]:3 and 2 more, where"),
        ] {
            let finding = nobody_listens(&service, &places[..count]).unwrap();
            assert!(finding.text.contains(named), "{}", finding.text);
        }
    }

    #[test]
    fn a_target_that_is_the_own_listener_fails() {
        for (listener, to) in [
            ("[::1]:445", "[::1]:445"),
            ("[::]:445", "[::1]:445"),
            ("/run/x.sock", "/run/x.sock"),
            ("vsock::445", "vsock:local:445"),
        ] {
            let mut units = units(to);
            units[0].listen = vec![listener.into()];
            let [finding] = &check(&units, &listeners(), Looker::Root)[..] else {
                panic!("{listener} to {to}: not one line")
            };
            assert_eq!(finding.level, Level::Fail, "{finding:?}");
            assert!(finding.text.contains("leads back to"), "{finding:?}");
        }
    }

    #[test]
    fn a_target_that_is_none_fails() {
        assert_eq!(levels("vsock::445"), [Level::Fail]);
        // They have a line of their own.
        for to in ["nonsense", ""] {
            assert_eq!(levels(to), [], "{to:?}");
        }
    }

    #[test]
    fn targets_elsewhere_are_not_looked_at() {
        let far = "/run/x".repeat(20);
        for to in [
            "vsock:2:445",
            "vsock:mapped",
            "192.0.2.1:445",
            "name:445",
            &far,
        ] {
            assert_eq!(levels(to), [], "{to}");
        }
        let mut units = units("[::1]:446");
        units[0] = Unit {
            file_state: "disabled".into(),
            ..inactive("vsock-bridge@445.socket")
        };
        assert_eq!(check(&units, &listeners(), Looker::Root), []);
    }

    #[test]
    fn a_bridge_that_reached_nobody_is_told_with_the_last_reason() {
        let all = bridges::example();
        let running = all.iter().find_map(|bridge| match &bridge.activity {
            Activity::Running(running) => Some(&**running),
            Activity::Silent { .. } => None,
        });
        let running = running.unwrap();
        let never = Snapshot {
            served: 0,
            unreachable: 2,
            last_failure: Some(Failure {
                reason: "cannot connect to vsock:4:80: No such device".to_owned(),
                age_seconds: 65.4,
            }),
            connections: Vec::new(),
            ..running.clone()
        };
        let found = in_vain("vsock-bridge@445.service", &never).unwrap();
        assert_eq!(found.level, Level::Warn);
        assert_eq!(
            found.text,
            "vsock-bridge@445.service did not reach [::1]:445 for any of its 2 clients, the last of them 1m 5s ago: \
             cannot connect to vsock:4:80: No such device; the first that gets through takes this line away"
        );
        for well in [
            Snapshot {
                served: 1,
                ..never.clone()
            },
            Snapshot {
                connections: running.connections.clone(),
                ..never.clone()
            },
            Snapshot {
                last_failure: None,
                ..never.clone()
            },
        ] {
            assert_eq!(in_vain("vsock-bridge@445.service", &well), None);
        }
    }

    #[test]
    fn a_bridge_to_the_host_is_known_by_its_target() {
        for (to, is_host) in [
            ("vsock:2:445", true),
            ("vsock:host:445", true),
            ("vsock:3:445", false),
            ("vsock:mapped", false),
            ("[::1]:445", false),
            ("nonsense", false),
        ] {
            assert_eq!(has_host(&units(to)), is_host, "{to}");
        }
    }

    #[test]
    fn files_overrule_the_unit_and_the_command_line_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bridge.conf");
        fs::write(&path, "# c\nVSOCK_BRIDGE_TO=vsock::445\n").unwrap();
        let mut units = units("[::1]:445");
        units[1].environment_files = vec![directory.path().join("missing"), path.clone()];
        let text = &check(&units, &listeners(), Looker::Root)[0].text;
        assert!(
            text.starts_with(&format!("{}:2: ", path.display())),
            "{text}"
        );
        units[1].command = "{ argv[]=/x --to [::1]:446 }".into();
        assert_eq!(check(&units, &listeners(), Looker::Root), []);
    }
}
