//! How peers come in: accepted, or passed by systemd, and let in or refused.

use std::fmt::Display;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::Loop;
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::endpoint::Endpoint;
use crate::peer::{Family, Peer, inet_addr};
use crate::relay::counters;
use crate::relay::listeners::Accepted;
use crate::stream::{Listener, Stream};

impl Loop {
    /// Takes a peer that was accepted by somebody else (Accept=yes), with the same rules as our own.
    pub(crate) fn admit(&mut self, stream: Stream, peer: Peer, destination: Option<SocketAddr>) {
        Loop::tune(self.worker.dialer(), stream.input(), stream.family(), &peer);
        self.enter(stream, peer, destination, Moment::now());
    }

    pub(super) fn accept(&mut self, index: u32, now: Moment) {
        let batch = self.listeners.batch(index);
        let took = (0..batch)
            .take_while(|_| self.accept_one(index, now))
            .count();
        self.listeners.took(took);
    }

    /// Takes one connection; false when there is no other to be taken now.
    fn accept_one(&mut self, index: u32, now: Moment) -> bool {
        match self.listeners.accept(index, self.worker.epoll(), now) {
            Accepted::Connection(stream, peer) => {
                if self.may_lack_options {
                    Loop::tune(self.worker.dialer(), stream.input(), stream.family(), &peer);
                }
                let destination = self.destination(index, &stream);
                self.enter(stream, peer, destination, now);
                return true;
            }
            Accepted::Nobody => {}
            Accepted::Shortage(errno) => self.reporter.shortage(errno, self.open(), now),
        }
        false
    }

    /// Finds where a TCP peer connected to, if that matters: for the mapped target, or for the fence of the prefix.
    fn destination(&self, index: u32, stream: &Stream) -> Option<SocketAddr> {
        let is_tcp = |listener: &&Listener| listener.family() == Family::Tcp;
        let listener = self.listeners.get(index).filter(is_tcp)?;
        let is_mapped = self.worker.dialer().target.is_mapped();
        match listener.local() {
            Endpoint::Tcp(addr) if !addr.ip().is_unspecified() && !is_mapped => Some(*addr),
            _ => inet_addr(&stream.local_address().ok()?),
        }
    }

    fn enter(&mut self, stream: Stream, peer: Peer, destination: Option<SocketAddr>, now: Moment) {
        // Not the listener's to inherit: that is systemd's, who may give it to another program.
        stream.reset_on_close(true);
        match self.gate.enter(&peer, stream.own_cid(), destination) {
            Ok(()) => {
                if let Some(near) = self.gate.near(&peer) {
                    log::warn!("{near}");
                }
                self.worker.begin(stream, peer, destination, now);
            }
            Err(refusal) => {
                stream.abort();
                let dialer = self.worker.dialer();
                let target = dialer.target_of(destination);
                let store = self.worker.store();
                counters::count_refusal(store, &refusal);
                self.reporter.refused(peer, &target, refusal, dialer, now);
                self.reporter.totals.write(store);
            }
        }
    }

    /// Sets all options of a socket. A refused one is no reason to refuse the connection: it works, but slower.
    pub(super) fn tune(
        dialer: &Dialer,
        socket: BorrowedFd<'_>,
        family: Family,
        name: &dyn Display,
    ) {
        let tuning = &dialer.tuning;
        let result = tuning
            .apply(socket, family)
            .and_then(|()| tuning.apply_keepalive(socket, family));
        if let Err(errno) = result {
            log::warn!("cannot set the socket options of {name}: {}", errno.desc());
        }
    }
}
