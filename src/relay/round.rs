//! The one loop that waits, for the main thread and those beside it.
//!
//! One round: wait; give those that became ready their turn; then those that a deadline woke, and those that yielded.
//! Sessions that yield go round in a ring, and new events are looked for between. What is no session's is the host's.

use nix::sys::epoll::{EpollEvent, EpollTimeout};

use super::token::Token;
use super::worker::Worker;
use crate::clock::Moment;
use crate::error::Result;

/// Events taken at one wake-up: what is ready beyond that is taken in the next round, before anything yielded is twice.
const EVENTS: usize = 256;

/// What a thread does besides moving its sessions on.
pub(crate) trait Host {
    /// Returns the sessions of the thread.
    fn worker(&mut self) -> &mut Worker;

    /// Prepares the next wait; false when there is nothing more to do.
    fn goes_on(&mut self, now: Moment) -> bool;

    /// Returns when the next thing is to be done that is not a session's.
    fn deadline(&self) -> Option<Moment> {
        None
    }

    /// Returns until when to look for events before sleeping.
    fn poll_until(&mut self, _now: Moment) -> Option<Moment> {
        None
    }

    /// Learns that nothing came until then.
    fn polled_in_vain(&mut self) {}

    /// Learns how many events a wait since `before` has brought.
    fn woke(&mut self, count: usize, before: Moment, now: Moment);

    /// Handles an event that is not a session's.
    fn on_event(&mut self, token: Token, now: Moment);

    /// Ends the round.
    fn after_turns(&mut self, now: Moment);
}

/// Goes round until the host has nothing more to do.
///
/// Errors: nothing can be waited for any more.
pub(crate) fn run(host: &mut impl Host) -> Result<()> {
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut now = Moment::now();
    while host.goes_on(now) {
        let before = Moment::now();
        let count = wait(host, &mut events, before)?;
        now = Moment::now();
        host.woke(count, before, now);
        for event in &events[..count] {
            match Token::unpack(event.data()) {
                Token::Session(key, side) => {
                    host.worker().on_events(key, side, event.events(), now);
                }
                token => host.on_event(token, now),
            }
        }
        host.worker().turn(now);
        host.after_turns(now);
    }
    Ok(())
}

fn wait(host: &mut impl Host, events: &mut [EpollEvent], now: Moment) -> Result<usize> {
    let deadline = host.deadline();
    let timeout = host.worker().timeout(deadline, now);
    let until = match timeout {
        EpollTimeout::ZERO => None,
        _ => host.poll_until(now),
    };
    if let Some(until) = until {
        while Moment::now() < until {
            match host.worker().wait(events, EpollTimeout::ZERO)? {
                0 => {}
                count => return Ok(count),
            }
        }
        host.polled_in_vain();
    }
    host.worker().wait(events, timeout)
}
