//! One attempt to reach a target: every address in turn, then again while there is time.
//!
//! It waits for nothing itself: the caller watches [`Attempt::stream`] and [`Attempt::deadline`] and calls
//! [`Attempt::advance`].

mod alone;
mod moved;
mod room;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::handshake::Handshake;
use super::queue::{Caller, Place};
use super::{Address, Dialer, Target, own_cid};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::stream::Stream;
use crate::vsock::Cid;

/// Pause before a refused target is tried again; doubled each time up to the maximum.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What was reported of the stream since the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nothing.
    Waiting,
    /// It became ready.
    Ready,
    /// It became ready, and has failed or may have.
    Failed,
}

/// One attempt to reach the target.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The number of the target.
    target: usize,
    /// Those of this attempt, where they are not those of the target: of a mapped one, of a gateway, or of a name that leads
    /// elsewhere.
    addresses: Option<Arc<[Address]>>,
    source: Option<IpAddr>,
    /// None where each attempt has a target of its own, so that others are not to be waited for.
    caller: Option<Caller>,
    /// Among those that wait for room.
    place: Option<Place>,
    started: Moment,
    /// Some address of this round had no room.
    is_short: bool,
    /// When the first of those that wait tries again.
    next_try: Moment,
    /// Index of the address to try next.
    next: usize,
    round_ends: Moment,
    retry_until: Moment,
    pause: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// An address is to be tried now.
    Next,
    /// The kernel is connecting; the stream becomes writable when it is done.
    Connecting(Connecting),
    /// Connected to a VMM or a gateway, and not all is said that comes before the stream.
    Handshaking {
        stream: Stream,
        handshake: Handshake,
        deadline: Moment,
    },
    /// All addresses refused; the first is tried again at that time.
    Pausing { until: Moment },
    /// There was no room, or others wait for it already; the turn comes by a call, or at that time.
    Queued { until: Moment },
}

#[derive(Debug)]
struct Connecting {
    stream: Stream,
    since: Moment,
    deadline: Moment,
}

/// What one step came to.
enum Step {
    /// Only an event or the deadline can change anything.
    Waiting,
    /// Another step can be taken.
    Moved,
    /// The target is reached.
    Connected(Stream),
}

impl Attempt {
    /// Begins with the first address; `own` are those of this attempt alone, for which others are not to be waited.
    pub(super) fn new(
        dialer: &Dialer,
        target: usize,
        own: Option<Arc<[Address]>>,
        source: Option<IpAddr>,
        caller: Option<Caller>,
        now: Moment,
    ) -> Attempt {
        Attempt {
            target,
            caller: caller.filter(|_| own.is_none()),
            addresses: own.or_else(|| dialer.targets.get(target).renewed()),
            source,
            place: None,
            started: now,
            is_short: false,
            next_try: now,
            next: 0,
            round_ends: now + dialer.timeout,
            retry_until: now + dialer.retry,
            pause: RETRY_PAUSE_MIN,
            state: State::Next,
        }
    }

    /// Returns whether something is said each way before the stream begins.
    pub(crate) fn has_handshake(&self, dialer: &Dialer) -> bool {
        Handshake::is_needed(self.address(dialer))
    }

