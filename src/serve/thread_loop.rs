//! One thread beside the main loop: it carries out requests, moves its sessions on, and gives back what it has no use for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use crate::accounting::Closed;
use crate::accounting::snapshot::Entry;
use crate::clock::Moment;
use crate::relay::policy::bulk::{CALM_CHECK, Calm};
use crate::relay::policy::relief;
use crate::relay::round::{self, Host};
use crate::relay::session::Session;
use crate::relay::token::{Key, Token};
use crate::relay::worker::Worker;
use crate::waker::Waker;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Connections that move much.
    Bulk,
    /// Others, when there is too much to do for the main loop.
    Relief,
}

/// What the main loop wants of a thread.
#[derive(Debug)]
pub(super) enum Request {
    Adopt(Box<Session>),
    Tell(Sender<Vec<Entry>>),
    ReleaseAll,
    CloseAll,
}

/// What a thread gives back to the main loop.
#[derive(Debug)]
pub(crate) enum Return {
    /// A session has ended.
    Closed(Closed),
    /// One that moves much, or that the main loop wanted back.
    Session(Box<Session>),
}

/// What runs in a thread.
pub(super) struct ThreadLoop {
    pub(super) job: Job,
    pub(super) worker: Worker,
    pub(super) requests: Receiver<Request>,
    pub(super) waker: Arc<Waker>,
    pub(super) returns: Sender<(Job, Return)>,
    pub(super) main: Arc<Waker>,
    pub(super) turns: Arc<AtomicU64>,
    /// When it was looked last at what is to be given back.
    pub(super) looked: Moment,
    /// What was seen then of those that move much.
    pub(super) calm: Calm<Key>,
    /// How long it has waited for events since.
    pub(super) slept: Duration,
    /// The main loop wants nothing any more.
    pub(super) is_over: bool,
}

impl ThreadLoop {
    /// Moves sessions on until the main loop wants nothing any more.
    pub(super) fn run(mut self) {
        if let Err(error) = round::run(&mut self) {
            // Nothing can be waited for any more. The next process goes on with all connections.
            log::error!("{}", error.report());
            std::process::abort()
        }
    }

    /// Carries out what waits; false when there will be no more.
    fn take_requests(&mut self, now: Moment) -> bool {
        self.waker.clear();
        loop {
            match self.requests.try_recv() {
                Ok(Request::Adopt(session)) => self.worker.adopt(*session, now),
                Ok(Request::Tell(sender)) => {
                    // Whoever asked may have given up.
                    let _ = sender.send(self.worker.entries());
                }
                Ok(Request::ReleaseAll) => self.release_all(),
                Ok(Request::CloseAll) => self.worker.close_all(now),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn release_all(&mut self) {
        let released = self.worker.release_all();
        self.give_back(released.into_iter().map(session));
    }

    /// Gives back what does not need this thread any more, if it is time to look.
    fn give_back_calm(&mut self, now: Moment) {
        let time = now - self.looked;
        if time < CALM_CHECK {
            return;
        }
        self.looked = now;
        let slept = std::mem::take(&mut self.slept);
        match self.job {
            Job::Bulk => {
                let calm = self.calm.look(self.worker.moved());
                let mut released = self.worker.release_each(calm);
                let connections = released.iter_mut().filter_map(Session::connection_mut);
                connections.for_each(|connection| connection.set_calm(now));
                self.give_back(released.into_iter().map(session));
            }
            Job::Relief if relief::is_spare(slept, time) => self.release_all(),
            Job::Relief => {}
        }
    }

    fn give_back(&self, returns: impl Iterator<Item = Return>) {
        let mut has_news = false;
        for one in returns {
            has_news = true;
            // The main loop outlives the threads.
            let _ = self.returns.send((self.job, one));
        }
        if has_news {
            self.main.wake();
        }
    }
}

fn session(session: Session) -> Return {
    Return::Session(Box::new(session))
}

impl Host for ThreadLoop {
    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn goes_on(&mut self, _now: Moment) -> bool {
        !self.is_over
    }

    fn deadline(&self) -> Option<Moment> {
        (self.worker.open() > 0).then(|| self.looked + CALM_CHECK)
    }

    fn woke(&mut self, _count: usize, before: Moment, now: Moment) {
        if self.worker.open() == 0 {
            // Nobody was here to be looked at.
            (self.looked, self.slept) = (now, Duration::ZERO);
        } else {
            self.slept += now - before;
        }
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Only its waker is watched besides sessions.
    fn on_event(&mut self, _token: Token, now: Moment) {
        self.is_over = !self.take_requests(now);
    }

    fn after_turns(&mut self, now: Moment) {
        let closed = self.worker.take_closed().map(Return::Closed);
        let bulk = self.worker.take_bulk().into_iter().map(session);
        self.give_back(closed.chain(bulk));
        self.give_back_calm(now);
    }
}
