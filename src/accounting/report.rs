//! What a loop says of its connections: totals for the status line, events for the journal, none of them in a flood.

use std::cmp::Reverse;
use std::fmt::{Display, Write};

use log::Level;
use nix::errno::Errno;

use super::closed::{Closed, Ending};
use super::counters::Totals;
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::gate::{PeerKey, Refusal};
use crate::logging::event::{self, Fields};
use crate::logging::rate_limit::{PeerRateLimit, RateLimit};
use crate::peer::Peer;
use crate::vsock::Cid;

/// Whoever has this at debug gets the end of each connection, past all limits, as of the module itself: filters of administrators
/// have its name from before.
const FORMER_MODULE: &str = "vsock_bridge::relay::report";
/// Peers that the status line names.
const STATUS_PEERS: usize = 3;

/// Returns the status line; `peers` have connections open, those with the most first.
pub(crate) fn status(open: usize, peers: &[(PeerKey, usize)], totals: &Totals) -> String {
    let mut text = connections(open as u64) + " open";
    for (index, (peer, count)) in peers.iter().take(STATUS_PEERS).enumerate() {
        let before = if index == 0 { " (" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{before}{peer}: {count}");
    }
    match peers.len() {
        0 => {}
        count if count > STATUS_PEERS => {
            let _ = write!(text, ", {} other peers)", count - STATUS_PEERS);
        }
        _ => text.push(')'),
    }
    let Totals {
        served,
        refused,
        unreachable,
        ..
    } = totals;
    let _ = write!(
        text,
        ", {served} served, {refused} refused, {unreachable} without target"
    );
    text
}

/// Returns who has connections, of which the gateway of the host brings those of these machines; of the others it has not said
/// whose they are.
pub(crate) fn brought(open: usize, machines: Vec<(Cid, usize)>) -> Vec<(PeerKey, usize)> {
    let told: usize = machines.iter().map(|(_, count)| count).sum();
    let others = (Cid::HOST, open.saturating_sub(told));
    let mut peers: Vec<_> = (machines.into_iter().chain([others]))
        .filter(|(_, count)| *count > 0)
        .map(|(cid, count)| (PeerKey::Cid(cid), count))
        .collect();
    peers.sort_unstable_by_key(|&(key, count)| (Reverse(count), key));
    peers
}

/// Returns the number with its word.
pub(crate) fn connections(count: u64) -> String {
    match count {
        1 => "1 connection".to_owned(),
        _ => format!("{count} connections"),
    }
}

/// Counts and logs.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// What was counted.
    pub totals: Totals,
    /// Why the last target that could not be reached was not, and when. The next process begins without.
    pub last_failure: Option<(String, Moment)>,
    ends: PeerRateLimit<PeerKey>,
    refusals: PeerRateLimit<PeerKey>,
    failures: PeerRateLimit<PeerKey>,
    shortages: RateLimit,
}

impl Default for Reporter {
    fn default() -> Reporter {
        Reporter {
            totals: Totals::default(),
            last_failure: None,
            ends: PeerRateLimit::new(10, 190),
            refusals: PeerRateLimit::new(10, 0),
            failures: PeerRateLimit::new(10, 0),
            shortages: RateLimit::new(10),
        }
    }
}

impl Reporter {
    /// Reports a peer that was not let in.
    pub(crate) fn refused(
        &mut self,
        peer: Peer,
        target: Option<Endpoint>,
        refusal: Refusal,
        dialer: &Dialer,
        now: Moment,
    ) {
        let fields = || fields(peer, target.as_ref(), dialer);
        self.refuse(peer, fields, refusal, now);
    }