    /// Returns the stream to watch for readiness.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        match &self.state {
            State::Connecting(Connecting { stream, .. }) | State::Handshaking { stream, .. } => {
                Some(stream)
            }
            _ => None,
        }
    }

    /// Returns when [`Attempt::advance`] must be called even if nothing became ready.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        match &self.state {
            State::Next => None,
            State::Connecting(Connecting { deadline, .. })
            | State::Handshaking { deadline, .. } => Some(*deadline),
            State::Pausing { until } | State::Queued { until } => Some(*until),
        }
    }

    /// Goes as far as possible without blocking; returns the stream when the target is connected.
    ///
    /// `watch` is called with each new stream.
    /// Errors: why the last address could not be reached, when no address and no time is left.
    pub(crate) fn advance(
        &mut self,
        dialer: &Dialer,
        mut readiness: Readiness,
        now: Moment,
        watch: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> Result<Option<Stream>> {
        loop {
            match self.step(dialer, &mut readiness, now, watch) {
                Ok(Step::Waiting) => return Ok(None),
                Ok(Step::Moved) => {}
                Ok(Step::Connected(stream)) => return Ok(Some(stream)),
                Err(error) => self.failed(dialer, error, now)?,
            }
        }
    }

    /// Errors: why this address could not be reached.
    fn step(
        &mut self,
        dialer: &Dialer,
        readiness: &mut Readiness,
        now: Moment,
        watch: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> Result<Step> {
        if self.has_moved(dialer) {
            self.start_over(dialer, now);
        }
        match std::mem::replace(&mut self.state, State::Next) {
            State::Next if self.addresses(dialer).is_empty() => Err(self.target(dialer).absence()),
            State::Next if self.has_others_before(now) => {
                self.line_up(dialer, now);
                Ok(Step::Moved)
            }
            State::Next => {
                *readiness = self.open(dialer, now, watch)?;
                Ok(Step::Moved)
            }
            state @ State::Pausing { until } if now < until => self.wait(state),
            State::Pausing { .. } => self.begin_round(dialer, now),
            State::Queued { .. } => match self.turn(dialer, now) {
                until if now < until => self.wait(State::Queued { until }),
                _ => self.begin_round(dialer, now),
            },
            State::Connecting(connecting) => self.connect_on(dialer, connecting, *readiness, now),
            State::Handshaking {
                stream,
                handshake,
                deadline,
            } => self.handshake(dialer, stream, handshake, deadline, now),
        }
    }

    /// Begins to connect to the address whose turn it is.
    fn open(
        &mut self,
        dialer: &Dialer,
        now: Moment,
        watch: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> Result<Readiness> {
        let address = self.address(dialer);
        let is_prompt = address.is_prompt();
        let (stream, is_connected) = address.open(self.source, &dialer.tuning, dialer.timeout)?;
        watch(&stream)?;
        let deadline = self.patience(dialer, now);
        // Others were served since `now`, which says nothing of the target.
        let since = Moment::now();
        match is_prompt {
            true => self.keep_place(since),
            false => self.found_room(now),
        }
        self.state = State::Connecting(Connecting {
            stream,
            since,
            deadline,
        });
        Ok(match is_connected {
            true => Readiness::Ready,
            false => Readiness::Waiting,
        })
    }

    fn connect_on(
        &mut self,
        dialer: &Dialer,
        connecting: Connecting,
        readiness: Readiness,
        now: Moment,
    ) -> Result<Step> {
        let is_late = now >= connecting.deadline;
        // The event of a connection that was made in time may be behind many others.
        if readiness != Readiness::Waiting || is_late && connecting.stream.is_connected() {
            if self.address(dialer).is_prompt() {
                self.found_room(now);
                self.learn(now - connecting.since);
            }
            return self.connected(dialer, connecting, readiness, now);
        }
        if !is_late {
            return self.wait(State::Connecting(connecting));
        }
        let address = self.address(dialer);
        let (error, is_prompt) = (address.silence(dialer.timeout), address.is_prompt());
        self.is_short |= is_prompt;
        Err(error)
    }

    fn wait(&mut self, state: State) -> Result<Step> {
        self.state = state;
        Ok(Step::Waiting)
    }

    fn addresses<'a>(&'a self, dialer: &'a Dialer) -> &'a [Address] {
        let own = self.addresses.as_deref();
        own.unwrap_or_else(|| &self.target(dialer).addresses)
    }

    fn target<'a>(&self, dialer: &'a Dialer) -> &'a Target {
        dialer.targets.get(self.target)
    }

    fn address<'a>(&'a self, dialer: &'a Dialer) -> &'a Address {
        &self.addresses(dialer)[self.next]
    }

    /// Returns until when the address is tried: for its part of what is left of the round, so that a silent first one leaves
    /// time for the others.
    fn share(&self, dialer: &Dialer, now: Moment) -> Moment {
        let left = self.round_ends - now;
        now + left / (self.addresses(dialer).len() - self.next) as u32
    }

    fn begin_round(&mut self, dialer: &Dialer, now: Moment) -> Result<Step> {
        self.next = 0;
        // While room is short, the time for that is over when the round is.
        let was_short = std::mem::replace(&mut self.is_short, false);
        if self.caller.is_some() {
            self.addresses = self.target(dialer).renewed();
        }
        if !was_short || now < self.retry_until || self.place.is_some() {
            self.round_ends = now + dialer.timeout;
        }
        Ok(Step::Moved)
    }

    /// The kernel has ended the attempt: with a connection or with an error.
    fn connected(
        &mut self,
        dialer: &Dialer,
        Connecting { stream, since, .. }: Connecting,
        readiness: Readiness,
        now: Moment,
    ) -> Result<Step> {
        let address = self.address(dialer);
        if readiness == Readiness::Failed {
            if let Some(errno) = stream.take_error() {
                return Err(address.refusal(errno));
            }
        }
        match address {
            Address::Vsock(addr) if addr.cid > Some(Cid::HOST) && own_cid::has_strayed(&stream) => {
                Err(address.strayed())
            }
            Address::Tcp(_) if self.is_itself(address, &stream, now) => {
                // In good order it would keep the port from its server for a minute.
                stream.abort();
                Err(address.refusal(Errno::ECONNREFUSED))
            }
            _ => match Handshake::towards(address, dialer) {
                Some(handshake) => {
                    let deadline = self.share(dialer, since) + handshake.allowance(dialer.timeout);
                    self.state = State::Handshaking {
                        stream,
                        handshake,
                        deadline,
                    };
                    Ok(Step::Moved)
                }
                None => Ok(Step::Connected(stream)),
            },
        }
    }

    /// Goes on with what comes before the stream.
    fn handshake(
        &mut self,
        dialer: &Dialer,
        stream: Stream,
        mut handshake: Handshake,
        deadline: Moment,
        now: Moment,
    ) -> Result<Step> {
        let address = self.address(dialer);
        if now >= self.answer_due(dialer, deadline) {
            return Err(handshake.silence(address, dialer.timeout));
        }
        if handshake.advance(&stream, address)? {
            if let Some(caller) = &self.caller {
                caller.queue.serve(now);
            }
            return Ok(Step::Connected(stream));
        }
        let deadline = self.answer_due(dialer, deadline);
        self.wait(State::Handshaking {
            stream,
            handshake,
            deadline,
        })
    }

    /// Goes on to the next address, or to a pause; gives the error back when neither is left.
    fn failed(&mut self, dialer: &Dialer, error: Error, now: Moment) -> Result<()> {
        self.is_short |= is_shortage(&error);
        if let Some(caller) = &self.caller {
            caller.queue.note_listener(false, now);
        }
        self.next += 1;
        if self.next < self.addresses(dialer).len() {
            return Ok(());
        }
        // Not `self.next`, which is past the end now, if the error is to be the result.
        self.next = 0;
        let is_busy = self.is_short && now < self.patience_ends(dialer);
        if is_busy && self.caller.is_some() {
            self.line_up(dialer, now);
            return Ok(());
        }
        self.place = None;
        self.target(dialer).look_up_again(now);
        if is_busy || is_transient(&error) && now < self.retry_until {
            self.state = State::Pausing {
                until: now + self.pause,
            };
            self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
            return Ok(());
        }
        Err(dialer.explain(error, self.source))
    }
}

impl Drop for Attempt {
    /// Nothing was sent to a target that is not wanted any more: it is to take that for no clean end.
    fn drop(&mut self) {
        if let Some(stream) = self.take_stream() {
            stream.abort();
        }
    }
}

/// Returns whether something was short for the moment: room in a unix socket's queue (EAGAIN, connect(2)), descriptors, memory.
fn is_shortage(error: &Error) -> bool {
    use Errno::{EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error,
        Error::Connect {
            source: EAGAIN | EMFILE | ENFILE | ENOBUFS | ENOMEM,
            ..
        }
    )
}

/// Returns whether the target may be about to come up.
fn is_transient(error: &Error) -> bool {
    match error {
        Error::ConnectTimeout { .. } => true,
        Error::Tunnel { is_final, .. } => !is_final,
        error if error.is_absence() => true,
        Error::Connect { source, .. } => matches!(
            source,
            Errno::ECONNREFUSED
                | Errno::ECONNRESET
                | Errno::ENOENT
                | Errno::ENODEV
                | Errno::ETIMEDOUT
                | Errno::EAGAIN
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
        ),
        _ => false,
    }
}
