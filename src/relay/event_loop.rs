//! Waits for events and deadlines, and gives each session its turn.
//!
//! One round: wait; take signals and connections, note what became ready; advance what became ready, what a
//! deadline woke, what yielded. Sessions that yield go round in a ring, and new events are looked for between.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::connection::{Ending, Limits, Side};
use super::flow::Tools;
use super::listeners::{Accepted, Listeners};
use super::session::{Progress, Session, Summary};
use super::sessions::Sessions;
use super::token::{Key, Token};
use crate::connect::Dialer;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::logging::RateLimit;
use crate::notify::Notifier;
use crate::policy::Gate;
use crate::stream::{Family, Listener, Peer, Stream, inet_addr};

/// Events taken at one wake-up.
const EVENTS: usize = 256;

/// Times of a loop.
#[derive(Clone, Copy, Debug)]
pub struct LoopSettings {
    /// Of each connection.
    pub limits: Limits,
    /// Leave after that time without a connection; none stays.
    pub exit_idle: Option<Duration>,
    /// How long connections may go on after a stop signal.
    pub drain: Duration,
}

/// What a loop has done, for the caller's exit status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that reached their target.
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
struct Status {
    open: usize,
    totals: Totals,
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

/// What the loop is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Serving,
    /// A stop signal came: open connections may go on until then.
    Draining(Instant),
}

/// Listeners, sessions, timers and signals of one process.
#[derive(Debug)]
pub struct Loop {
    epoll: Epoll,
    signals: Option<SignalFd>,
    listeners: Listeners,
    sessions: Sessions,
    tools: Tools,
    dialer: Dialer,
    gate: Gate,
    settings: LoopSettings,
    notifier: Notifier<Status>,
    mode: Mode,
    idle_since: Instant,
    totals: Totals,
    refusals: RateLimit,
    failures: RateLimit,
    shortages: RateLimit,
}

