//! Bridges that have no process which could be asked: systemd listens for them, and knows what became of their service.

use super::bridges::{Activity, Bridge};
use super::check::units::Unit;

/// Gives the bridges of all socket units that are up or should be.
pub fn bridges(units: &[Unit]) -> Vec<Bridge> {
    units
        .iter()
        .filter_map(|unit| bridge(unit, units))
        .collect()
}

fn bridge(socket: &Unit, units: &[Unit]) -> Option<Bridge> {
    let name = socket.id.strip_suffix(".socket")?;
    let is_ours = name.starts_with("vsock-bridge");
    let is_service = |unit: &&Unit| unit.id.strip_suffix(".service") == Some(name);
    let service = units.iter().find(is_service);
    let state = match &*socket.sub {
        "listening" => "waiting",
        "running" => service.map_or("starting", service_state),
        "failed" => "failed",
        _ => return None,
    };
    is_ours.then(|| Bridge {
        name: name.to_owned(),
        activity: Activity::Silent {
            state,
            listeners: socket.listen.clone(),
        },
    })
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
    use crate::control::check::units::tests::{active, inactive};

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
        ];
        let bridges = bridges(&units);
        let [bridge] = &bridges[..] else {
            assert!(bridges.is_empty(), "{bridges:#?}");
            return None;
        };
        assert_eq!(bridge.name, "vsock-bridge@445");
        match &bridge.activity {
            Activity::Silent { state, listeners } => {
                assert_eq!(listeners, &["vsock::445"]);
                Some(state)
            }
            activity => panic!("{activity:#?}"),
        }
    }

    #[test]
    fn a_socket_unit_that_is_up_or_should_be_is_a_bridge() {
        for (socket, service, restarts, expected) in [
            ("listening", "inactive", 0, Some("waiting")),
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
}