    /// Reports a session that is over.
    pub(crate) fn closed(&mut self, closed: &Closed, dialer: &Dialer, now: Moment) {
        match &closed.result {
            Ok(ending) => {
                self.totals.served += 1;
                self.totals.inbound_bytes += closed.inbound_bytes;
                self.totals.outbound_bytes += closed.outbound_bytes;
                self.totals.last = Some(*ending);
                self.ended(closed, *ending, dialer, now);
            }
            // A peer of the gateway that may not go where it asks to.
            Err(Error::NotAllowed(reason)) => {
                self.refuse(closed.who(), || fields_of(closed, dialer), reason, now);
            }
            Err(error @ Error::PeerFull { .. }) => {
                self.refuse(closed.who(), || fields_of(closed, dialer), error, now);
            }
            Err(error) => self.unreachable(closed, error, dialer, now),
        }
    }

    /// Reports that something is short, and accepting pauses.
    pub(crate) fn shortage(&mut self, errno: Errno, open: usize, now: Moment) {
        let limit = || self.shortages.admit(now);
        if let Some(left_out) = admit(event::ACCEPTING_PAUSED, limit) {
            let cause = errno.desc();
            let fields = vec![("reason", cause.to_owned()), ("open", open.to_string())];
            let message =
                format!("accepting pauses with {open} connections open: {cause}{left_out}");
            event::ACCEPTING_PAUSED.log(fields, message);
        }
    }

    fn refuse(
        &mut self,
        peer: Peer,
        fields: impl FnOnce() -> Fields,
        reason: impl Display,
        now: Moment,
    ) {
        self.totals.refused += 1;
        let limit = by_peer(&mut self.refusals, peer, now);
        if let Some(left_out) = admit(event::PEER_REFUSED, limit) {
            let mut fields = fields();
            fields.push(("reason", reason.to_string()));
            let message = format!("{peer} refused: {reason}{left_out}");
            event::PEER_REFUSED.log(fields, message);
        }
    }

    fn ended(&mut self, closed: &Closed, ending: Ending, dialer: &Dialer, now: Moment) {
        let event = match ending {
            Ending::Complete => event::CONNECTION_OVER,
            _ => event::CONNECTION_BROKEN,
        };
        // A program that relays its own stdin and stdout tells by its exit status.
        if closed.peer == Peer::Stdio {
            return;
        }
        let limit = by_peer(&mut self.ends, closed.who(), now);
        let Some(left_out) = admit(event, limit) else {
            return;
        };
        let (inbound, outbound) = (closed.inbound_bytes, closed.outbound_bytes);
        let mut fields = fields_of(closed, dialer);
        fields.extend((closed.via.as_ref()).map(|via| ("via", via.to_string())));
        fields.extend([
            ("inbound_bytes", inbound.to_string()),
            ("outbound_bytes", outbound.to_string()),
            ("duration_usec", closed.duration.as_micros().to_string()),
            ("end", ending.to_string()),
        ]);
        let duration = closed.duration;
        let message = format!(
            "{} {ending}: {inbound} bytes in, {outbound} bytes out, {duration:.3?}{left_out}",
            way(closed)
        );
        event.log(fields, message);
    }

    fn unreachable(&mut self, closed: &Closed, error: &Error, dialer: &Dialer, now: Moment) {
        self.totals.unreachable += 1;
        let report = error.report();
        let limit = by_peer(&mut self.failures, closed.who(), now);
        if let Some(left_out) = admit(event::TARGET_UNREACHABLE, limit) {
            let mut fields = fields_of(closed, dialer);
            fields.push(("reason", report.clone()));
            let way = way(closed);
            let message = format!("{way} closed: {report}{left_out}");
            event::TARGET_UNREACHABLE.log(fields, message);
        }
        self.last_failure = Some((report, now));
    }
}

/// Asks the limit of the lines that a peer causes.
fn by_peer(
    limit: &mut PeerRateLimit<PeerKey>,
    peer: Peer,
    now: Moment,
) -> impl FnOnce() -> Option<u64> + '_ {
    move || limit.admit(PeerKey::new(&peer), now)
}

/// Asks whether an event may be logged now; gives what the line says of those that were left out before.
fn admit(event: event::Event, limit: impl FnOnce() -> Option<u64>) -> Option<String> {
    if !event.is_wanted() {
        return None;
    }
    // Who asks for each connection gets each.
    let is_wanted = |module| log::log_enabled!(target: module, Level::Debug);
    if is_wanted(module_path!()) || is_wanted(FORMER_MODULE) {
        return Some(String::new());
    }
    Some(match limit()? {
        0 => String::new(),
        count => format!(" ({count} such lines left out)"),
    })
}

