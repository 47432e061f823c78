//! The main loop: listeners, signals, the control socket, and the sessions that are new or calm.
//!
//! Those that move much, and what is too much for one thread, go to [others](threads); what another process has left is made
//! into sessions by [`restore`].

mod accept;
mod balance;
pub(crate) mod control;
mod follow;
mod inspect;
mod listeners;
pub(crate) mod naming;
// A test of the worker takes it from outside as well.
pub(crate) mod restore;
pub(crate) mod signals;
mod stop;
mod thread_loop;
mod threads;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use self::control::Inspection;
use self::listeners::Listeners;
use self::naming::Naming;
use self::signals::Signals;
use self::threads::Threads;
use crate::accounting::Closed;
use crate::accounting::counters::{self, Totals};
use crate::accounting::report::{self, Reporter};
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::error::{Error, Result};
use crate::gate::{Gate, Refusal};
use crate::handover::Store;
use crate::notify::{self, Notifier};
use crate::peer::Peer;
use crate::relay::connection::Limits;
use crate::relay::policy::busy_poll::BusyPoll;
use crate::relay::policy::relief::Load;
use crate::relay::round::{self, Host};
use crate::relay::session::Session;
use crate::relay::token::Token;
use crate::relay::worker::Worker;
use crate::stream::{Listener, Stream};

/// Times and switches of a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopSettings {
    /// Of each connection.
    pub limits: Limits,
    /// Leave after that time without a connection; none stays.
    pub exit_idle: Option<Duration>,
    /// How long connections may go on after a stop signal.
    pub drain: Duration,
    /// Look for events a little before sleeping.
    pub busy_poll: bool,
    /// Connections are kept so that they survive a crash, not only a planned restart.
    pub crash_proof: bool,
}

/// What the loop is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Serving,
    /// A stop signal came: the sessions are being gathered for the next process.
    Leaving,
    /// A stop signal came: open connections may go on until then.
    Draining(Moment),
    /// Those that were left are being closed.
    Closing,
}

/// Listeners, sessions and signals of one process.
#[derive(Debug)]
pub(crate) struct Loop {
    worker: Worker,
    threads: Threads,
    load: Load,
    listeners: Listeners,
    gate: Gate,
    settings: LoopSettings,
    signals: Option<Signals>,
    notifier: Notifier<(usize, Totals)>,
    inspection: Option<Inspection>,
    naming: Option<Naming>,
    reporter: Reporter,
    busy_poll: BusyPoll,
    mode: Mode,
    /// systemd starts another process for the listeners, and can keep connections until then.
    has_successor: bool,
    /// When to look whether systemd has taken what connections are to be kept in, while it has not.
    store_asked_at: Option<Moment>,
    idle_since: Moment,
    /// The last look at the listeners found nobody.
    found_nobody: bool,
    /// The listeners may still have connections that came before their options were set, and have not inherited them.
    may_lack_options: bool,
}

