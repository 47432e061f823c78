//! Bridges that have no process which could be asked: systemd listens for them, and knows what became of their service.

use super::bridge::{Activity, Bridge};
use super::check::settings::{setting, sockets_of};
use super::check::units::{METRICS, Unit};
use crate::allow_list;
use crate::endpoint::Endpoint;

/// As it stands in ExecStart=.
const OPTION: &str = " --allow-cid";

/// Returns the bridges of all socket units that are up or should be.
pub(super) fn bridges(units: &[Unit]) -> Vec<Bridge> {
    units
        .iter()
        .filter_map(|unit| bridge(unit, units))
        .collect()
}

fn bridge(socket: &Unit, units: &[Unit]) -> Option<Bridge> {
    let name = socket.id.strip_suffix(".socket")?;
    let is_ours = name.starts_with("vsock-bridge") && name != METRICS;
    let is_service = |unit: &&Unit| unit.id.strip_suffix(".service") == Some(name);
    let service = units.iter().find(is_service);
    let state = match &*socket.sub {
        // So it is between the starts of a service that fails at each of them as well.
        "listening" => service
            .filter(|service| !["inactive", "failed"].contains(&&*service.active))
            .map_or("waiting", service_state),
        "running" => service.map_or("starting", service_state),
        "failed" => "failed",
        _ => return None,
    };
    is_ours.then(|| Bridge {
        name: name.to_owned(),
        activity: Activity::Silent {
            state,
            listeners: socket.listen.clone(),
            allow_cid: service.and_then(|service| allow_cid(service, units)),
        },
    })
}

/// What is in a file that cannot be read, or on the command line, is not known.
fn allow_cid(service: &Unit, units: &[Unit]) -> Option<String> {
    let is_vsock = |socket: &Endpoint| matches!(socket, Endpoint::Vsock(_));
    if !sockets_of(service, units).iter().any(is_vsock) || service.command.contains(OPTION) {
        return None;
    }
    let setting = setting(service, allow_list::VARIABLE, OPTION).ok()?;
    Some(setting.map_or(allow_list::DEFAULT.to_owned(), |setting| setting.text))
}

fn service_state(service: &Unit) -> &'static str {
    match &*service.active {
        "active" => "running",
        "deactivating" => "stopping",
        _ if service.keeps_failing() => "failing",
        _ => "starting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::ctl::check::units::tests::{active, inactive};

    /// A bridge whose socket unit and service are in these states.
    fn state(socket: &str, service: &str, restarts: u32) -> Option<&'static str> {
        let units = [
            Unit {
                sub: socket.to_owned(),
                listen: vec!["vsock::445".to_owned()],
                ..active("vsock-bridge@445.socket")
            },
            Unit {
                active: service.to_owned(),
                restarts,
                ..inactive("vsock-bridge@445.service")
            },
            active("vsock-bridge-prefix.service"),
            active("sshd-vsock.socket"),
            active("vsock-bridge-metrics.socket"),
        ];
        let bridges = bridges(&units);
        let [bridge] = &bridges[..] else {
            assert!(bridges.is_empty(), "{bridges:#?}");
            return None;
        };
        assert_eq!(bridge.name, "vsock-bridge@445");
        match &bridge.activity {
            Activity::Silent {
                state,
                listeners,
                allow_cid,
            } => {
                assert_eq!(listeners, &["vsock::445"]);
                assert_eq!(allow_cid.as_deref(), Some("any"));
                Some(state)
            }
            activity => panic!("{activity:#?}"),
        }
    }

    #[test]
    fn a_socket_unit_that_is_up_or_should_be_is_a_bridge() {
        for (socket, service, restarts, expected) in [
            ("listening", "inactive", 0, Some("waiting")),
            ("listening", "failed", 0, Some("waiting")),
            ("listening", "activating", 3, Some("failing")),
            ("running", "activating", 0, Some("starting")),
            ("running", "activating", 3, Some("failing")),
            ("running", "active", 0, Some("running")),
            ("running", "deactivating", 0, Some("stopping")),
            ("failed", "inactive", 0, Some("failed")),
            ("dead", "inactive", 0, None),
        ] {
            let found = state(socket, service, restarts);
            assert_eq!(found, expected, "{socket} {service} {restarts}");
        }
    }

    #[test]
    fn a_bridge_that_waits_is_shown_with_whom_it_will_let_in() {
        for (listen, list, expected) in [
            ("vsock::445", None, Some("any")),
            ("vsock::445", Some("3,local"), Some("3,local")),
            ("[fd00::2]:445", Some("3,local"), None),
        ] {
            let socket = Unit {
                listen: vec![listen.to_owned()],
                ..active("vsock-bridge@445.socket")
            };
            let assignment = |list| format!("{}={list}", allow_list::VARIABLE);
            let service = Unit {
                environment: list.map(assignment).into_iter().collect(),
                ..inactive("vsock-bridge@445.service")
            };
            let [bridge] = &bridges(&[socket, service])[..] else {
                panic!("not one bridge")
            };
            let Activity::Silent { allow_cid, .. } = &bridge.activity else {
                panic!("{bridge:#?}")
            };
            assert_eq!(allow_cid.as_deref(), expected, "{listen} {list:?}");
        }
    }
}
