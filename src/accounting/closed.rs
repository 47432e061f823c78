//! What remains of a connection that is over, and why it is.

use std::time::Duration;

use nix::errno::Errno;

use crate::connect::Errand;
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::peer::{Peer, Side};

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both directions ended, and every byte was taken.
    Complete,
    /// An end failed.
    Broken(Side, Errno),
    /// An end takes nothing more, though there was more for it.
    Refused(Side, Errno),
    /// No byte moved for the idle time.
    Idle,
    /// The second direction did not end in time after the first.
    HalfClosed,
    /// The program stops, and the drain time is over.
    Stopped,
    /// The program is restarted, and the next process cannot have it.
    NotKept(Errno),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Complete => write!(f, "complete"),
            Ending::Broken(side, errno) | Ending::Refused(side, errno) => {
                let by = match side {
                    Side::Peer => "peer",
                    Side::Target => "target",
                };
                write!(f, "aborted by the {by}: {}", errno.desc())
            }
            Ending::Idle => write!(f, "closed: no byte within --idle-timeout"),
            Ending::HalfClosed => write!(f, "closed: no second end within --half-close-timeout"),
            Ending::Stopped => write!(f, "closed: still open after --drain-timeout"),
            Ending::NotKept(errno) => {
                write!(f, "closed: cannot be handed over: {}", errno.desc())
            }
        }
    }
}

/// A session that is over.
#[derive(Debug)]
pub(crate) struct Closed {
    /// Who it was.
    pub peer: Peer,
    /// Where it went, or should have gone, if that is known.
    pub target: Option<Endpoint>,
    /// The gateway through which it went there, if it did.
    pub via: Option<Box<Endpoint>>,
    /// How its connection ended, or why its target could not be reached.
    pub result: Result<Ending>,
    /// Bytes that the target took.
    pub inbound_bytes: u64,
    /// Bytes that the peer took.
    pub outbound_bytes: u64,
    /// From accept to close.
    pub duration: Duration,
    /// What it has asked for, if it is the gateway's.
    pub errand: Option<Box<Errand>>,
    /// The machine behind its socket, where it has not come to ask for anything.
    pub machine: Option<Peer>,
}

impl Closed {
    /// Begins with nothing that was relayed.
    pub(crate) fn new(
        peer: Peer,
        target: Option<Endpoint>,
        result: Result<Ending>,
        duration: Duration,
    ) -> Closed {
        Closed {
            peer,
            target,
            via: None,
            result,
            inbound_bytes: 0,
            outbound_bytes: 0,
            duration,
            errand: None,
            machine: None,
        }
    }

    /// Returns who it was to people.
    pub(crate) fn who(&self) -> Peer {
        let known = self.machine.unwrap_or(self.peer);
        who(&known, self.errand.as_deref())
    }
}

/// Returns who a peer is to people: whom it brings, or itself.
pub(crate) fn who(peer: &Peer, errand: Option<&Errand>) -> Peer {
    errand.and_then(|errand| errand.from).unwrap_or(*peer)
}
