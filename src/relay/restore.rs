//! Sessions made of what another process has left.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::connection::Connection;
use super::flow::{Flow, Held, State};
use super::parting::{self, Parting};
use super::pipes::Pipe;
use super::record::{Record, read_peer};
use super::session::Session;
use super::wire::End;
use crate::handover::{Found, Inherited, Item, Owner, Store, Ticket};
use crate::peer::{Family, Peer};
use crate::stream::{Stream, Tuning};
use crate::sys;

/// A session that another process has left.
#[derive(Debug)]
pub enum Restored {
    /// It goes on where it was.
    Relaying(Box<Session>),
    /// Its target is to be connected.
    Connecting(Stream, Peer),
}

/// Makes sessions of what another process has left; of one that cannot be gone on with, it tells what is wrong with it.
pub fn restore(
    store: &Arc<Store>,
    inherited: Inherited,
    tuning: &Tuning,
) -> Vec<Result<Restored, String>> {
    let mut held: HashMap<Owner, Held> = HashMap::new();
    for (owner, buffer) in inherited.buffers {
        held.insert(owner, Held::Copied(buffer));
    }
    for (owner, count, (item, descriptors)) in inherited.pipes {
        let Item::Pipe(ticket) = item else { continue };
        // An empty one goes as it is dropped.
        if let Some(pipe) = Pipe::adopt(store, ticket, descriptors, count).filter(|_| count > 0) {
            held.insert(owner, Held::Piped(pipe));
        }
    }
    let connections = inherited.connections.into_iter();
    connections
        .map(|found| restore_one(store, found, &mut held, tuning))
        .collect()
}

fn restore_one(
    store: &Arc<Store>,
    (item, descriptors): Found,
    held: &mut HashMap<Owner, Held>,
    tuning: &Tuning,
) -> Result<Restored, String> {
    let ledger = store.ledger();
    let descriptors = descriptors.into_iter();
    let mut streams: Vec<Stream> = descriptors
        .filter_map(|socket| stream(socket, tuning))
        .collect();
    let problem = match (item, streams.as_slice()) {
        (Item::Connection(ticket), [_, _]) => match Record::read(ledger, ticket) {
            Some(record) => {
                let (target, peer) = (streams.pop(), streams.pop());
                let ends = peer.zip(target).ok_or("a descriptor is missing")?;
                let session = record.session(ticket, ends, held);
                return Ok(Restored::Relaying(Box::new(session)));
            }
            None => "its record cannot be read",
        },
        (Item::Peer(ticket), [_]) => match read_peer(ledger, ticket) {
            Some((peer, _)) => {
                // It is written down again, as a connection, when its target is connected.
                parting::forget(store, item);
                let stream = streams.pop().ok_or("a descriptor is missing")?;
                return Ok(Restored::Connecting(stream, peer));
            }
            None => "its record cannot be read",
        },
        _ => "a descriptor is missing, or is no socket",
    };
    let ends = streams.into_iter().map(End::new).collect();
    parting::close(store, vec![Parting::new(item, ends, true)]);
    Err(problem.to_owned())
}

impl Record {
    fn session(
        self,
        ticket: Ticket,
        (peer, target): (Stream, Stream),
        held: &mut HashMap<Owner, Held>,
    ) -> Session {
        let mut flow = |number: usize| {
            let held = held.remove(&Owner::flow(ticket, number == 0));
            let delivered = self.delivered_bytes[number];
            Flow::restore(self.states[number], delivered, held.unwrap_or_default())
        };
        let flows = (flow(0), flow(1));
        // The error may have been told to a process that was killed before it could write it down. A connection that is
        // over, though its end was not sent, has failed.
        let unseen = |stream: &Stream, sent: State| {
            (sent == State::Open && stream.is_dead()).then_some(Errno::ECONNRESET)
        };
        let end = |stream: Stream, failure: Option<Errno>, sent: State| End {
            failure: failure.or_else(|| unseen(&stream, sent)),
            ..End::new(stream)
        };
        let [inbound, outbound] = self.states;
        let ends = (
            end(peer, self.failures[0], outbound),
            end(target, self.failures[1], inbound),
        );
        let connection = Connection::restore(ends, flows, self.header_bytes, self.active);
        Session::restore(connection, self.peer, self.started, ticket)
    }
}

