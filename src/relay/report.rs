//! What a loop says of its connections: totals for the status line, log lines, none of them in a flood.

use std::fmt;

use nix::errno::Errno;

use super::connection::Ending;
use super::session::Summary;
use super::worker::Over;
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::logging::RateLimit;
use crate::peer::Peer;
use crate::policy::Refusal;

/// What a loop has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that reached their target and are over.
    pub served: u64,
    /// Peers that were not let in.
    pub refused: u64,
    /// Peers whose target could not be reached.
    pub unreachable: u64,
    /// How the last connection ended.
    pub last: Option<Ending>,
}

/// What the status line is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Connections that are open now.
    pub open: usize,
    /// What is over.
    pub totals: Totals,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals {
            served,
            refused,
            unreachable,
            ..
        } = self.totals;
        let open = self.open;
        write!(
            f,
            "{open} connections open, {served} served, {refused} refused, {unreachable} without target"
        )
    }
}

/// Counts and logs.
#[derive(Debug, Default)]
pub struct Reporter {
    /// What was counted.
    pub totals: Totals,
    refusals: RateLimit,
    failures: RateLimit,
    shortages: RateLimit,
}

impl Reporter {
    /// Reports a peer that was not let in.
    pub fn refused(&mut self, peer: Peer, target: &Endpoint, refusal: Refusal, now: Moment) {
        self.totals.refused += 1;
        if let Some(before) = self.refusals.admit(now) {
            log::warn!(peer:%, target:%; "{peer} refused: {refusal}{}", left_out(before));
        }
    }

    /// Reports a session that is over.
    pub fn over(&mut self, over: &Over, dialer: &Dialer, now: Moment) {
        let target = &dialer.target.endpoint;
        match &over.result {
            Ok(summary) => {
                self.totals.served += 1;
                self.totals.last = Some(summary.ending);
                log_end(over.peer, target, summary);
            }
            Err(error) => self.unreachable(over.peer, target, error, now),
        }
    }

    /// Reports that something is short, and accepting pauses.
    pub fn shortage(&mut self, errno: Errno, open: usize, now: Moment) {
        if let Some(before) = self.shortages.admit(now) {
            let (cause, left_out) = (errno.desc(), left_out(before));
            log::warn!("accepting pauses with {open} connections open: {cause}{left_out}");
        }
    }

    fn unreachable(&mut self, peer: Peer, target: &Endpoint, error: &Error, now: Moment) {
        self.totals.unreachable += 1;
        if let Some(before) = self.failures.admit(now) {
            let (report, left_out) = (error.report(), left_out(before));
            log::warn!(peer:%, target:%; "{peer} to {target} closed: {report}{left_out}");
        }
    }
}

fn log_end(peer: Peer, target: &Endpoint, summary: &Summary) {
    let Summary {
        ending,
        inbound_bytes,
        outbound_bytes,
        duration,
    } = summary;
    log::debug!(
        peer:%, target:%, inbound_bytes, outbound_bytes, duration_usec = duration.as_micros() as u64;
        "{peer} to {target} {ending}: {inbound_bytes} bytes in, {outbound_bytes} bytes out, {duration:.3?}"
    );
}

/// Says how many lines a rate limit has kept back.
fn left_out(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" ({count} such lines left out)"),
    }
}
