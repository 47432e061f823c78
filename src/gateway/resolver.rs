//! Names of hosts looked up for the peers of a gateway, by few threads: a resolver may take its time, and nothing else waits.
//!
//! getaddrinfo(3) is asked, so that /etc/nsswitch.conf, resolved and /etc/hosts count. Each machine has a queue of its own, and
//! these take turns; no machine has more than a part of the threads. So one that asks for a thousand names that nobody
//! answers for keeps no other one waiting.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::Result;
use crate::gateway_rules::Who;
use crate::waker::Waker;

/// Threads, made one by one while there is something to ask: as many as TasksMax= of the unit has room for beside the others,
/// so that it takes many machines to have all of them wait for name servers that say nothing.
const THREADS_MAX: usize = 32;
/// Of them for one machine.
const THREADS_OF_ONE: usize = 2;
/// Names that one machine may have waiting.
const QUEUE_MAX: usize = 64;
/// A thread that had nothing to do for so long ends.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Asks for the addresses of a name and port; may block for long.
type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Looks names up. Dropping it lets its threads end.
#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
}

/// A name that is being looked up. Dropping it takes it out of the queue.
#[derive(Debug)]
pub(crate) struct Question {
    name: String,
    port: u16,
    /// Who is to be woken.
    asker: u64,
    answer: Mutex<Option<io::Result<Vec<SocketAddr>>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do, or the resolver is gone.
    news: Condvar,
    /// Answers have come.
    waker: Waker,
    lookup: Lookup,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of their turns; none is empty.
    queues: VecDeque<(Who, VecDeque<Arc<Question>>)>,
    /// How many threads each machine has.
    busy: HashMap<Who, usize>,
    threads: usize,
    /// Threads that have nothing to do, or were woken and have taken nothing yet.
    idle: usize,
    /// Whose answers have come.
    answered: Vec<u64>,
    is_over: bool,
}

impl Resolver {
    /// Begins without threads.
    pub(crate) fn new() -> Result<Resolver> {
        Resolver::with(|name, port| Ok((name, port).to_socket_addrs()?.collect()))
    }

    fn with(lookup: Lookup) -> Result<Resolver> {
        Ok(Resolver {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                news: Condvar::new(),
                waker: Waker::new()?,
                lookup,
            }),
        })
    }

    /// Returns what is readable when answers have come.
    pub(crate) fn waker(&self) -> &Waker {
        &self.shared.waker
    }

    /// Begins to look a name up. None if that machine has too many waiting already.
    pub(crate) fn ask(&self, who: Who, name: &str, port: u16, asker: u64) -> Option<Arc<Question>> {
        let question = Arc::new(Question {
            name: name.to_owned(),
            port,
            asker,
            answer: Mutex::new(None),
        });
        let mut state = self.shared.lock();
        state.put(who, question.clone())?;
        if state.needs_a_thread() {
            state.threads += 1;
            drop(state);
            self.start();
        } else {
            self.shared.news.notify_one();
        }
        Some(question)
    }

    /// Returns those whose answers have come since the last time.
    pub(crate) fn answered(&self) -> Vec<u64> {
        self.shared.waker.clear();
        std::mem::take(&mut self.shared.lock().answered)
    }

    fn start(&self) {
        let shared = self.shared.clone();
        let builder = thread::Builder::new().name("resolver".into());
        if let Err(error) = builder.spawn(move || shared.run()) {
            log::debug!("no thread to look names up: {error}");
            self.shared.lock().threads -= 1;
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.news.notify_all();
    }
}

impl Question {
    /// Returns what came out, if it is there, once.
    pub(crate) fn take_answer(&self) -> Option<io::Result<Vec<SocketAddr>>> {
        self.answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has left nothing half done in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does.
    fn run(&self) {
        let mut state = self.lock();
        while !state.is_over {
            let Some((who, question)) = state.take() else {
                state.idle += 1;
                let waited = self.news.wait_timeout(state, IDLE_TIME);
                let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                state = guard;
                state.idle -= 1;
                if waited.timed_out() && state.takeable() == 0 {
                    break;
                }
                continue;
            };
            drop(state);
            let answer = (self.lookup)(&question.name, question.port);
            let mut place = question
                .answer
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *place = Some(answer);
            drop(place);
            state = self.lock();
            state.answered.push(question.asker);
            state.leave(who);
            self.waker.wake();
        }
        state.threads -= 1;
    }
}

impl State {
    /// Puts a question into the queue of its machine, unless that is full of questions that are still of use.
    fn put(&mut self, who: Who, question: Arc<Question>) -> Option<()> {
        match self.queues.iter_mut().find(|(other, _)| *other == who) {
            Some((_, queue)) => {
                queue.retain(is_wanted);
                if queue.len() >= QUEUE_MAX {
                    return None;
                }
                queue.push_back(question);
            }
            None => self.queues.push_back((who, [question].into())),
        }
        Some(())
    }

    /// Returns how many questions could be taken at once.
    fn takeable(&self) -> usize {
        let of_one = |(who, queue): &(Who, VecDeque<_>)| queue.len().min(self.left_to(*who));
        self.queues.iter().map(of_one).sum()
    }

    /// Returns whether there is more to do than threads that have nothing to do.
    fn needs_a_thread(&self) -> bool {
        self.takeable() > self.idle && self.threads < THREADS_MAX
    }

    /// Returns how many threads more a machine may have.
    fn left_to(&self, who: Who) -> usize {
        THREADS_OF_ONE - self.busy.get(&who).copied().unwrap_or_default()
    }

