//! How peers come in: accepted, or passed by systemd, and let in or refused.

use std::fmt::Display;
use std::os::fd::BorrowedFd;

use super::Loop;
use super::listeners::Accepted;
use crate::accounting::counters;
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::endpoint::Endpoint;
use crate::gate::Refusal;
use crate::peer::{Destination, Family, Peer};
use crate::relay::details;
use crate::relay::session::Arrival;
use crate::stream::{Listener, Stream};

impl Loop {
    /// Takes a peer that was accepted by somebody else (Accept=yes), with the same rules as our own.
    pub(crate) fn admit(&mut self, stream: Stream, peer: Peer) {
        Loop::tune(self.worker.dialer(), stream.input(), stream.family(), &peer);
        let destination = stream.destination();
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
                let listener = self.listeners.get(index);
                let destination = listener.map_or(Destination::Unnamed, |listener| {
                    self.destination(listener, &stream)
                });
                self.enter(stream, peer, destination, now);
                return true;
            }
            Accepted::Nobody => {}
            Accepted::Shortage(errno) => self.reporter.shortage(errno, self.open(), now),
        }
        false
    }

    /// Finds where a peer connected to; asks the connection only where its listener does not tell all that matters: one
    /// for every address of this machine, or one for those of other machines.
    fn destination(&self, listener: &Listener, stream: &Stream) -> Destination {
        let follows = self.worker.dialer().targets.follow_destination();
        match listener.local() {
            Endpoint::Tcp(addr) if addr.ip().is_unspecified() || follows => stream.destination(),
            Endpoint::Vsock(_) => stream.destination(),
            local => Destination::new(local),
        }
    }

    fn enter(&mut self, stream: Stream, peer: Peer, destination: Destination, now: Moment) {
        // Not the listener's to inherit: that is systemd's, who may give it to another program.
        stream.reset_on_close(true);
        // A CID may be another machine's since the last look.
        self.renew_names_at_once(now);
        match self.let_in(&peer, destination) {
            Ok(()) => {
                if let Some(near) = self.gate.near(&peer) {
                    log::warn!("{near}");
                }
                details::accepted(&peer, destination, self.worker.dialer());
                let arrival = Arrival {
                    stream,
                    peer,
                    destination,
                    has_greeted: false,
                };
                self.worker.begin(arrival, now);
            }
            Err(refusal) => {
                stream.abort();
                let dialer = self.worker.dialer();
                let target = dialer.target_of(&peer, destination);
                let store = self.worker.store();
                counters::count_refusal(store, &refusal);
                self.reporter.refused(peer, target, refusal, dialer, now);
                self.reporter.totals.write(store);
            }
        }
    }

    fn let_in(&mut self, peer: &Peer, destination: Destination) -> Result<(), Refusal> {
        let targets = &self.worker.dialer().targets;
        match targets.choose(peer, destination) {
            Some(_) => self.gate.enter(peer, destination),
            None => Err(Refusal::NoTarget),
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
