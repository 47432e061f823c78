//! Threads for connections that move much, so that interactive ones never wait behind them.
//!
//! A budget for each turn alone does not do it: with two operations of 256 KiB a turn, four bulk streams still keep
//! an interactive one waiting for 4 ms. The threads are made when the first bulk transfer comes, so an idle
//! process has none. A connection stays with its thread to the end.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::connection::Limits;
use super::inspection::Entry;
use super::session::Session;
use super::token::Token;
use super::worker::{Over, Worker};
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::error::{Error, Result};
use crate::handover::Keeper;

/// What the main loop wants of a thread.
#[derive(Debug)]
enum Order {
    Adopt(Box<Session>),
    Tell(Sender<Vec<Entry>>),
    ReleaseAll,
    CloseAll,
}

/// What a thread gives back to the main loop.
#[derive(Debug)]
enum Return {
    Over(Over),
    Released(Box<Session>),
}

/// One thread, as the main loop sees it. Dropping the order's sender ends it.
#[derive(Debug)]
struct Thread {
    orders: Option<Sender<Order>>,
    bell: Arc<EventFd>,
    handle: Option<JoinHandle<()>>,
}

/// The threads, and the sessions they have.
#[derive(Debug)]
pub struct Bulk {
    threads: Vec<Thread>,
    /// Which one gets the next session.
    next: usize,
    open: usize,
    returns: Receiver<Return>,
    return_sender: Sender<Return>,
    bell: Arc<EventFd>,
    limits: Limits,
}

impl Bulk {
    /// Begins without threads. `watch` is told of the descriptor that is readable when there are results.
    pub fn new(limits: Limits) -> Result<Bulk> {
        let (return_sender, returns) = channel();
        let bell = Arc::new(bell()?);
        Ok(Bulk {
            threads: Vec::new(),
            next: 0,
            open: 0,
            returns,
            return_sender,
            bell,
            limits,
        })
    }

    /// Gives the descriptor that is readable when there are results.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// Tells how many sessions the threads have.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Gives a session to a thread; back, when there is none and none can be made.
    pub fn give(
        &mut self,
        session: Session,
        dialer: &Arc<Dialer>,
        keeper: &Arc<Keeper>,
    ) -> Result<(), Box<Session>> {
        if self.threads.is_empty() {
            self.start(dialer, keeper);
        }
        let session = Box::new(session);
        if self.threads.is_empty() {
            return Err(session);
        }
        self.next = (self.next + 1) % self.threads.len();
        self.threads[self.next].send(Order::Adopt(session));
        self.open += 1;
        Ok(())
    }

    /// Takes what is over, and the sessions that come back.
    pub fn returns(&mut self) -> (Vec<Over>, Vec<Session>) {
        clear(&self.bell);
        let (mut over, mut released) = (Vec::new(), Vec::new());
        for result in self.returns.try_iter() {
            match result {
                Return::Over(one) => over.push(one),
                Return::Released(session) => released.push(*session),
            }
        }
        self.open -= over.len() + released.len();
        (over, released)
    }

    /// Asks for all sessions back.
    pub fn release_all(&mut self) {
        for thread in &self.threads {
            thread.send(Order::ReleaseAll);
        }
    }

    /// Asks each thread for the numbers of its sessions.
    pub fn entries(&self) -> Receiver<Vec<Entry>> {
        let (sender, receiver) = channel();
        for thread in &self.threads {
            thread.send(Order::Tell(sender.clone()));
        }
        receiver
    }

    /// Closes all sessions; they come back as results.
    pub fn close_all(&mut self) {
        for thread in &self.threads {
            thread.send(Order::CloseAll);
        }
    }

    /// Makes as many threads as there are processors to spare.
    fn start(&mut self, dialer: &Arc<Dialer>, keeper: &Arc<Keeper>) {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors {
            match self.start_one(dialer, keeper) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => log::debug!("no thread for bulk transfers: {}", error.report()),
            }
        }
    }

    fn start_one(&self, dialer: &Arc<Dialer>, keeper: &Arc<Keeper>) -> Result<Thread> {
        let (sender, orders) = channel();
        let own_bell = Arc::new(bell()?);
        let worker = Worker::new(dialer.clone(), keeper.clone(), self.limits, true)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Bell.pack());
        worker
            .epoll()
            .add(&own_bell, event)
            .map_err(Error::system("watch a bulk thread's orders"))?;
        let body = Body {
            worker,
            orders,
            bell: own_bell.clone(),
            returns: self.return_sender.clone(),
            main: self.bell.clone(),
        };
        let handle = thread::Builder::new()
            .name("bulk".into())
            .spawn(move || body.run())
            .map_err(|error| Error::System {
                operation: "start a thread",
                source: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
            })?;
        Ok(Thread {
            orders: Some(sender),
            bell: own_bell,
            handle: Some(handle),
        })
    }
}

impl Thread {
    fn send(&self, order: Order) {
        // The thread ends only after its sender is gone.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
        ring(&self.bell);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.orders = None;
        ring(&self.bell);
        // A panic aborts the process; there is no other way for the thread to fail.
        let _ = self.handle.take().map(JoinHandle::join);
    }
}

/// What runs in a thread.
struct Body {
    worker: Worker,
    orders: Receiver<Order>,
    bell: Arc<EventFd>,
    returns: Sender<Return>,
    main: Arc<EventFd>,
}

impl Body {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timeout = self.worker.timeout(None, Moment::now());
            let count = self.worker.epoll().wait(&mut events, timeout).unwrap_or(0);
            let now = Moment::now();
            for event in &events[..count] {
                match Token::unpack(event.data()) {
                    Token::Session(key, side) => self.worker.note(key, side, event.events(), now),
                    _ => {
                        if !self.take_orders(now) {
                            return;
                        }
                    }
                }
            }
            self.worker.turn(now);
            self.report();
        }
    }

    /// Carries out what waits; false when there will be no more.
    fn take_orders(&mut self, now: Moment) -> bool {
        clear(&self.bell);
        loop {
            match self.orders.try_recv() {
                Ok(Order::Adopt(session)) => self.worker.adopt(*session, now),
                Ok(Order::Tell(sender)) => {
                    // Whoever asked may have given up.
                    let _ = sender.send(self.worker.entries());
                }
                Ok(Order::ReleaseAll) => self.release_all(),
                Ok(Order::CloseAll) => self.worker.close_all(now),
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn release_all(&mut self) {
        for session in self.worker.release_all() {
            // The main loop outlives the threads.
            let _ = self.returns.send(Return::Released(Box::new(session)));
        }
        ring(&self.main);
    }

    fn report(&mut self) {
        let mut has_news = false;
        for over in self.worker.take_over() {
            has_news = true;
            // The main loop outlives the threads.
            let _ = self.returns.send(Return::Over(over));
        }
        if has_news {
            ring(&self.main);
        }
    }
}

fn bell() -> Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .map_err(Error::system("create an eventfd"))
}

fn ring(bell: &EventFd) {
    // It fails only when it has been rung 2^64 times already.
    let _ = bell.write(1);
}

fn clear(bell: &EventFd) {
    // It fails only when it has not been rung.
    let _ = bell.read();
}
