//! How a loop begins with what another process has left, and how it ends: drained, or with all given to the next one.

use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollTimeout;

use super::restore::{self, Restored};
use super::signals::Order;
use super::{Loop, Mode};
use crate::accounting::Totals;
use crate::accounting::report::connections;
use crate::clock::Moment;
use crate::handover::{Inherited, Store};
use crate::logging::event;
use crate::notify;

/// Between two looks whether systemd has taken what it was sent.
const STORE_RECHECK: Duration = Duration::from_secs(1);

impl Loop {
    /// Looks whether systemd has taken the queues by now; connections that are open are put in.
    pub(super) fn ask_store(&mut self, now: Moment) {
        if self.store_asked_at.is_none_or(|at| now < at) {
            return;
        }
        let store = self.worker.store().clone();
        self.store_asked_at = Loop::keep_from_the_beginning(&store, PollTimeout::ZERO);
        if !store.keeps_at_once() {
            return;
        }
        log::info!("systemd keeps connections from now on");
        let connected = (self.worker.sessions()).filter(|session| session.connection().is_some());
        for session in connected {
            let _ = session
                .keep(&store)
                .inspect_err(|&errno| store.report(errno));
        }
    }

    /// Goes on with what the process before has left.
    pub(crate) fn restore(&mut self, inherited: Inherited) {
        let (now, mut taken) = (Moment::now(), 0u64);
        self.reporter.totals = Totals::read(self.worker.store());
        let lost = inherited.lost;
        let tuning = self.worker.dialer().tuning;
        for session in restore::restore(self.worker.store(), inherited, &tuning) {
            taken += u64::from(session.is_ok());
            match session {
                Ok(session) => self.restore_one(session, now),
                Err(problem) => {
                    log::warn!("a connection of the process before is lost: {problem}");
                }
            }
        }
        if lost > 0 {
            log::warn!(
                "{} of the process before are reset, as there are too few descriptors for them: raise LimitNOFILE=",
                connections(lost as u64)
            );
        }
        if taken > 0 {
            log::info!("took {} over from the process before", connections(taken));
        }
    }

    fn restore_one(&mut self, restored: Restored, now: Moment) {
        match restored {
            Restored::Relaying(session) => {
                self.gate.enter_again(&session.peer);
                self.worker.take_over(*session, now);
            }
            Restored::Connecting(arrival) => {
                self.gate.enter_again(&arrival.peer);
                self.worker.begin(arrival, now);
            }
        }
    }

    /// The first stop signal lets open connections go on for the drain time, the second ends them.
    pub(super) fn stop(&mut self, order: Order, now: Moment) {
        if self.mode != Mode::Serving {
            self.mode = Mode::Draining(now);
            return;
        }
        self.listeners.close(self.worker.epoll());
        let open = self.open();
        if order == Order::HandOver && open > 0 && self.has_successor {
            self.mode = Mode::Leaving;
            self.threads.release_all();
            self.notifier
                .stopping(&format!("Handing {} over", connections(open as u64)));
            return;
        }
        self.drain(now);
    }

    /// Returns all sessions to the next process, once none is with another thread.
    pub(super) fn leave(&mut self, now: Moment) {
        if self.threads.open() > 0 {
            return;
        }
        if let Err(errno) = self.worker.store().register(notify::BARRIER_TIME.into()) {
            let cause = errno.desc();
            log::warn!(
                "connections cannot be handed over to the next process, so they are let finish: {cause}"
            );
            return self.drain(now);
        }
        // Nobody looks before this process has ended, so nothing happens to a session in between.
        let unkept = self.worker.keep_all(now);
        self.report_closed(now);
        let open = self.open();
        if let Some(&(_, errno)) = unkept.first() {
            let (count, cause) = (unkept.len(), errno.desc());
            log::warn!(
                "{count} of {} cannot be handed over to the next process and are reset: {cause}",
                connections((open + count) as u64)
            );
        }
        log::info!(
            "handed {} over to the next process",
            connections(open as u64)
        );
        self.worker.store().freeze();
        self.worker.forget_all();
    }

    fn drain(&mut self, now: Moment) {
        self.mode = Mode::Draining(now + self.settings.drain);
        let open = self.open();
        self.notifier
            .stopping(&format!("Stopping: {} open", connections(open as u64)));
        if open > 0 {
            let time = humantime::format_duration(self.settings.drain);
            log::info!(
                "stopping: {} may go on for {time}",
                connections(open as u64)
            );
        }
    }

    pub(super) fn close_all(&mut self, now: Moment) {
        let open = self.open();
        let message = format!(
            "{}, still open at the end of the time to stop: reset",
            connections(open as u64)
        );
        event::CONNECTIONS_RESET.log(vec![("open", open.to_string())], message);
        self.mode = Mode::Closing;
        self.worker.close_all(now);
        self.threads.close_all();
        self.report_closed(now);
    }

    /// Keeps connections from the moment when their target is connected, if somebody does. Gives when to ask again, if systemd has
    /// not read what it was sent: it may be busy for long, as when a machine starts.
    pub(super) fn keep_from_the_beginning(store: &Store, time: PollTimeout) -> Option<Moment> {
        match store.register(time) {
            Ok(()) => {
                store.keep_at_once();
                None
            }
            Err(Errno::ETIMEDOUT) => Some(Moment::now() + STORE_RECHECK),
            Err(errno) => {
                let cause = errno.desc();
                log::warn!(
                    "connections would not survive a crash: systemd keeps no descriptors of ours, see FileDescriptorStoreMax= and --crash-proof: {cause}"
                );
                None
            }
        }
    }
}
