//! Sessions made of what another process has left.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::handover::{Inherited, Kept, Owner, Store};
use crate::peer::{Family, Peer};
use crate::relay::closing::{self, Closing};
use crate::relay::connection::Connection;
use crate::relay::end::End;
use crate::relay::flow::{Flow, Held, State};
use crate::relay::pipes::Pipe;
use crate::relay::record::{Record, read_greeted, read_peer};
use crate::relay::session::{Arrival, Session};
use crate::stream::{Stream, Tuning};
use crate::sys;

/// A session that another process has left.
#[derive(Debug)]
pub(crate) enum Restored {
    /// It goes on where it was.
    Relaying(Box<Session>),
    /// Its target is to be connected.
    Connecting(Arrival),
}

/// Makes sessions of what another process has left; of one that cannot be gone on with, it tells what is wrong with it.
pub(crate) fn restore(
    store: &Arc<Store>,
    inherited: Inherited,
    tuning: &Tuning,
) -> Vec<Result<Restored, String>> {
    let mut held: HashMap<Owner, Held> = HashMap::new();
    for (owner, buffer) in inherited.buffers {
        held.insert(owner, Held::Copied(buffer));
    }
    for (kept, descriptors) in inherited.pipes {
        held.extend(
            Pipe::adopt(store, kept, descriptors).map(|(owner, pipe)| (owner, Held::Piped(pipe))),
        );
    }
    let mut sessions = Vec::new();
    for (kept, descriptors) in inherited.connections {
        let streams = streams(descriptors, tuning);
        sessions.push(restore_connection(store, kept, streams, &mut held));
    }
    for (kept, descriptors) in inherited.peers {
        sessions.push(restore_peer(store, kept, streams(descriptors, tuning)));
    }
    sessions
}

const UNREADABLE: &str = "its record cannot be read";
const MISSING: &str = "a descriptor is missing, or is no socket";

fn restore_connection(
    store: &Store,
    kept: Kept,
    streams: Vec<Stream>,
    held: &mut HashMap<Owner, Held>,
) -> Result<Restored, String> {
    match (Record::read(kept.words()), <[Stream; 2]>::try_from(streams)) {
        (Some(record), Ok(ends)) => {
            let session = record.session(kept, ends, held);
            Ok(Restored::Relaying(Box::new(session)))
        }
        (None, Ok(ends)) => abort(store, kept, ends.into(), UNREADABLE),
        (_, Err(streams)) => abort(store, kept, streams, MISSING),
    }
}

/// It is kept anew, as a connection, when its target is connected.
fn restore_peer(store: &Store, kept: Kept, streams: Vec<Stream>) -> Result<Restored, String> {
    match (read_peer(kept.words()), <[Stream; 1]>::try_from(streams)) {
        (Some((peer, _)), Ok([stream])) => Ok(Restored::Connecting(Arrival {
            destination: stream.destination(),
            stream,
            peer,
            has_greeted: read_greeted(kept.words()),
        })),
        (None, Ok(stream)) => abort(store, kept, stream.into(), UNREADABLE),
        (_, Err(streams)) => abort(store, kept, streams, MISSING),
    }
}

fn abort(
    store: &Store,
    kept: Kept,
    streams: Vec<Stream>,
    problem: &str,
) -> Result<Restored, String> {
    let ends = streams.into_iter().map(End::new).collect();
    closing::close(store, vec![Closing::new(kept, ends, true)]);
    Err(problem.to_owned())
}

fn streams(descriptors: Vec<OwnedFd>, tuning: &Tuning) -> Vec<Stream> {
    let sockets = descriptors.into_iter();
    sockets
        .filter_map(|socket| stream(socket, tuning))
        .collect()
}

impl Record {
    fn session(
        self,
        kept: Kept,
        [peer, target]: [Stream; 2],
        held: &mut HashMap<Owner, Held>,
    ) -> Session {
        let mut flow = |number: usize| {
            let held = held.remove(&kept.words().flow(number == 0));
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
        Session::restore(connection, self.peer, self.started, kept)
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
    use crate::accounting::Ending;
    use crate::clock::Moment;
    use crate::connect::Dialer;
    use crate::handover::Words;
    use crate::peer::Side;
    use crate::relay::record::{PEER, STATES};
    use crate::relay::shared::Shared;

    const PEER_NAME: Peer = Peer::Unix(Some(7));

    /// A kept session, and the far ends of its peer and its target.
    fn session(store: &Arc<Store>) -> (Session, UnixStream, UnixStream) {
        let (client, peer) = UnixStream::pair().unwrap();
        let (server, target) = UnixStream::pair().unwrap();
        let stream = |own: UnixStream| Stream::passed(own.into(), Family::Unix).unwrap();
        let mut session = Session::relay(stream(peer), PEER_NAME, stream(target), Moment::now());
        session.keep(store).unwrap();
        (session, client, server)
    }

    fn words_of(session: &Session) -> Words<'_> {
        session.kept().unwrap().words()
    }

    /// Lets the session go on with what its peer has sent.
    fn advance(session: &mut Session, store: &Arc<Store>) {
        session.on_events(Side::Peer, EpollFlags::EPOLLIN);
        let mut shared = Shared::new(store.clone());
        let _ = session.advance(
            &Dialer::to_nobody(),
            &mut shared,
            Moment::now(),
            &mut |_| Ok(()),
        );
    }

    /// What the next process makes of what this one has left.
    fn next(store: &Store) -> (Arc<Store>, Vec<Result<Restored, String>>) {
        let (store, inherited) = Store::adopt(store.stored(), usize::MAX).unwrap();
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
        go_on(store);
    }

    fn go_on(store: Arc<Store>) {
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
            new.on_events(Side::Target, EpollFlags::EPOLLOUT);
            advance(&mut new, &store);
        }
        assert!(receiver.join().unwrap() == data);
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn a_closed_session_leaves_nothing() {
        let store = Store::with_queues();
        let (old, mut client, _server) = session(&store);
        let target = None;
        let (_, closing) = old.close(Ok(Ending::Complete), target, Moment::now());
        closing::close(&store, closing.into_iter().collect());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(next(&store).1.is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_read_costs_only_its_own_session() {
        let store = Store::with_queues();
        let (first, mut client, _server) = session(&store);
        let (_second, _client, _other) = session(&store);
        words_of(&first).set(STATES, 0xff);
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
            let store = Store::with_queues();
            let (old, _client, _server) = session(&store);
            let record = words_of(&old);
            for (number, word) in words.into_iter().enumerate() {
                record.set(number, word);
            }
            // Else hardly one would be readable.
            let [kind, inbound, outbound] = kinds;
            record.set(PEER[0], kind << 32 | words[0] & 0xffff_ffff);
            record.set(STATES, words[7] << 16 | outbound << 8 | inbound);
            let (store, mut restored) = next(&store);
            proptest::prop_assert_eq!(restored.len(), 1);
            if let Some(Ok(Restored::Relaying(mut session))) = restored.pop() {
                advance(&mut session, &store);
            }
        }
    }
}