/// Makes a stream of a socket that was handed over, by whichever process.
fn stream(socket: OwnedFd, tuning: &Tuning) -> Option<Stream> {
    let family = Family::of(&sys::local_address(socket.as_fd()).ok()?)?;
    let far = sys::peer_address(socket.as_fd()).ok();
    let far = far.and_then(|address| Peer::new(socket.as_fd(), &address));
    let cid = far.and_then(|far| far.cid());
    let stream = tuning.limit_writes(Stream::socket(socket, family), cid);
    stream.reset_on_close(true);
    Some(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::sys::epoll::EpollFlags;

    use super::*;
    use crate::clock::Moment;
    use crate::connect::Dialer;
    use crate::relay::flow::Tools;
    use crate::relay::record::{PEER, STATES, set};
    use crate::relay::token::Side;

    const PEER_NAME: Peer = Peer::Unix(Some(7));

    /// A kept session, and the far ends of its peer and its target.
    fn session(store: &Store) -> (Session, UnixStream, UnixStream) {
        let (client, peer) = UnixStream::pair().unwrap();
        let (server, target) = UnixStream::pair().unwrap();
        let stream = |own: UnixStream| Stream::passed(own.into(), Family::Unix).unwrap();
        let mut session = Session::relay(stream(peer), PEER_NAME, stream(target), Moment::now());
        session.keep(store).unwrap();
        (session, client, server)
    }

    /// Lets the session go on with what its peer has sent.
    fn advance(session: &mut Session, store: &Arc<Store>) {
        session.note(Side::Peer, EpollFlags::EPOLLIN);
        let mut tools = Tools::new(store.clone());
        session.advance(&Dialer::to_nobody(), &mut tools, Moment::now(), &mut |_| {
            Ok(())
        });
    }

    /// What the next process makes of what this one has left.
    fn next(store: &Store) -> (Arc<Store>, Vec<Result<Restored, String>>) {
        let (store, inherited) = Store::adopt(store.stored(), usize::MAX).unwrap();
        let store = Arc::new(store);
        let restored = restore(&store, inherited, &Dialer::to_nobody().tuning);
        (store, restored)
    }

    fn relaying(restored: Result<Restored, String>) -> Box<Session> {
        match restored.unwrap() {
            Restored::Relaying(session) => session,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_session_goes_on_with_the_bytes_that_it_holds() {
        go_on(Store::with_queues());
    }

    /// Twice: the next process keeps the layout, and whoever is next after it may be an older one again.
    #[test]
    fn a_session_goes_on_whatever_the_layout_of_the_process_before_is() {
        go_on(Store::with_queues_of_another_layout());
        let (store, _) = next(&Store::with_queues_of_another_layout());
        go_on(Arc::into_inner(store).unwrap());
    }

    fn go_on(store: Store) {
        let store = Arc::new(store);
        let (mut old, mut client, mut server) = session(&store);
        // The target takes no more than its buffer has room for; the rest of a read stays with the flow.
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let sent = data.clone();
        let sender = std::thread::spawn(move || client.write_all(&sent));
        while old.connection().unwrap().flows().0.held_bytes() == 0 {
            advance(&mut old, &store);
        }
        let before = old.connection().unwrap().delivered_bytes();
        let (store, mut restored) = next(&store);
        let mut new = relaying(restored.pop().unwrap());
        assert_eq!((new.peer, new.started), (old.peer, old.started));
        assert_eq!(new.connection().unwrap().delivered_bytes(), before);
        let mut arrived = vec![0; data.len()];
        let receiver = std::thread::spawn(move || {
            server.read_exact(&mut arrived).unwrap();
            arrived
        });
        while !receiver.is_finished() {
            new.note(Side::Target, EpollFlags::EPOLLOUT);
            advance(&mut new, &store);
        }
        assert!(receiver.join().unwrap() == data);
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn a_closed_session_leaves_nothing() {
        let store = Arc::new(Store::with_queues());
        let (old, mut client, _server) = session(&store);
        let (_, parting) = old.close(super::super::Ending::Complete, Moment::now());
        parting::close(&store, parting.into_iter().collect());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(next(&store).1.is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_read_costs_only_its_own_session() {
        let store = Arc::new(Store::with_queues());
        let (first, mut client, _server) = session(&store);
        let (_second, _client, _other) = session(&store);
        let ticket = Ticket {
            index: 0,
            generation: std::num::NonZeroU32::MIN,
        };
        set(store.ledger(), ticket, STATES, 0xff);
        let (next_store, restored) = next(&store);
        drop((first, store));
        let (readable, unreadable): (Vec<_>, Vec<_>) =
            restored.into_iter().partition(Result::is_ok);
        assert_eq!((readable.len(), unreadable.len()), (1, 1));
        let problem = unreadable[0].as_ref().unwrap_err();
        assert_eq!(problem, "its record cannot be read");
        // Nobody waits for what never comes, and the next process finds it no more.
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(next(&next_store).1.len(), 1);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..Default::default()
        })]

        /// Whatever a damaged ledger says, a session is gone on with or refused, and its bytes are no others.
        #[test]
        fn any_words_make_a_session_or_none(
            words in proptest::array::uniform9(proptest::num::u64::ANY),
            kinds in proptest::array::uniform3(0..6u64),
        ) {
            let store = Arc::new(Store::with_queues());
            let (_old, _client, _server) = session(&store);
            let ticket = Ticket {
                index: 0,
                generation: std::num::NonZeroU32::MIN,
            };
            for (number, word) in words.into_iter().enumerate() {
                set(store.ledger(), ticket, number, word);
            }
            // Else hardly one would be readable.
            let [kind, inbound, outbound] = kinds;
            set(store.ledger(), ticket, PEER[0], kind << 32 | words[0] & 0xffff_ffff);
            set(store.ledger(), ticket, STATES, words[7] << 16 | outbound << 8 | inbound);
            let (store, mut restored) = next(&store);
            proptest::prop_assert_eq!(restored.len(), 1);
            if let Some(Ok(Restored::Relaying(mut session))) = restored.pop() {
                advance(&mut session, &store);
            }
        }
    }
}