impl Loop {
    /// Watches the listeners; nothing is accepted before [`Loop::run`].
    pub fn new(
        listeners: Vec<Listener>,
        dialer: Dialer,
        gate: Gate,
        settings: LoopSettings,
    ) -> Result<Loop> {
        for listener in &listeners {
            // Connections inherit the options, so they cost no call each.
            if let Err(errno) = dialer.tuning.apply(listener.as_fd(), listener.family()) {
                log::warn!(
                    "cannot set the socket options of {}: {}",
                    listener.local(),
                    errno.desc()
                );
            }
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(Error::system("create an epoll instance"))?;
        let listeners = Listeners::new(listeners, &epoll)?;
        let now = Instant::now();
        Ok(Loop {
            epoll,
            signals: None,
            listeners,
            sessions: Sessions::default(),
            tools: Tools::default(),
            dialer,
            gate,
            settings,
            notifier: Notifier::from_env(now),
            mode: Mode::Serving,
            idle_since: now,
            totals: Totals::default(),
            refusals: RateLimit::default(),
            failures: RateLimit::default(),
            shortages: RateLimit::default(),
        })
    }

    /// Lets SIGTERM and SIGINT end the loop in good order. SIGHUP is no order to reload: settings change by restart.
    pub fn handle_signals(&mut self) -> Result<()> {
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .collect();
        mask.thread_block()
            .map_err(Error::system("block signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals =
            SignalFd::with_flags(&mask, flags).map_err(Error::system("create a signalfd"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Signal.pack());
        self.epoll
            .add(&signals, event)
            .map_err(Error::system("watch signals"))?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Takes a peer that was accepted by somebody else (Accept=yes), with the same rules as our own.
    pub fn admit(&mut self, stream: Stream, peer: Peer, destination: Option<SocketAddr>) {
        if let Err(errno) = self.dialer.tuning.apply(stream.input(), stream.family()) {
            log::debug!(
                "cannot set the socket options of the connection of {peer}: {}",
                errno.desc()
            );
        }
        self.enter(stream, peer, destination, Instant::now());
    }

    /// Relays between two connected ends.
    pub fn relay(&mut self, stream: Stream, peer: Peer, target: Stream) -> Result<()> {
        let key = self.sessions.next_key();
        watch(&self.epoll, &stream, key, Side::Peer)?;
        watch(&self.epoll, &target, key, Side::Target)?;
        let mut session = Session::relay(stream, peer, target, Instant::now());
        // A file is always ready, and epoll does not report it; for all others a first look costs one call.
        session.note(Side::Peer, EpollFlags::EPOLLIN);
        self.sessions.insert(session);
        self.sessions.queue(key);
        self.sessions.arm(key, &self.settings.limits);
        Ok(())
    }

    /// Serves until a signal, the idle time, or the end of all there is to do.
    pub fn run(mut self) -> Result<Totals> {
        self.notifier.ready();
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let now = Instant::now();
            let status = self.status();
            self.notifier.tick(status, now);
            if self.is_over(now) {
                self.notifier.stopping("Stopping");
                return Ok(self.totals);
            }
            let count = match self.epoll.wait(&mut events, self.timeout(now)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(source) => {
                    return Err(Error::System {
                        operation: "wait for events",
                        source,
                    });
                }
            };
            self.round(&events[..count], Instant::now());
        }
    }

    fn round(&mut self, events: &[EpollEvent], now: Instant) {
        let queued = self.sessions.queued();
        for event in events {
            self.dispatch(Token::unpack(event.data()), event.events(), now);
        }
        self.listeners.resume(&self.epoll, now);
        while let Some(key) = self.sessions.woken(now) {
            self.wake(key, now);
        }
        for _ in 0..queued {
            if let Some(key) = self.sessions.unqueue() {
                self.advance(key, now);
            }
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        if let Mode::Draining(until) = self.mode {
            if until <= now {
                self.close_all(now);
            }
            return self.sessions.is_empty();
        }
        if !self.sessions.is_empty() {
            return false;
        }
        // A peer that connects from here on waits in the listener's queue, and systemd starts us again for it.
        !self.listeners.is_open() || self.idle_deadline().is_some_and(|at| at <= now)
    }

    fn idle_deadline(&self) -> Option<Instant> {
        self.settings
            .exit_idle
            .filter(|_| self.sessions.is_empty())
            .map(|time| self.idle_since + time)
    }

    fn timeout(&self, now: Instant) -> EpollTimeout {
        if self.sessions.queued() > 0 {
            return EpollTimeout::ZERO;
        }
        let drain = match self.mode {
            Mode::Draining(until) => Some(until),
            Mode::Serving => None,
        };
        let deadlines = [
            self.sessions.deadline(),
            self.listeners.deadline(),
            self.notifier.deadline(),
            self.idle_deadline(),
            drain,
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        // Rounded up, so that the deadline has passed at the wake-up.
        let millis = next
            .saturating_duration_since(now)
            .as_micros()
            .div_ceil(1000);
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
    }

    fn dispatch(&mut self, token: Token, events: EpollFlags, now: Instant) {
        match token {
            Token::Signal => self.read_signals(now),
            Token::Listener(index) => self.accept(index, now),
            Token::Session(key, side) => {
                if let Some(session) = self.sessions.get(key) {
                    session.note(side, events);
                    // Those in the ring have their turn anyway.
                    if !session.is_queued {
                        self.advance(key, now);
                    }
                }
            }
        }
    }

    fn read_signals(&mut self, now: Instant) {
        while let Some(Ok(Some(info))) = self.signals.as_ref().map(SignalFd::read_signal) {
            if info.ssi_signo == Signal::SIGHUP as u32 {
                log::info!("SIGHUP is ignored: restart to change settings");
            } else {
                self.stop(now);
            }
        }
    }

    /// The first stop signal lets open connections go on for the drain time, the second ends them.
    fn stop(&mut self, now: Instant) {
        if let Mode::Draining(_) = self.mode {
            self.mode = Mode::Draining(now);
            return;
        }
        self.listeners.close(&self.epoll);
        self.mode = Mode::Draining(now + self.settings.drain);
        let open = self.sessions.len();
        self.notifier
            .stopping(&format!("Stopping: {open} connections open"));
        if open > 0 {
            log::info!(
                "stopping: {open} connections may go on for {}",
                humantime::format_duration(self.settings.drain)
            );
        }
    }

    fn close_all(&mut self, now: Instant) {
        let open = self.sessions.len();
        if open > 0 {
            log::warn!("{open} connections were still open after --drain-timeout and are reset");
        }
        for session in self.sessions.drain() {
            let peer = session.peer;
            log_end(peer, &self.dialer, &session.close(Ending::Stopped, now));
        }
    }

    fn accept(&mut self, index: u32, now: Instant) {
        for _ in 0..self.listeners.batch(index) {
            match self.listeners.accept(index, &self.epoll, now) {
                Accepted::Connection(stream, peer) => {
                    let destination = self.destination(index, &stream);
                    self.enter(stream, peer, destination, now);
                }
                Accepted::Nobody => break,
                Accepted::Shortage(errno) => {
                    if let Some(before) = self.shortages.admit(now) {
                        let open = self.sessions.len();
                        log::warn!(
                            "accepting pauses with {open} connections open: {}{}",
                            errno.desc(),
                            left_out(before)
                        );
                    }
                    break;
                }
            }
        }
    }

    /// Finds where a TCP peer connected to, if that matters: for the mapped target, or for the fence of the prefix.
    fn destination(&self, index: u32, stream: &Stream) -> Option<SocketAddr> {
        let listener = self
            .listeners
            .get(index)
            .filter(|listener| listener.family() == Family::Tcp)?;
        match listener.local() {
            Endpoint::Tcp(addr)
                if !addr.ip().is_unspecified() && !self.dialer.target.is_mapped() =>
            {
                Some(*addr)
            }
            _ => inet_addr(&stream.local_address().ok()?),
        }
    }

    fn enter(&mut self, stream: Stream, peer: Peer, destination: Option<SocketAddr>, now: Instant) {
        let key = match self.gate.enter(&peer, destination) {
            Ok(key) => key,
            Err(refusal) => {
                stream.abort();
                self.totals.refused += 1;
                if let Some(before) = self.refusals.admit(now) {
                    let target = &self.dialer.target.endpoint;
                    log::warn!(peer:%, target:%; "{peer} refused: {refusal}{}", left_out(before));
                }
                return;
            }
        };
        match self.begin(stream, peer, destination, now) {
            Ok(mut session) => {
                session.counted = Some(key);
                let key = self.sessions.insert(session);
                self.advance(key, now);
            }
            Err(error) => {
                self.gate.leave(key);
                self.report_unreachable(peer, &error, now);
            }
        }
    }

    fn begin(
        &self,
        stream: Stream,
        peer: Peer,
        destination: Option<SocketAddr>,
        now: Instant,
    ) -> Result<Session> {
        if let Err(error) = watch(&self.epoll, &stream, self.sessions.next_key(), Side::Peer) {
            stream.abort();
            return Err(error);
        }
        Session::dial(stream, peer, destination, &self.dialer, now)
    }

    /// Gives a session its turn.
    fn advance(&mut self, key: Key, now: Instant) {
        let limits = &self.settings.limits;
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let before = session.deadline(limits);
        let epoll = &self.epoll;
        let progress = session.advance(&self.dialer, &mut self.tools, now, &mut |stream| {
            watch(epoll, stream, key, Side::Target)
        });
        let after = session.deadline(limits);
        match progress {
            Progress::Waiting => {}
            Progress::Yielded => self.sessions.queue(key),
            Progress::Over(ending) => return self.close(key, ending, now),
            Progress::Unreachable(error) => return self.give_up(key, &error, now),
        }
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.sessions.arm(key, &self.settings.limits);
        }
    }

    /// Looks at a session whose deadline may have passed.
    fn wake(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if let Some(ending) = session.expired(&self.settings.limits, now) {
            return self.close(key, ending, now);
        }
        if session.is_dialing() {
            self.advance(key, now);
        }
        self.sessions.arm(key, &self.settings.limits);
    }

    fn close(&mut self, key: Key, ending: Ending, now: Instant) {
        let Some(session) = self.take(key, now) else {
            return;
        };
        let peer = session.peer;
        log_end(peer, &self.dialer, &session.close(ending, now));
        self.totals.served += 1;
        self.totals.last = Some(ending);
    }

    fn give_up(&mut self, key: Key, error: &Error, now: Instant) {
        let Some(session) = self.take(key, now) else {
            return;
        };
        let peer = session.peer;
        session.close(Ending::Stopped, now);
        self.report_unreachable(peer, error, now);
    }

    fn take(&mut self, key: Key, now: Instant) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        if let Some(counted) = session.counted {
            self.gate.leave(counted);
        }
        if self.sessions.is_empty() {
            self.idle_since = now;
        }
        Some(session)
    }

    fn report_unreachable(&mut self, peer: Peer, error: &Error, now: Instant) {
        self.totals.unreachable += 1;
        if let Some(before) = self.failures.admit(now) {
            let target = &self.dialer.target.endpoint;
            let report = error.report();
            log::warn!(peer:%, target:%; "{peer} to {target} closed: {report}{}", left_out(before));
        }
    }

    fn status(&self) -> Status {
        Status {
            open: self.sessions.len(),
            totals: self.totals,
        }
    }
}

/// Watches a stream for everything, once for its life; a file cannot be watched, and need not be.
fn watch(epoll: &Epoll, stream: &Stream, key: Key, side: Side) -> Result<()> {
    let token = Token::Session(key, side).pack();
    let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    let add = |fd: std::os::fd::BorrowedFd<'_>, interest: EpollFlags| match epoll
        .add(fd, EpollEvent::new(interest | ends, token))
    {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(source) => Err(Error::System {
            operation: "watch a connection",
            source,
        }),
    };
    match stream.separate_output() {
        None => add(stream.input(), EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT),
        Some(output) => {
            add(stream.input(), EpollFlags::EPOLLIN)?;
            add(output, EpollFlags::EPOLLOUT)
        }
    }
}

fn log_end(peer: Peer, dialer: &Dialer, summary: &Summary) {
    let Summary {
        ending,
        inbound_bytes,
        outbound_bytes,
        duration,
    } = summary;
    let target = &dialer.target.endpoint;
    log::debug!(
        peer:%, target:%, inbound_bytes, outbound_bytes, duration_usec = duration.as_micros() as u64;
        "{peer} to {target} {ending}: {inbound_bytes} bytes in, {outbound_bytes} bytes out, {duration:.3?}"
    );
}

/// Says how many lines a rate limit has kept back.
fn left_out(count: u64) -> String {
    if count == 0 {
        String::new()
    } else {
        format!(" ({count} such lines left out)")
    }
}
