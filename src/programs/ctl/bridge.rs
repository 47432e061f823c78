//! A bridge, and what it does, as `vsockctl list --json` shows it.

use serde::Serialize;

use crate::accounting::snapshot::Snapshot;

/// A bridge, as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct Bridge {
    /// Name of its units, without suffix.
    #[serde(rename = "bridge")]
    pub name: String,
    /// What it does.
    #[serde(flatten)]
    pub activity: Activity,
}

/// What a bridge does.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Activity {
    /// Its process says so.
    Running(Box<Snapshot>),
    /// It has no process that tells; systemd says so.
    Silent {
        /// `waiting` for the first peer, `failed`; or why its service cannot be asked: `starting`, `failing`,
        /// `stopping`, `running` without control socket.
        state: &'static str,
        /// Addresses that systemd listens on.
        listeners: Vec<String>,
        /// The machines that may connect, by what its next process will read; none without a vsock listener.
        #[serde(skip_serializing_if = "Option::is_none")]
        allow_cid: Option<String>,
    },
}
