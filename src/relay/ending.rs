//! How it is found out from two flows and two ends why a connection is over.
//!
//! A direction that its sink refuses ends alone, because what the sink has sent before may still be on its way: it is read
//! and delivered first. Only then is the connection aborted, and an abort drops what is not acknowledged, so that is waited
//! for as well.

use nix::errno::Errno;

use super::end::End;
use super::flow::{Flow, State};
use super::wire::Wire;
use crate::accounting::Ending;
use crate::peer::{Family, Side};

/// One end of a connection, with the flow from it and the flow towards it.
pub(crate) struct View<'a, W> {
    /// Which one.
    pub side: Side,
    /// The end itself.
    pub end: &'a End<W>,
    /// What it sends.
    pub from: &'a Flow,
    /// What it is sent.
    pub towards: &'a Flow,
}

/// Returns how a connection went, if both directions are over, or an end has failed that nobody reads any more.
pub(crate) fn of<W: Wire>(peer: &View<'_, W>, target: &View<'_, W>) -> Option<Ending> {
    // What the target has sent before it failed still goes to the peer, and an abort drops what is on its way.
    let is_target_unread = || target.end.has_failed && may_abort(target, peer.end);
    // A target that stands still must not keep the place of a peer that was reset, whose own place that is.
    let is_peer_unread = || peer.from.is_over() || peer.from.is_held_up(target.end);
    failure(target, is_target_unread)
        .or_else(|| complete(peer, target))
        .or_else(|| left(peer, target))
        .or_else(|| refusal(target, peer.end))
        .or_else(|| refusal(peer, target.end))
        .or_else(|| failure(peer, is_peer_unread))
}

fn complete<W>(peer: &View<'_, W>, target: &View<'_, W>) -> Option<Ending> {
    let states = (peer.from.state(), target.from.state());
    (states == (State::Finished, State::Finished)).then_some(Ending::Complete)
}

/// A target that has sent all and takes nothing more is done with us, though stdin may be a terminal that never ends. That
/// is asked of the kernel after the end of what it has sent: one that has only ended its own direction still takes bytes.
fn left<W: Wire>(peer: &View<'_, W>, target: &View<'_, W>) -> Option<Ending> {
    let is_stdin = peer.end.wire.family() == Family::File;
    let has_nothing = || {
        let is_waiting = peer.from.state() == State::Open && peer.from.is_empty();
        is_waiting && !peer.end.is_readable && !peer.end.wire.has_input()
    };
    let has_left =
        is_stdin && target.from.state() == State::Finished && target.end.wire.takes_nothing();
    (has_left && has_nothing()).then_some(Ending::Complete)
}

/// An end that took nothing more, and has nothing more to say.
fn refusal<W: Wire>(refuser: &View<'_, W>, other: &End<W>) -> Option<Ending> {
    let State::Refused(errno) = refuser.towards.state() else {
        return None;
    };
    let is_due = !is_disconnect(errno) || may_abort(refuser, other);
    is_due.then_some(Ending::Refused(refuser.side, errno))
}

/// A reset that no read will tell of, after the end was read, or soon.
fn failure<W: Wire>(failed: &View<'_, W>, is_unread: impl FnOnce() -> bool) -> Option<Ending> {
    if !failed.end.has_failed || !is_unread() {
        return None;
    }
    let errno = failed.end.failure.or_else(|| failed.end.wire.take_error());
    errno.map(|errno| Ending::Broken(failed.side, errno))
}

/// Returns whether a write that fails so means that the other end is there no more, and what it has sent has an end.
fn is_disconnect(errno: Errno) -> bool {
    // Any other, such as ENOBUFS, is of a living socket: nothing more may ever come from it.
    matches!(
        errno,
        Errno::EPIPE
            | Errno::ECONNRESET
            | Errno::ECONNABORTED
            | Errno::ENOTCONN
            | Errno::ETIMEDOUT
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
    )
}

/// Returns whether it is time to abort because of an end that refused bytes or failed: what it has still sent is out, and
/// the other end has acknowledged that.
fn may_abort<W: Wire>(cause: &View<'_, W>, other: &End<W>) -> bool {
    match cause.from.state() {
        State::Finished => other.wire.is_acknowledged(),
        State::Refused(_) => true,
        // Whoever closes our stdout is done with us, though stdin may be a terminal that never ends.
        State::Open | State::Draining => cause.end.wire.family() == Family::File,
    }
}
