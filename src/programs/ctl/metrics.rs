//! `vsockctl metrics`: the numbers of all bridges in Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use super::bridge::{Activity, Bridge};
use super::bridges::{Survey, survey};
use super::output;
use crate::error::Result;
use crate::relay::inspection::{OpenConnection, Snapshot};

/// Prints the numbers.
///
/// Errors: [`crate::error::Error::Control`] when a bridge could not be asked, after the others are printed;
/// [`crate::error::Error::Output`].
pub(super) fn run() -> Result<()> {
    let survey = survey()?;
    output::write(&text(&survey))?;
    survey.complain()
}

/// Names and values of labels.
type Labels = Vec<(&'static str, String)>;

/// All samples of one name.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Labels behind that of the bridge, and values.
    samples: fn(&Snapshot) -> Vec<(Labels, u64)>,
}

const FAMILIES: [Family; 5] = [
    Family {
        name: "vsock_bridge_connections",
        kind: "gauge",
        help: "Open connections of each peer.",
        samples: |snapshot| {
            let mut peers: BTreeMap<String, u64> = BTreeMap::new();
            for connection in &snapshot.connections {
                *peers.entry(peer(connection)).or_default() += 1;
            }
            let sample = |(peer, count)| (vec![("peer", peer)], count);
            peers.into_iter().map(sample).collect()
        },
    },
    Family {
        name: "vsock_bridge_connections_served_total",
        kind: "counter",
        help: "Connections that reached their target and are over.",
        samples: |snapshot| vec![(Vec::new(), snapshot.served)],
    },
    Family {
        name: "vsock_bridge_refused_total",
        kind: "counter",
        help: "Peers that were not let in.",
        samples: |snapshot| vec![(Vec::new(), snapshot.refused)],
    },
    Family {
        name: "vsock_bridge_unreachable_total",
        kind: "counter",
        help: "Peers whose target could not be reached.",
        samples: |snapshot| vec![(Vec::new(), snapshot.unreachable)],
    },
    Family {
        name: "vsock_bridge_bytes_total",
        kind: "counter",
        help: "Bytes that arrived: inbound at targets, outbound at peers.",
        samples: |snapshot| {
            let sum = |own: u64, of: fn(&OpenConnection) -> u64| {
                own + snapshot.connections.iter().map(of).sum::<u64>()
            };
            let inbound = sum(snapshot.inbound_bytes, |one| one.inbound_bytes);
            let outbound = sum(snapshot.outbound_bytes, |one| one.outbound_bytes);
            let sample =
                |direction: &str, bytes| (vec![("direction", direction.to_owned())], bytes);
            vec![sample("inbound", inbound), sample("outbound", outbound)]
        },
    },
];

fn text(survey: &Survey) -> String {
    let mut text = String::new();
    head(
        &mut text,
        "vsock_bridge_up",
        "gauge",
        "Whether the bridge serves, or its socket waits for the first peer.",
    );
    let ups = survey
        .bridges
        .iter()
        .map(|bridge| (&bridge.name, is_up(bridge)));
    let unread = survey.unread.iter().map(|unread| (&unread.name, false));
    for (name, is_up) in ups.chain(unread) {
        sample(&mut text, "vsock_bridge_up", name, &[], is_up.into());
    }
    for family in FAMILIES {
        head(&mut text, family.name, family.kind, family.help);
        for Bridge { name, activity } in &survey.bridges {
            if let Activity::Running(snapshot) = activity {
                for (labels, value) in (family.samples)(snapshot) {
                    sample(&mut text, family.name, name, &labels, value);
                }
            }
        }
    }
    text
}

fn is_up(bridge: &Bridge) -> bool {
    match &bridge.activity {
        Activity::Running(snapshot) => snapshot.state == "serving",
        Activity::Silent { state, .. } => *state == "waiting",
    }
}

/// Reduces a peer to its machine, address or user.
fn peer(connection: &OpenConnection) -> String {
    match (connection.cid, connection.peer.parse::<SocketAddr>()) {
        (Some(cid), _) => cid.to_string(),
        (None, Ok(address)) => address.ip().to_string(),
        (None, Err(_)) => connection.peer.clone(),
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(
    text: &mut String,
    name: &str,
    bridge: &str,
    labels: &[(&'static str, String)],
    value: u64,
) {
    let _ = write!(text, "{name}{{bridge=\"{}\"", escaped(bridge));
    for (label, value) in labels {
        let _ = write!(text, ",{label}=\"{}\"", escaped(value));
    }
    let _ = writeln!(text, "}} {value}");
}

/// Escapes what ends the value of a label.
fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::programs::ctl::bridges::{Unread, example};

    #[test]
    fn every_number_has_its_name_and_labels() {
        let survey = Survey {
            bridges: example(),
            unread: vec![Unread {
                name: r#"odd"\x"#.to_owned(),
                error: Error::Usage(String::new()),
            }],
        };
        let expected = r#"# HELP vsock_bridge_up Whether the bridge serves, or its socket waits for the first peer.
# TYPE vsock_bridge_up gauge
vsock_bridge_up{bridge="vsock-bridge-ipv6@445"} 1
vsock_bridge_up{bridge="vsock-bridge@445"} 1
vsock_bridge_up{bridge="odd\"\\x"} 0
# HELP vsock_bridge_connections Open connections of each peer.
# TYPE vsock_bridge_connections gauge
vsock_bridge_connections{bridge="vsock-bridge@445",peer="3"} 2
vsock_bridge_connections{bridge="vsock-bridge@445",peer="::1"} 1
# HELP vsock_bridge_connections_served_total Connections that reached their target and are over.
# TYPE vsock_bridge_connections_served_total counter
vsock_bridge_connections_served_total{bridge="vsock-bridge@445"} 1204
# HELP vsock_bridge_refused_total Peers that were not let in.
# TYPE vsock_bridge_refused_total counter
vsock_bridge_refused_total{bridge="vsock-bridge@445"} 2
# HELP vsock_bridge_unreachable_total Peers whose target could not be reached.
# TYPE vsock_bridge_unreachable_total counter
vsock_bridge_unreachable_total{bridge="vsock-bridge@445"} 0
# HELP vsock_bridge_bytes_total Bytes that arrived: inbound at targets, outbound at peers.
# TYPE vsock_bridge_bytes_total counter
vsock_bridge_bytes_total{bridge="vsock-bridge@445",direction="inbound"} 1610613736
vsock_bridge_bytes_total{bridge="vsock-bridge@445",direction="outbound"} 6108
"#;
        assert_eq!(text(&survey), expected);
    }
}
