//! Threads beside the main loop: for connections that move much, and for what is too much for one thread.
//!
//! Bulk: interactive connections never wait behind those that move much. A budget for each turn alone does not do it: with
//! two operations of 256 KiB a turn, four bulk streams still keep an interactive one waiting for 4 ms.
//!
//! Relief: when the main loop hardly sleeps any more ([`relief`](crate::relay::policy::relief)), half of its busy connections go to another
//! thread, which gives back what turns out to be bulk. New ones begin in the main loop.
//!
//! Threads are made one by one, when there is something for one more, so an idle process has none, and a machine with many
//! processors has few of them: the service may have so many tasks (TasksMax=), and some are for answers to the
//! administrator. A connection goes back to the main loop when it has become calm, and those of a relief thread when that has
//! hardly anything to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

pub(super) use super::thread_loop::{Job, Return};
use super::thread_loop::{Request, ThreadLoop};
use crate::accounting::snapshot::Entry;
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::error::{Error, Result};
use crate::handover::Store;
use crate::relay::connection::Limits;
use crate::relay::policy::bulk::Calm;
use crate::relay::session::Session;
use crate::relay::token::Token;
use crate::relay::worker::Worker;
use crate::waker::Waker;

/// The most threads for connections that move much. Each of them fills a processor, of which machines have work of their own.
const BULK_MAX: usize = 8;
/// The most threads for what is too much for the main loop. On the two processors there were to measure, one is used.
const RELIEF_MAX: usize = 3;
/// When no thread could be made, the next try is not before that.
const THREAD_RETRY: Duration = Duration::from_secs(5);

impl Job {
    fn threads(self, processors: usize) -> usize {
        match self {
            Job::Bulk => processors.min(BULK_MAX),
            Job::Relief => (processors - 1).min(RELIEF_MAX),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Job::Bulk => "bulk",
            Job::Relief => "relief",
        }
    }
}

/// One thread, as the main loop sees it. Dropping the sender of requests ends it.
#[derive(Debug)]
struct Thread {
    requests: Option<Sender<Request>>,
    waker: Arc<Waker>,
    handle: Option<JoinHandle<()>>,
}

/// The threads of one job, and the sessions they have.
#[derive(Debug, Default)]
struct Group {
    threads: Vec<Thread>,
    /// Which one gets the next session.
    next: usize,
    open: usize,
    /// Until then no more threads are tried to be made.
    paused_until: Option<Moment>,
}

impl Group {
    /// Returns whether one more thread would have something to do.
    fn is_full(&self, most: usize) -> bool {
        self.open >= self.threads.len() && self.threads.len() < most
    }

    fn give(&mut self, session: Session) {
        self.next = (self.next + 1) % self.threads.len();
        self.threads[self.next].send(Request::Adopt(Box::new(session)));
        self.open += 1;
    }
}

/// All threads beside the main loop.
#[derive(Debug)]
pub(crate) struct Threads {
    bulk: Group,
    relief: Group,
    returns: Receiver<(Job, Return)>,
    return_sender: Sender<(Job, Return)>,
    waker: Arc<Waker>,
    /// Wake-ups of all of them.
    turns: Arc<AtomicU64>,
    limits: Limits,
    processors: usize,
}

impl Threads {
    pub(crate) fn new(limits: Limits, processors: usize) -> Result<Threads> {
        let (return_sender, returns) = channel();
        let waker = Arc::new(Waker::new()?);
        Ok(Threads {
            bulk: Group::default(),
            relief: Group::default(),
            returns,
            return_sender,
            waker,
            turns: Arc::default(),
            limits,
            processors,
        })
    }

