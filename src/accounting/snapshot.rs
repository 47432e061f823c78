//! A bridge at one moment, as its control socket tells it: `vsockctl list` and `vsockctl metrics`.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counters::{ConnectTimes, Reasons};
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::peer::Peer;

/// For another thread to tell its part.
const PART_TIMEOUT: Duration = Duration::from_secs(2);

/// One bridge at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Process ID.
    pub pid: u32,
    /// `serving`, or `stopping` when no connection is taken any more.
    pub state: String,
    /// Addresses that it listens on.
    pub listeners: Vec<String>,
    /// Where connections go.
    pub target: String,
    /// The machines that may connect, as `--allow-cid` has them; none without a vsock listener, or from an older bridge.
    #[serde(default)]
    pub allow_cid: Option<String>,
    /// Connections that were open when this was counted; one of another thread may have ended before it told its part.
    pub open: usize,
    /// Connections that reached their target and are over.
    pub served: u64,
    /// Peers that were not let in.
    pub refused: u64,
    /// The same by reason, of those that the program has counted since it knows reasons.
    #[serde(default)]
    pub refused_by_reason: Reasons,
    /// Peers whose target could not be reached.
    pub unreachable: u64,
    /// The same by reason, as above.
    #[serde(default)]
    pub unreachable_by_reason: Reasons,
    /// The last of them; none where the process before has counted all, and from an older bridge.
    #[serde(default)]
    pub last_failure: Option<Failure>,
    /// Bytes that targets took, of connections that are over.
    pub inbound_bytes: u64,
    /// Bytes that peers took, of connections that are over.
    pub outbound_bytes: u64,
    /// How long it took to reach targets; none from an older bridge.
    #[serde(default)]
    pub connect_times: Option<ConnectTimes>,
    /// Those that are open, oldest first.
    pub connections: Vec<OpenConnection>,
}

/// A target that could not be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, as in the log.
    pub reason: String,
    /// Seconds since then.
    pub age_seconds: f64,
}

/// One open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenConnection {
    /// Who connected.
    pub peer: String,
    /// Its machine, if it came over vsock.
    pub cid: Option<u32>,
    /// Where it was connected to.
    pub target: String,
    /// How far it has come.
    pub stage: Stage,
    /// Bytes that the target took.
    pub inbound_bytes: u64,
    /// Bytes that the peer took.
    pub outbound_bytes: u64,
    /// Seconds since it was accepted.
    pub age_seconds: f64,
    /// Seconds since the last byte.
    pub idle_seconds: f64,
}

/// The numbers of one session, as the loop has them.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Who connected.
    pub peer: Peer,
    /// Where it is connected to, if that is known.
    pub target: Option<Endpoint>,
    /// How far it has come.
    pub stage: Stage,
    /// Bytes that the target took, and that the peer took.
    pub bytes: (u64, u64),
    /// When it was accepted.
    pub started: Moment,
    /// When the last byte moved.
    pub active: Moment,
}

impl Entry {
    fn connection(&self, now: Moment) -> OpenConnection {
        OpenConnection {
            peer: self.peer.to_string(),
            cid: self.peer.cid().map(|cid| cid.number()),
            target: self
                .target
                .as_ref()
                .map(Endpoint::to_string)
                .unwrap_or_default(),
            stage: self.stage,
            inbound_bytes: self.bytes.0,
            outbound_bytes: self.bytes.1,
            age_seconds: (now - self.started).as_secs_f64(),
            idle_seconds: (now - self.active).as_secs_f64(),
        }
    }
}

/// What an answer is made from.
#[derive(Debug)]
pub(crate) struct Material {
    /// All but the connections.
    pub snapshot: Snapshot,
    /// Sessions of the main loop.
    pub entries: Vec<Entry>,
    /// Sessions of the other threads, one message from each.
    pub others: Receiver<Vec<Entry>>,
}

impl Material {
    /// Waits for the other threads; one that does not answer is left out.
    pub(crate) fn finish(self) -> Snapshot {
        let mut entries = self.entries;
        while let Ok(part) = self.others.recv_timeout(PART_TIMEOUT) {
            entries.extend(part);
        }
        entries.sort_by_key(|entry| entry.started);
        let now = Moment::now();
        let connection = |entry: &Entry| entry.connection(now);
        Snapshot {
            connections: entries.iter().map(connection).collect(),
            ..self.snapshot
        }
    }
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The target is being connected.
    Connecting,
    /// Both directions are open.
    Open,
    /// One direction has ended.
    HalfClosed,
}
