//! The listeners of a loop: watched level-triggered, so that what one accept leaves is reported again.
//!
//! When descriptors or memory run out, all pause for a moment: a full queue would wake the loop without end.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::peer::{Family, Peer};
use crate::relay::token::Token;
use crate::stream::{Listener, Stream};

/// Until accepting is tried again after a shortage.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections taken at one wake-up, at the most: with 16 clients at a time there are 0.3 waits for each connection instead
/// of 1.0, and 19.8 calls in all instead of 20.4. On vsock one: an accept that finds nothing takes a millisecond there.
const BATCH_MAX: usize = 16;

/// All listeners of a bridge.
#[derive(Debug)]
pub(crate) struct Listeners {
    listeners: Vec<Listener>,
    paused_until: Option<Moment>,
    is_open: bool,
    /// Grows while connections come in bursts, so that one alone costs no call that finds nothing.
    batch: usize,
}

/// What accepting came to.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A new connection.
    Connection(Stream, Peer),
    /// Nobody waits, or whoever waited has gone.
    Nobody,
    /// Something is short; accepting pauses.
    Shortage(Errno),
}

impl Listeners {
    /// Watches all of them.
    pub(crate) fn new(listeners: Vec<Listener>, epoll: &Epoll) -> Result<Listeners> {
        for (index, listener) in listeners.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(index as u32).pack());
            epoll
                .add(listener, event)
                .map_err(Error::system("watch a listener"))?;
        }
        let is_open = !listeners.is_empty();
        Ok(Listeners {
            listeners,
            paused_until: None,
            is_open,
            batch: 1,
        })
    }

    /// Returns whether connections are still to be taken.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Listener> {
        self.listeners.get(index as usize)
    }

    /// Returns how many connections to take from it at one wake-up; after the last of them see [`Listeners::took`].
    pub(crate) fn batch(&self, index: u32) -> usize {
        match self.get(index).map(Listener::family) {
            Some(Family::Vsock) => 1,
            _ => self.batch,
        }
    }

    /// Learns how many there were at a wake-up.
    pub(crate) fn took(&mut self, count: usize) {
        self.batch = if count < self.batch {
            1
        } else {
            (self.batch * 2).min(BATCH_MAX)
        };
    }

    pub(crate) fn accept(&mut self, index: u32, epoll: &Epoll, now: Moment) -> Accepted {
        let Some(listener) = self
            .get(index)
            .filter(|_| self.is_open && self.paused_until.is_none())
        else {
            return Accepted::Nobody;
        };
        match listener.accept() {
            Ok((stream, peer)) => Accepted::Connection(stream, peer),
            Err(Errno::EAGAIN) => Accepted::Nobody,
            // accept(2): errors of the connection, not of the listener; EPERM is a firewall's.
            Err(
                Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO | Errno::EPERM | Errno::ENETDOWN,
            ) => Accepted::Nobody,
            Err(Errno::ENOPROTOOPT | Errno::EHOSTDOWN | Errno::ENONET | Errno::EHOSTUNREACH) => {
                Accepted::Nobody
            }
            Err(Errno::EOPNOTSUPP | Errno::ENETUNREACH | Errno::ECONNRESET | Errno::ENOTCONN) => {
                Accepted::Nobody
            }
            Err(errno) => {
                self.watch(epoll, EpollFlags::empty());
                self.paused_until = Some(now + PAUSE);
                Accepted::Shortage(errno)
            }
        }
    }

    /// Returns when [`Listeners::resume`] must be called.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.paused_until.filter(|_| self.is_open)
    }

    /// Accepts again if the pause is over.
    pub(crate) fn resume(&mut self, epoll: &Epoll, now: Moment) {
        if self.deadline().is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.watch(epoll, EpollFlags::EPOLLIN);
        }
    }

    /// Takes no more connections; who waits in the queues of systemd's stays there for the next process.
    pub(crate) fn close(&mut self, epoll: &Epoll) {
        self.is_open = false;
        // Our own have no next process, which needs their places besides, while connections here go on.
        self.listeners.retain(|listener| !listener.is_own());
        self.watch(epoll, EpollFlags::empty());
    }

    fn watch(&self, epoll: &Epoll, interest: EpollFlags) {
        for (index, listener) in self.listeners.iter().enumerate() {
            let mut event = EpollEvent::new(interest, Token::Listener(index as u32).pack());
            // It was added at the start, and stays open; there is nothing that could fail but memory.
            if let Err(errno) = epoll.modify(listener.as_fd(), &mut event) {
                log::warn!("cannot watch {}: {}", listener.local(), errno.desc());
            }
        }
    }
}
