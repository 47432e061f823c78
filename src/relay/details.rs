//! What the log tells of each connection: its steps at debug, its events at trace.
//!
//! Nothing is looked up or written where nobody reads it: without these levels a call is a comparison.

use std::time::Duration;

use log::Level;
use nix::sys::epoll::EpollFlags;

use super::connection::Connection;
use super::flow::{Flow, State};
use super::wire::Wire;
use crate::connect::Dialer;
use crate::peer::{Destination, Peer, Side};

/// Tells that a peer was let in.
pub(crate) fn accepted(peer: &Peer, destination: Destination, dialer: &Dialer) {
    if log::log_enabled!(Level::Debug) {
        match dialer.target_of(peer, destination) {
            Some(target) => log::debug!("{peer} accepted, its target is {target}"),
            None => log::debug!("{peer} accepted"),
        }
    }
}

/// Tells that the target has accepted.
pub(super) fn connected(peer: &Peer, time: Duration) {
    log::debug!("{peer} connected to its target after {time:.3?}");
}

/// Tells what epoll has reported.
pub(super) fn event(peer: &Peer, side: Side, events: EpollFlags) {
    log::trace!("{peer}: {}: {events:?}", name(side));
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Peer => "the peer",
        Side::Target => "the target",
    }
}

/// How far both directions were before a turn.
pub(super) struct Before {
    bytes: (u64, u64),
    is_over: [bool; 2],
}

impl Before {
    /// Looks, if anybody wants to know.
    pub(super) fn of<W: Wire>(connection: &Connection<W>) -> Option<Before> {
        log::log_enabled!(Level::Debug).then(|| Before {
            bytes: connection.delivered_bytes(),
            is_over: directions(connection).map(|(_, flow)| flow.is_over()),
        })
    }

    /// Tells what the turn has changed.
    pub(super) fn tell<W: Wire>(self, peer: &Peer, connection: &Connection<W>) {
        let (was, is) = (self.bytes, connection.delivered_bytes());
        if is != was {
            log::trace!(
                "{peer}: {} bytes in, {} bytes out",
                is.0 - was.0,
                is.1 - was.1
            );
        }
        for ((side, flow), was_over) in directions(connection).into_iter().zip(self.is_over) {
            if flow.is_over() && !was_over {
                ended(peer, side, flow);
            }
        }
    }
}

/// The flow from each end.
fn directions<W: Wire>(connection: &Connection<W>) -> [(Side, &Flow); 2] {
    let (inbound, outbound) = connection.flows();
    [(Side::Peer, inbound), (Side::Target, outbound)]
}

fn ended(peer: &Peer, from: Side, flow: &Flow) {
    let (source, sink) = (name(from), name(from.other()));
    match flow.state() {
        State::Refused(errno) => log::debug!("{peer}: {sink} takes no more: {}", errno.desc()),
        _ => log::debug!("{peer}: {source} has ended, and {sink} has all of it"),
    }
}