    /// Returns the descriptor that is readable when there are results.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(crate) fn open(&self) -> usize {
        self.bulk.open + self.relief.open
    }

    /// Counts how often any of the threads had something to do.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn relieved(&self) -> usize {
        self.relief.open
    }

    /// Returns how many threads there are for a job, after making one if all have something to do.
    pub(crate) fn ready(&mut self, job: Job, dialer: &Arc<Dialer>, store: &Arc<Store>) -> usize {
        let most = job.threads(self.processors);
        let now = Moment::now();
        let is_paused = self.group(job).paused_until.is_some_and(|at| now < at);
        if self.group(job).is_full(most) && !is_paused {
            match self.start_one(job, dialer, store) {
                Ok(thread) => self.group(job).threads.push(thread),
                Err(error) => {
                    log::debug!("no thread for {}: {}", job.name(), error.report());
                    self.group(job).paused_until = Some(now + THREAD_RETRY);
                }
            }
        }
        self.group(job).threads.len()
    }

    /// Returns a session to a thread; [`Threads::ready`] has told that there is one.
    pub(crate) fn give(&mut self, job: Job, session: Session) {
        self.group(job).give(session);
    }

    /// Takes what the threads give back.
    pub(crate) fn returns(&mut self) -> Vec<Return> {
        self.waker.clear();
        let returns: Vec<(Job, Return)> = self.returns.try_iter().collect();
        for (job, _) in &returns {
            self.group(*job).open -= 1;
        }
        returns.into_iter().map(|(_, result)| result).collect()
    }

    /// Asks for all sessions back.
    pub(crate) fn release_all(&mut self) {
        self.all()
            .for_each(|thread| thread.send(Request::ReleaseAll));
    }

    /// Asks each thread for the numbers of its sessions.
    pub(crate) fn entries(&self) -> Receiver<Vec<Entry>> {
        let (sender, receiver) = channel();
        self.all()
            .for_each(|thread| thread.send(Request::Tell(sender.clone())));
        receiver
    }

    /// Closes all sessions; they come back as results.
    pub(crate) fn close_all(&mut self) {
        self.all().for_each(|thread| thread.send(Request::CloseAll));
    }

    fn group(&mut self, job: Job) -> &mut Group {
        match job {
            Job::Bulk => &mut self.bulk,
            Job::Relief => &mut self.relief,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Thread> {
        self.bulk.threads.iter().chain(&self.relief.threads)
    }

    fn start_one(&self, job: Job, dialer: &Arc<Dialer>, store: &Arc<Store>) -> Result<Thread> {
        let (sender, requests) = channel();
        let own_waker = Arc::new(Waker::new()?);
        let keeps_bulk = job == Job::Bulk;
        let worker = Worker::new(dialer.clone(), store.clone(), self.limits, keeps_bulk)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Waker.pack());
        worker
            .epoll()
            .add(&own_waker, event)
            .map_err(Error::system("watch a thread's requests"))?;
        let thread = ThreadLoop {
            job,
            worker,
            requests,
            waker: own_waker.clone(),
            returns: self.return_sender.clone(),
            main: self.waker.clone(),
            turns: self.turns.clone(),
            looked: Moment::now(),
            calm: Calm::new(),
            slept: Duration::ZERO,
            is_over: false,
        };
        let handle = thread::Builder::new()
            .name(job.name().into())
            .spawn(move || thread.run())
            .map_err(|error| Error::System {
                operation: "start a thread",
                source: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
            })?;
        Ok(Thread {
            requests: Some(sender),
            waker: own_waker,
            handle: Some(handle),
        })
    }
}

impl Thread {
    fn send(&self, request: Request) {
        // The thread ends only after its sender is gone.
        let _ = self
            .requests
            .as_ref()
            .map(|requests| requests.send(request));
        self.waker.wake();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.requests = None;
        self.waker.wake();
        // A panic aborts the process; there is no other way for the thread to fail.
        let _ = self.handle.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_processors_leave_tasks_of_the_service_for_answers() {
        // TasksMax= of the units, less the main thread and four answers, those that look names up, and some to spare.
        let tasks = Job::Bulk.threads(1024) + Job::Relief.threads(1024);
        assert!(tasks <= 64 / 2, "{tasks}");
        assert_eq!((Job::Bulk.threads(1), Job::Relief.threads(1)), (1, 0));
    }

    #[test]
    fn a_thread_is_made_when_all_others_have_something_to_do() {
        let mut group = Group::default();
        assert!(group.is_full(1));
        assert!(!group.is_full(0));
        let store = Store::private().unwrap();
        let dialer = Arc::new(Dialer::to_nobody());
        let mut threads = Threads::new(Limits::default(), 96).unwrap();
        for _ in 0..3 {
            assert_eq!(threads.ready(Job::Bulk, &dialer, &store), 1);
        }
        threads.bulk.open = 1;
        assert_eq!(threads.ready(Job::Bulk, &dialer, &store), 2);
        group.open = 5;
        assert!(!group.is_full(0));
    }
}