impl Loop {
    /// Watches the listeners; nothing is accepted before [`Loop::run`].
    pub(crate) fn new(
        listeners: Vec<Listener>,
        dialer: Dialer,
        gate: Gate,
        store: Arc<Store>,
        settings: LoopSettings,
    ) -> Result<Loop> {
        for listener in &listeners {
            // Connections inherit the options, so they cost no call each.
            Loop::tune(
                &dialer,
                listener.as_fd(),
                listener.family(),
                listener.local(),
            );
        }
        let has_successor = !listeners.is_empty() && notify::is_heard();
        let mut store_asked_at = None;
        if has_successor && settings.crash_proof {
            store_asked_at = Loop::keep_from_the_beginning(&store, notify::BARRIER_TIME.into());
            if store_asked_at.is_some() {
                log::warn!(
                    "connections do not survive a crash until systemd reads what it was sent"
                );
            }
        }
        let worker = Worker::new(Arc::new(dialer), store, settings.limits, false)?;
        Loop::watch_names(&worker)?;
        let listeners = Listeners::new(listeners, worker.epoll())?;
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = Threads::new(settings.limits, processors)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Waker.pack());
        (worker.epoll().add(threads.waker(), event))
            .map_err(Error::system("watch the other threads"))?;
        let now = Moment::now();
        Ok(Loop {
            worker,
            threads,
            load: Load::new(now),
            listeners,
            gate,
            settings,
            signals: None,
            inspection: None,
            naming: None,
            notifier: Notifier::from_env(now),
            reporter: Reporter::default(),
            busy_poll: BusyPoll::new(settings.busy_poll, processors, now),
            mode: Mode::Serving,
            has_successor,
            store_asked_at,
            idle_since: now,
            found_nobody: false,
            may_lack_options: true,
        })
    }

    /// Learns when names were looked up for peers of the gateway.
    fn watch_names(worker: &Worker) -> Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Names.pack());
        match &worker.dialer().gateway {
            Some(gateway) => (worker.epoll().add(gateway.resolver.waker(), event))
                .map_err(Error::system("watch the resolver")),
            None => Ok(()),
        }
    }

    /// Lets SIGTERM and SIGINT end the loop in good order, and SIGHUP if that is meant to.
    pub(crate) fn handle_signals(&mut self, ends_at_hangup: bool) -> Result<()> {
        self.signals = Some(Signals::new(self.worker.epoll(), ends_at_hangup)?);
        Ok(())
    }

    /// Lets the administrator look at the loop through a socket in that folder.
    pub(crate) fn show(&mut self, inspection: Inspection) -> Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Inspection.pack());
        (self.worker.epoll().add(&inspection, event))
            .map_err(Error::system("watch the control socket"))?;
        self.inspection = Some(inspection);
        Ok(())
    }

    /// Relays between two connected ends.
    pub(crate) fn relay(&mut self, stream: Stream, peer: Peer, target: Stream) {
        let now = Moment::now();
        self.worker
            .adopt(Session::relay(stream, peer, target, now), now);
    }

    /// Serves until a signal, the idle time, or the end of all there is to do.
    pub(crate) fn run(mut self) -> Result<Totals> {
        self.notifier.ready();
        // What is open when nothing can be waited for any more is the next process's.
        round::run(&mut self).inspect_err(|_| self.worker.store().freeze())?;
        self.notifier.stopping("Stopping");
        Ok(self.reporter.totals)
    }

    fn tell_status(&mut self, now: Moment) {
        let (open, totals) = (self.open(), self.reporter.totals);
        let peers = || match &self.worker.dialer().inbound {
            None => self.gate.peers(),
            Some(inbound) => report::brought(open, inbound.machines()),
        };
        let text = || report::status(open, &peers(), &totals);
        self.notifier.tick((open, totals), text, now);
    }

    fn open(&self) -> usize {
        self.worker.open() + self.threads.open()
    }

    fn is_over(&mut self, now: Moment) -> bool {
        match self.mode {
            Mode::Draining(until) if until <= now && self.open() > 0 => {
                self.close_all(now);
                // Those of other threads come back as results.
                self.open() == 0
            }
            Mode::Draining(_) | Mode::Leaving | Mode::Closing => self.open() == 0,
            Mode::Serving if self.open() > 0 => false,
            // A peer that connects after the last look waits in the listener's queue; systemd starts us again for it.
            Mode::Serving => {
                let has_idled = self.idle_deadline().is_some_and(|at| at <= now);
                !self.listeners.is_open() || has_idled && self.found_nobody
            }
        }
    }

    fn idle_deadline(&self) -> Option<Moment> {
        let time = self.settings.exit_idle.filter(|_| self.open() == 0)?;
        Some(self.idle_since + time)
    }

    /// Reports what is over in the main loop's own worker.
    fn report_closed(&mut self, now: Moment) {
        for closed in self.worker.take_closed() {
            self.account(&closed, now);
        }
    }

    fn account(&mut self, closed: &Closed, now: Moment) {
        // Nobody has asked the gate for whoever is behind stdin.
        if closed.peer != Peer::Stdio {
            self.gate.leave(&closed.peer);
        }
        self.reporter.closed(closed, self.worker.dialer(), now);
        match &closed.result {
            Err(Error::NotAllowed(_)) => {
                counters::count_refusal(self.worker.store(), &Refusal::NoRule);
            }
            Err(Error::PeerFull { limit, .. }) => {
                counters::count_refusal(self.worker.store(), &Refusal::PeerFull(*limit));
            }
            Err(error) => counters::count_failure(self.worker.store(), error),
            Ok(_) => {}
        }
        self.reporter.totals.write(self.worker.store());
        self.idle_since = now;
    }
}

impl Host for Loop {
    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn goes_on(&mut self, now: Moment) -> bool {
        self.report_closed(now);
        self.tell_status(now);
        self.ask_store(now);
        !self.is_over(now)
    }

    fn deadline(&self) -> Option<Moment> {
        let drain = match self.mode {
            Mode::Draining(until) => Some(until),
            _ => None,
        };
        let others = [
            self.listeners.deadline(),
            self.inspection.as_ref().and_then(Inspection::deadline),
            self.naming.as_ref().and_then(Naming::deadline),
            self.notifier.deadline(),
            self.idle_deadline(),
            self.store_asked_at,
        ];
        others.into_iter().chain([drain]).flatten().min()
    }

    fn poll_until(&mut self, now: Moment) -> Option<Moment> {
        self.busy_poll.look_until(self.threads.turns(), now)
    }

    fn polled_in_vain(&mut self) {
        self.busy_poll.missed();
    }

    fn woke(&mut self, count: usize, before: Moment, now: Moment) {
        self.load.slept(now - before);
        self.busy_poll.met(count, now);
        self.found_nobody = true;
    }

    fn on_event(&mut self, token: Token, now: Moment) {
        match token {
            Token::Signal => {
                let orders = self.signals.as_ref().map(Signals::take);
                for order in orders.into_iter().flatten() {
                    self.stop(order, now);
                }
            }
            Token::Waker => {
                for one in self.threads.returns() {
                    self.take_back(one, now);
                }
            }
            Token::Inspection => {
                // What ended a moment ago is among the open ones no more, and must be in the totals.
                self.report_closed(now);
                self.inspect(now);
            }
            Token::Names => {
                let gateway = self.worker.dialer().gateway.as_ref();
                let answered = gateway.map(|gateway| gateway.resolver.answered());
                self.worker.call(answered.unwrap_or_default());
            }
            Token::Registry => {
                if let Some(naming) = &mut self.naming {
                    naming.note(now);
                }
            }
            Token::Listener(index) => {
                self.found_nobody = false;
                self.busy_poll.forget();
                self.accept(index, now);
            }
            // Its worker has it.
            Token::Session(..) => {}
        }
    }

    fn after_turns(&mut self, now: Moment) {
        self.may_lack_options &= !self.found_nobody;
        self.listeners.resume(self.worker.epoll(), now);
        if let Some(inspection) = &mut self.inspection {
            inspection.resume(self.worker.epoll(), now);
        }
        self.renew_names(now);
        self.confirm_names(now);
        match self.mode {
            Mode::Leaving => self.leave(now),
            _ => {
                self.hand_over_bulk(now);
                self.seek_relief(now);
            }
        }
    }
}