    /// Takes the next question of the machine whose turn it is, which is then the last one.
    fn take(&mut self) -> Option<(Who, Arc<Question>)> {
        loop {
            let place = (self.queues.iter()).position(|(who, _)| self.left_to(*who) > 0)?;
            let (who, mut queue) = self.queues.remove(place)?;
            let question = queue.pop_front();
            if !queue.is_empty() {
                self.queues.push_back((who, queue));
            }
            if let Some(question) = question.filter(is_wanted) {
                *self.busy.entry(who).or_insert(0) += 1;
                return Some((who, question));
            }
        }
    }

    /// A thread has done what it had for a machine.
    fn leave(&mut self, who: Who) {
        if let Some(count) = self.busy.get_mut(&who) {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&who);
            }
        }
    }
}

/// Whoever asked may have gone: then only the queue has it.
fn is_wanted(question: &Arc<Question>) -> bool {
    Arc::strong_count(question) > 1
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;

    use super::*;
    use crate::vsock::Cid;

    fn guest(number: u32) -> Who {
        Who::Machine(Cid::new(number).unwrap())
    }

    fn question(asker: u64) -> Arc<Question> {
        Arc::new(Question {
            name: "x".to_owned(),
            port: 1,
            asker,
            answer: Mutex::new(None),
        })
    }

    /// The askers whose questions are taken, until none may be; each thread stays with its question.
    fn taken(state: &mut State) -> Vec<u64> {
        let taken = std::iter::from_fn(|| state.take());
        taken.map(|(_, question)| question.asker).collect()
    }

    #[test]
    fn machines_take_turns_and_none_has_all_threads() {
        let mut state = State::default();
        let all: Vec<_> = (0..12).map(question).collect();
        for question in &all {
            let who = guest(if question.asker < 10 { 3 } else { 4 });
            state.put(who, question.clone()).unwrap();
        }
        assert_eq!(taken(&mut state), [0, 10, 1, 11]);
        assert_eq!(state.takeable(), 0);
        state.leave(guest(3));
        assert_eq!(taken(&mut state), [2]);
    }

    /// One that was woken is idle until it takes what it was woken for, and takes one question alone.
    #[test]
    fn each_question_has_a_thread_while_there_are_any() {
        let mut state = State {
            threads: 1,
            idle: 1,
            ..State::default()
        };
        let all: Vec<_> = (0..3).map(question).collect();
        for (question, needs_more) in all.iter().zip([false, true, true]) {
            // A third question of one machine has to wait, and has no thread.
            state.put(guest(3), question.clone()).unwrap();
            assert_eq!(state.needs_a_thread(), needs_more, "{}", question.asker);
        }
        state.idle = 2;
        assert!(!state.needs_a_thread());
        let other = question(3);
        state.put(guest(4), other.clone()).unwrap();
        assert!(state.needs_a_thread());
        state.threads = THREADS_MAX;
        assert!(!state.needs_a_thread());
    }

    #[test]
    fn a_queue_has_an_end_and_no_place_for_those_who_are_gone() {
        let mut state = State::default();
        let mut all: Vec<_> = (0..QUEUE_MAX as u64).map(question).collect();
        for question in &all {
            state.put(guest(3), question.clone()).unwrap();
        }
        let late = question(100);
        assert_eq!(state.put(guest(3), late.clone()), None);
        assert_eq!(state.put(guest(4), question(101)), Some(()));
        all.drain(..QUEUE_MAX - 1);
        assert_eq!(state.put(guest(3), late.clone()), Some(()));
        assert_eq!(taken(&mut state), [QUEUE_MAX as u64 - 1, 100]);
    }

    /// Names that nobody answers for before the test is over.
    static SILENT: Mutex<()> = Mutex::new(());

    #[test]
    fn machines_that_wait_for_silent_name_servers_leave_threads_for_others() {
        let silence = SILENT.lock().unwrap();
        let resolver = Resolver::with(|name, port| {
            if name == "silent.example" {
                drop(SILENT.lock());
            }
            Ok(vec![([192, 0, 2, 1], port).into()])
        });
        let resolver = resolver.unwrap();
        let ask = |number: u32, name: &str| resolver.ask(guest(number), name, 80, 7).unwrap();
        let _silent: Vec<_> = (3..13)
            .flat_map(|number| [number; 3])
            .map(|number| ask(number, "silent.example"))
            .collect();
        let question = ask(13, "a.example");
        let mut fds = [PollFd::new(resolver.waker().as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 10_000u16), Ok(1), "no answer");
        assert!(question.take_answer().unwrap().is_ok());
        drop(silence);
    }

    #[test]
    fn an_answer_wakes_whoever_has_asked() {
        let resolver = Resolver::with(|name, port| match name {
            "a.example" => Ok(vec![([192, 0, 2, 1], port).into()]),
            _ => Err(io::Error::other("unknown")),
        });
        let resolver = resolver.unwrap();
        let known = resolver.ask(guest(3), "a.example", 80, 7).unwrap();
        let unknown = resolver.ask(guest(4), "b.example", 80, 8).unwrap();
        let mut askers = Vec::new();
        while askers.len() < 2 {
            let mut fds = [PollFd::new(resolver.waker().as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, 10_000u16), Ok(1), "no answer");
            askers.extend(resolver.answered());
        }
        askers.sort_unstable();
        assert_eq!(askers, [7, 8]);
        let found = known.take_answer().unwrap().unwrap();
        assert_eq!(found, ["192.0.2.1:80".parse().unwrap()]);
        assert!(unknown.take_answer().unwrap().is_err());
        assert!(unknown.take_answer().is_none());
    }
}
