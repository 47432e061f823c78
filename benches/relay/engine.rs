//! The loop that serves sessions: level-triggered epoll, one step of one session for each event, so that connections
//! take turns. It runs in the scenario's thread, which then calls `turn` itself, or in its own. Each stream has its own
//! on both sides, like programs that send and receive in bulk: one thread for all of them would feed the relay in such
//! big portions, and so seldom, that no relay were ever short of time.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::answer;
use crate::board::Board;
use crate::error::{Doing, Result};
use crate::pattern::CHUNK;
use crate::session::{Next, Scratch, Session};
use crate::socket;

const EVENTS_PER_TURN: usize = 64;
const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST_SESSION: u64 = 2;

/// Serves sessions.
pub struct Engine {
    epoll: Epoll,
    sessions: HashMap<u64, (Session, EpollFlags)>,
    next_id: u64,
    listener: Option<OwnedFd>,
    board: Arc<Board>,
    /// Streams that were accepted here.
    streams: Vec<EngineThread>,
    /// What sessions left.
    pub scratch: Scratch,
}

impl Engine {
    /// An engine without sessions.
    pub fn new(board: Arc<Board>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll".into())?;
        Ok(Self {
            epoll,
            sessions: HashMap::new(),
            next_id: FIRST_SESSION,
            listener: None,
            board,
            streams: Vec::new(),
            scratch: Scratch {
                buffer: vec![0; CHUNK],
                latencies: Vec::new(),
                answered: 0,
                is_last_answer: false,
            },
        })
    }

    /// Accepts what comes to `listener`.
    pub fn serve(&mut self, listener: OwnedFd) -> Result<()> {
        self.epoll
            .add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))
            .doing(|| "watch the target's listener".into())?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Takes a session in.
    pub fn add(&mut self, session: Session) -> Result<()> {
        let interest = session.interest();
        self.epoll
            .add(session.file(), EpollEvent::new(interest, self.next_id))
            .doing(|| "watch a connection".into())?;
        self.sessions.insert(self.next_id, (session, interest));
        self.next_id += 1;
        Ok(())
    }

    /// Sessions that are served now.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Waits for events, at most `limit`, and serves them.
    pub fn turn(&mut self, limit: Duration) -> Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        let limit = EpollTimeout::try_from(limit).unwrap_or(EpollTimeout::ZERO);
        let count = match self.epoll.wait(&mut events, limit) {
            Err(Errno::EINTR) => 0,
            count => count.doing(|| "wait for events".into())?,
        };
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accept()?,
                WAKE => {}
                id => self.step(id, event.events())?,
            }
        }
        Ok(())
    }

    /// One connection for each event: on vsock a try in vain costs a millisecond.
    fn accept(&mut self) -> Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        match socket::accept_from(listener) {
            Ok(Some(file)) => self.add(Session::accepted(file, Arc::clone(&self.board))),
            Ok(None) => Ok(()),
            Err(error) => {
                self.board
                    .fail(|| format!("the target cannot accept: {error}"));
                Ok(())
            }
        }
    }

    fn step(&mut self, id: u64, events: EpollFlags) -> Result<()> {
        let Some((session, watched)) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        match session.on_ready(events, &mut self.scratch) {
            Next::Keep => {
                let interest = session.interest();
                if interest != *watched {
                    *watched = interest;
                    self.epoll
                        .modify(session.file(), &mut EpollEvent::new(interest, id))
                        .doing(|| "watch a connection".into())?;
                }
            }
            Next::Close => drop(self.sessions.remove(&id)),
            Next::HandOver => self.hand_over(id)?,
        }
        Ok(())
    }

    fn hand_over(&mut self, id: u64) -> Result<()> {
        let Some((session, _)) = self.sessions.remove(&id) else {
            return Ok(());
        };
        self.epoll
            .delete(session.file())
            .doing(|| "unwatch a connection".into())?;
        if session.answer_delay_ms().is_some() {
            answer::serve_in_thread(session);
            return Ok(());
        }
        let mut engine = Engine::new(Arc::clone(&self.board))?;
        engine.add(session)?;
        self.streams.push(EngineThread::start(engine)?);
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for (_, (session, _)) in self.sessions.drain() {
            session.discard();
        }
    }
}

/// An engine in its own thread; it stops when this is dropped.
pub struct EngineThread {
    wake: EventFd,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EngineThread {
    /// Starts a thread that serves what the engine has.
    pub fn start(mut engine: Engine) -> Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).doing(|| "make an eventfd".into())?;
        engine
            .epoll
            .add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))
            .doing(|| "watch an eventfd".into())?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                if let Err(error) = engine.turn(Duration::from_secs(1)) {
                    engine.board.fail(|| error.to_string());
                    return;
                }
            }
        });
        Ok(Self {
            wake,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The eventfd only wakes the thread; it can be full only when it has done so.
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already said so on stderr.
            let _ = thread.join();
        }
    }
}
