//! What is counted of a bridge: names, types and labels, as vsockctl(8) lists them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::accounting::snapshot::{OpenConnection, Snapshot};
use crate::programs::ctl::bridge::{Activity, Bridge};
use crate::programs::ctl::bridges::Survey;

/// The reason of those that an older program has counted, without any.
const UNKNOWN: &str = "unknown";

/// All samples of one name.
pub(super) struct Family {
    /// Its name, without the `_total` of a counter.
    pub name: &'static str,
    /// What the numbers are.
    pub kind: Kind,
    /// The unit, which is also the end of the name.
    pub unit: Option<&'static str>,
    /// One sentence without a character that is escaped.
    pub help: &'static str,
    /// Those of all bridges.
    pub samples: Vec<Sample>,
}

/// What numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They go up and down.
    Gauge,
    /// They only grow, but for a new start.
    Counter,
    /// Counters of what was not above a limit, and a sum.
    Histogram,
}

/// One number.
pub(super) struct Sample {
    /// What follows the name of the family.
    pub suffix: &'static str,
    /// Names and values of labels.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: Value,
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Count(u64),
    Seconds(f64),
}

/// Returns all that is known.
pub(super) fn families(survey: &Survey) -> Vec<Family> {
    let gauge = |name, help, samples| Family {
        name,
        kind: Kind::Gauge,
        unit: None,
        help,
        samples,
    };
    let counter = |name, help, samples| Family {
        kind: Kind::Counter,
        ..gauge(name, help, samples)
    };
    let of_each = |samples: fn(&Snapshot) -> Vec<Sample>| of_each(survey, samples);
    vec![
        gauge(
            "vsock_bridge_up",
            "Whether the bridge serves, or its socket waits for the first peer.",
            ups(survey),
        ),
        gauge(
            "vsock_bridge_connections",
            "Open connections of each peer.",
            of_each(connections),
        ),
        counter(
            "vsock_bridge_connections_served",
            "Connections that reached their target and are over.",
            of_each(|snapshot| vec![total(Vec::new(), snapshot.served)]),
        ),
        counter(
            "vsock_bridge_refused",
            "Peers that were not let in.",
            of_each(|snapshot| by_reason(&snapshot.refused_by_reason, snapshot.refused)),
        ),
        counter(
            "vsock_bridge_unreachable",
            "Peers whose target could not be reached.",
            of_each(|snapshot| by_reason(&snapshot.unreachable_by_reason, snapshot.unreachable)),
        ),
        Family {
            unit: Some("bytes"),
            ..counter(
                "vsock_bridge_bytes",
                "Bytes that arrived: inbound at targets, outbound at peers.",
                of_each(bytes),
            )
        },
        Family {
            kind: Kind::Histogram,
            unit: Some("seconds"),
            ..gauge(
                "vsock_bridge_connect_duration_seconds",
                "Time from the accept of a peer until its target was connected.",
                of_each(connect_times),
            )
        },
    ]
}

fn ups(survey: &Survey) -> Vec<Sample> {
    let known = (survey.bridges.iter()).map(|bridge| (&bridge.name, is_up(bridge)));
    let unread = survey.unread.iter().map(|unread| (&unread.name, false));
    let sample = |(name, is_up): (&String, bool)| Sample {
        labels: vec![("bridge", name.clone())],
        ..sample("", Vec::new(), is_up.into())
    };
    known.chain(unread).map(sample).collect()
}

fn is_up(bridge: &Bridge) -> bool {
    match &bridge.activity {
        Activity::Running(snapshot) => snapshot.state == "serving",
        Activity::Silent { state, .. } => *state == "waiting",
    }
}

/// Returns the samples of all bridges that run, each with its name as the first label.
fn of_each(survey: &Survey, samples: fn(&Snapshot) -> Vec<Sample>) -> Vec<Sample> {
    let mut all = Vec::new();
    for Bridge { name, activity } in &survey.bridges {
        if let Activity::Running(snapshot) = activity {
            let named = |mut sample: Sample| {
                sample.labels.insert(0, ("bridge", name.clone()));
                sample
            };
            all.extend(samples(snapshot).into_iter().map(named));
        }
    }
    all
}

fn connections(snapshot: &Snapshot) -> Vec<Sample> {
    let mut peers: BTreeMap<String, u64> = BTreeMap::new();
    for connection in &snapshot.connections {
        *peers.entry(peer(connection)).or_default() += 1;
    }
    let sample = |(peer, count)| sample("", vec![("peer", peer)], count);
    peers.into_iter().map(sample).collect()
}

/// Reduces a peer to its machine, address or user.
fn peer(connection: &OpenConnection) -> String {
    match (connection.cid, connection.peer.parse::<SocketAddr>()) {
        (Some(cid), _) => cid.to_string(),
        (None, Ok(address)) => address.ip().to_string(),
        (None, Err(_)) => connection.peer.clone(),
    }
}

/// Returns a counter for each reason, which have the total as their sum.
fn by_reason(reasons: &BTreeMap<String, u64>, all: u64) -> Vec<Sample> {
    let rest = all.saturating_sub(reasons.values().sum());
    let rest = (rest > 0).then(|| (UNKNOWN.to_owned(), rest));
    let known = (reasons.iter()).map(|(reason, &count)| (reason.clone(), count));
    let sample = |(reason, count)| total(vec![("reason", reason)], count);
    known.chain(rest).map(sample).collect()
}

/// Those of open connections included.
fn bytes(snapshot: &Snapshot) -> Vec<Sample> {
    let sum = |own: u64, of: fn(&OpenConnection) -> u64| {
        own + snapshot.connections.iter().map(of).sum::<u64>()
    };
    let inbound = sum(snapshot.inbound_bytes, |one| one.inbound_bytes);
    let outbound = sum(snapshot.outbound_bytes, |one| one.outbound_bytes);
    let sample = |(direction, bytes)| total(vec![("direction", direction)], bytes);
    [
        ("inbound".to_owned(), inbound),
        ("outbound".to_owned(), outbound),
    ]
    .map(sample)
    .into()
}

fn connect_times(snapshot: &Snapshot) -> Vec<Sample> {
    let Some(times) = &snapshot.connect_times else {
        return Vec::new();
    };
    // As OpenMetrics writes floats, in both formats, so that the series stay the same.
    let limits = (times.buckets.iter()).map(|(limit, count)| (format!("{limit:?}"), *count));
    let buckets = limits.chain([("+Inf".to_owned(), times.count)]);
    let mut samples: Vec<Sample> = buckets
        .map(|(limit, count)| sample("_bucket", vec![("le", limit)], count))
        .collect();
    samples.push(Sample {
        value: Value::Seconds(times.sum_seconds),
        ..sample("_sum", Vec::new(), 0)
    });
    samples.push(sample("_count", Vec::new(), times.count));
    samples
}

fn total(labels: Vec<(&'static str, String)>, count: u64) -> Sample {
    sample("_total", labels, count)
}

fn sample(suffix: &'static str, labels: Vec<(&'static str, String)>, count: u64) -> Sample {
    Sample {
        suffix,
        labels,
        value: Value::Count(count),
    }
}