/// Returns from whom and to where, if that is known.
fn way(closed: &Closed) -> String {
    let peer = closed.who();
    let Some(target) = &closed.target else {
        return peer.to_string();
    };
    let through = closed.via.iter().map(|via| format!("through {via}"));
    let of_errand = errand_fields(closed).into_iter().map(|(_, value)| value);
    match &through.chain(of_errand).collect::<Vec<_>>()[..] {
        [] => format!("{peer} to {target}"),
        all => format!("{peer} to {target} ({})", all.join(", ")),
    }
}

/// Returns by which rule a peer of the gateway went, and which address it was.
fn errand_fields(closed: &Closed) -> Fields {
    let Some(errand) = &closed.errand else {
        return Vec::new();
    };
    let address = errand
        .address
        .as_ref()
        .map(|address| ("address", address.to_string()));
    let rule = errand.rule.as_ref().map(|rule| ("rule", rule.to_string()));
    address.into_iter().chain(rule).collect()
}

/// Returns who had a connection that is over, where to, and what it has asked for.
fn fields_of(closed: &Closed, dialer: &Dialer) -> Fields {
    let mut fields = fields(closed.who(), closed.target.as_ref(), dialer);
    fields.extend(errand_fields(closed));
    fields
}

/// Returns who connected, in the parts that one searches for, and where to.
fn fields(peer: Peer, target: Option<&Endpoint>, dialer: &Dialer) -> Fields {
    let mut fields = vec![("peer", peer.to_string())];
    fields.extend(target.map(|target| ("target", target.to_string())));
    match peer {
        Peer::Vsock(addr) => {
            let cid = addr.cid.map(|cid| ("peer_cid", cid.number().to_string()));
            let mapped = addr.cid.zip(dialer.prefix);
            let address =
                mapped.map(|(cid, prefix)| ("peer_address", prefix.address(cid).to_string()));
            fields.push(("peer_port", addr.port.to_string()));
            fields.extend(cid.into_iter().chain(address));
        }
        Peer::Tcp(ip, port) => {
            fields.extend([
                ("peer_address", ip.to_string()),
                ("peer_port", port.to_string()),
            ]);
        }
        Peer::Unix(uid) => fields.extend(uid.map(|uid| ("peer_uid", uid.to_string()))),
        Peer::Stdio => {}
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_the_host_brings_are_peers_of_their_own() {
        let cid = |number| Cid::new(number).unwrap();
        let peer = |number| PeerKey::Cid(cid(number));
        let machines = vec![(cid(3), 1), (cid(4), 5)];
        assert_eq!(brought(6, machines.clone()), [(peer(4), 5), (peer(3), 1)]);
        assert_eq!(
            brought(8, machines),
            [(peer(4), 5), (peer(2), 2), (peer(3), 1)]
        );
        assert_eq!(brought(0, Vec::new()), []);
    }

    #[test]
    fn the_status_names_the_busiest_peers() {
        let totals = Totals {
            served: 5,
            ..Totals::default()
        };
        let peer = |number| Cid::new(number).map_or(PeerKey::Unknown, PeerKey::Cid);
        assert_eq!(
            status(1, &[(peer(3), 1)], &totals),
            "1 connection open (CID 3: 1), 5 served, 0 refused, 0 without target"
        );
        let peers: Vec<_> = (3..8).map(|number| (peer(number), 2)).collect();
        assert_eq!(
            status(10, &peers, &totals),
            "10 connections open (CID 3: 2, CID 4: 2, CID 5: 2, 2 other peers), 5 served, 0 refused, 0 without target"
        );
        assert_eq!(
            status(0, &[], &Totals::default()),
            "0 connections open, 0 served, 0 refused, 0 without target"
        );
    }
}
