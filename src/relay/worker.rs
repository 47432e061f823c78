//! The sessions of one thread and what moves them: an epoll instance, deadlines, buffer and pipes.
//!
//! The main loop has one for all that is new, and each thread beside it has one. Whoever owns a worker waits with its
//! epoll ([`round`](super::round)), and collects what is over.

mod aging;
mod leaving;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::closing::{self, Closing};
use super::connection::Limits;
use super::end::Interest;
use super::flow::Turn;
use super::session::{Arrival, Session};
use super::sessions::Sessions;
use super::shared::Shared;
use super::token::{Key, Token};
use crate::accounting::snapshot::Entry;
use crate::accounting::{Closed, Ending};
use crate::clock::Moment;
use crate::connect::{Caller, Dialer, Queues};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::handover::Store;
use crate::peer::{Destination, Side};
use crate::stream::Stream;

/// Sessions, and the means to move them on.
#[derive(Debug)]
pub(crate) struct Worker {
    epoll: Epoll,
    sessions: Sessions,
    shared: Shared,
    dialer: Arc<Dialer>,
    /// Those that wait for room, by the number of their target.
    queues: Queues,
    limits: Limits,
    closed: Vec<Closed>,
    /// Sockets of those that are over and were kept, which are closed together.
    closings: Vec<Closing>,
    /// Those that move much; none where they may stay.
    bulk: Option<Vec<Key>>,
    /// Those whose machine has answered, and names are to be read once more.
    reached: Vec<Key>,
    /// When old sessions are looked at.
    next_check: Option<Moment>,
    /// When pipes go that nobody has used.
    next_trim: Option<Moment>,
}

impl Worker {
    /// Begins without sessions. `keeps_bulk`: those that move much stay here.
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        store: Arc<Store>,
        limits: Limits,
        keeps_bulk: bool,
    ) -> Result<Worker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(Error::system("create an epoll instance"))?;
        Ok(Worker {
            epoll,
            sessions: Sessions::default(),
            shared: Shared::new(store),
            queues: Queues::new(dialer.targets.count()),
            dialer,
            limits,
            closed: Vec::new(),
            closings: Vec::new(),
            bulk: (!keeps_bulk).then(Vec::new),
            reached: Vec::new(),
            next_check: None,
            next_trim: None,
        })
    }

    /// Returns the epoll instance, to watch other things with.
    pub(crate) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Waits for events, and returns how many there are.
    pub(crate) fn wait(&self, events: &mut [EpollEvent], timeout: EpollTimeout) -> Result<usize> {
        match self.epoll.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(Error::system("wait for events")(errno)),
        }
    }

    pub(crate) fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    /// Dials in another way from now on. Those that dial now have their turn at once: their target may be elsewhere.
    pub(crate) fn set_dialer(&mut self, dialer: Arc<Dialer>) {
        self.dialer = dialer;
        for key in (self.sessions).keys_of(|session| session.connection().is_none()) {
            self.sessions.queue(key);
        }
    }

    /// Returns whether machines have answered that may have lost their names; see [`Worker::confirm`].
    pub(crate) fn has_reached(&self) -> bool {
        !self.reached.is_empty()
    }

    /// Goes on with those whose machines have answered, now that names were read after that.
    pub(crate) fn confirm(&mut self, now: Moment) {
        for key in std::mem::take(&mut self.reached) {
            if let Some(session) = self.sessions.get(key) {
                session.confirm();
                self.advance(key, now);
            }
        }
    }

    /// Returns what keeps connections for the next process.
    pub(crate) fn store(&self) -> &Arc<Store> {
        self.shared.store()
    }

    pub(crate) fn open(&self) -> usize {
        self.sessions.count()
    }

    /// Begins to connect to the target on behalf of a peer.
    pub(crate) fn begin(&mut self, arrival: Arrival, now: Moment) {
        let (peer, destination) = (arrival.peer, arrival.destination);
        let key = self.sessions.next_key();
        let (stream, token) = (&arrival.stream, Token::Session(key, Side::Peer));
        let session = match Interest::connected(stream.family()).add(&self.epoll, stream, token) {
            Ok(()) => {
                let caller = |target: usize| Caller {
                    queue: self.queues.of(target),
                    name: Token::Session(key, Side::Target).pack(),
                };
                Session::begin(arrival, (&self.dialer, caller), now)
            }
            Err(error) => {
                arrival.stream.abort();
                Err(error)
            }
        };
        match session {
            Ok(session) => {
                self.sessions.insert(session);
                self.check_later(now);
                self.advance(key, now);
            }
            Err(error) => {
                let target = self.dialer.target_of(&peer, destination);
                let closed = Closed::new(peer, target, Err(error), Duration::ZERO);
                self.closed.push(closed);
            }
        }
    }

    /// Takes a session of the process before, whose target is reached.
    pub(crate) fn take_over(&mut self, mut session: Session, now: Moment) {
        session.recall(&self.dialer);
        self.adopt(session, now);
    }

    /// Takes a session whose target is reached, from the outside or from another worker.
    pub(crate) fn adopt(&mut self, mut session: Session, now: Moment) {
        let key = self.sessions.next_key();
        let watched = session.connection().map_or(Ok(()), |connection| {
            let (peer, target) = connection.ends();
            for (end, side) in [(peer, Side::Peer), (target, Side::Target)] {
                (end.interest).add(&self.epoll, &end.wire, Token::Session(key, side))?;
            }
            Ok(())
        });
        if let Err(error) = watched {
            return self.end(session, Err(error), now);
        }
        // What was ready before is reported to the new epoll instance, but for a file, which always is.
        session.on_events(Side::Peer, EpollFlags::EPOLLIN);
        session.is_queued = false;
        self.sessions.insert(session);
        self.sessions.queue(key);
        self.sessions.arm(key, &self.limits);
        self.check_later(now);
    }

    /// Takes over what epoll reported of a session, and gives it its turn.
    pub(crate) fn on_events(&mut self, key: Key, side: Side, events: EpollFlags, now: Moment) {
        if let Some(session) = self.sessions.get(key) {
            session.on_events(side, events);
            // Those in the ring have their turn anyway.
            if !session.is_queued {
                self.advance(key, now);
            }
        }
    }

    /// Gives their turn to those whose deadline has passed, and to those in the ring.
    pub(crate) fn turn(&mut self, now: Moment) {
        let queued = self.sessions.queued();
        while let Some(key) = self.sessions.woken(now) {
            self.wake(key, now);
        }
        for _ in 0..queued {
            if let Some(key) = self.sessions.unqueue() {
                self.advance(key, now);
            }
        }
        if self.next_check.is_some_and(|at| at <= now) {
            self.check_old(now);
        }
        // One for each round while room is short, so that a target with much room for them delays nobody else.
        let called = self.queues.take_called();
        self.call(called);
        self.trim_pipes(now);
        self.close_kept();
    }

    /// Returns how long its owner may wait for events, and no longer than until `other`.
    pub(crate) fn timeout(&self, other: Option<Moment>, now: Moment) -> EpollTimeout {
        if self.sessions.queued() > 0 || self.has_reached() {
            return EpollTimeout::ZERO;
        }
        let deadlines = [
            self.sessions.deadline(),
            self.next_check,
            self.next_trim,
            other,
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        // Rounded up, so that the deadline has passed at the wake-up.
        let left = (next - now).as_micros();
        EpollTimeout::try_from(left.div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
    }

    /// Gives those their turn whose answers have come.
    pub(crate) fn call(&mut self, names: Vec<u64>) {
        for name in names {
            if let Token::Session(key, _) = Token::unpack(name) {
                self.sessions.queue(key);
            }
        }
    }

    pub(crate) fn take_closed(&mut self) -> impl Iterator<Item = Closed> + use<> {
        std::mem::take(&mut self.closed).into_iter()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let entry = |session: &Session| session.entry(self.target_of(session));
        self.sessions.iter().map(entry).collect()
    }

    /// Closes all, because the program stops.
    pub(crate) fn close_all(&mut self, now: Moment) {
        let sessions: Vec<Session> = self.sessions.drain().collect();
        for session in sessions {
            self.end(session, Ok(Ending::Stopped), now);
        }
        self.close_kept();
    }

    fn close_kept(&mut self) {
        closing::close(self.shared.store(), std::mem::take(&mut self.closings));
    }

    fn advance(&mut self, key: Key, now: Moment) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let epoll = &self.epoll;
        let mut watch = |stream: &Stream| {
            let interest = Interest::connecting(stream.family());
            interest.add(epoll, stream, Token::Session(key, Side::Target))
        };
        match session.advance(&self.dialer, &mut self.shared, now, &mut watch) {
            ControlFlow::Continue(Turn::Waiting) => {}
            ControlFlow::Continue(Turn::Yielded) => self.sessions.queue(key),
            ControlFlow::Continue(Turn::Reached) => self.reached.push(key),
            ControlFlow::Break(result) => return self.close(key, result, now),
        }
        if let Err(error) = self.update_interest(key) {
            return self.close(key, Err(error), now);
        }
        self.sort(key, now);
        self.sessions.arm(key, &self.limits);
    }

    /// Asks epoll for what follows from the state of both ends, where that has changed.
    fn update_interest(&mut self, key: Key) -> Result<()> {
        let session = self.sessions.get(key);
        let Some(connection) = session.and_then(Session::connection_mut) else {
            return Ok(());
        };
        for side in [Side::Peer, Side::Target] {
            let wanted = connection.wanted(side);
            let end = connection.end_mut(side);
            if wanted != end.interest {
                wanted.modify(&self.epoll, &end.wire, Token::Session(key, side))?;
                end.interest = wanted;
            }
        }
        Ok(())
    }

    /// Sees which connections are for other threads, and which are to be looked at when they are old.
    fn sort(&mut self, key: Key, now: Moment) {
        let session = self.sessions.get(key);
        let Some(connection) = session.and_then(|session| session.connection()) else {
            return;
        };
        if let (true, Some(bulk)) = (connection.is_bulk(), &mut self.bulk) {
            bulk.push(key);
        }
        if connection.is_owing() {
            self.check_later(now);
        }
    }

    /// Looks at a session whose deadline may have passed.
    fn wake(&mut self, key: Key, now: Moment) {
        let session = self.sessions.get(key);
        let connection = session.and_then(Session::connection_mut);
        match connection.and_then(|connection| connection.expired(&self.limits, now)) {
            Some(ending) => self.close(key, Ok(ending), now),
            None => self.advance(key, now),
        }
    }

    fn close(&mut self, key: Key, result: Result<Ending>, now: Moment) {
        if let Some(session) = self.sessions.remove(key) {
            self.end(session, result, now);
        }
    }

    fn end(&mut self, session: Session, result: Result<Ending>, now: Moment) {
        let target = self.target_of(&session);
        let via = |target: &Endpoint| self.dialer.gone_through(target, || session.reached());
        let via = (target.as_ref())
            .filter(|_| session.errand().is_none() && session.connection().is_some())
            .and_then(via);
        let (mut closed, closing) = session.close(result, target, now);
        closed.via = via.map(Box::new);
        self.closings.extend(closing);
        self.closed.push(closed);
    }

    /// Returns where a session goes. Its peer's socket is asked where that has connected to, if it follows from that.
    fn target_of(&self, session: &Session) -> Option<Endpoint> {
        if let Some(errand) = session.errand() {
            return Some(errand.asked.clone());
        }
        let destination = match self.dialer.targets.follow_destination() {
            true => session.destination(),
            false => Destination::Unnamed,
        };
        // There is none for what an earlier process has connected, with other settings.
        let target = self.dialer.target_of(&session.peer, destination);
        let is_told = matches!(target, Some(Endpoint::Gateway | Endpoint::Inbound));
        let is_fixed = !is_told && !self.dialer.targets.follow_names();
        if target.is_some() && is_fixed {
            return target;
        }
        match (session.reached(), target) {
            // The socket has no port, since that was in the line of hybrid vsock.
            (Some(Endpoint::Unix(socket)), Some(Endpoint::Mux { path, port }))
                if socket == path =>
            {
                Some(Endpoint::Mux { path, port })
            }
            (reached, Some(target))
                if (self.dialer.gone_through(&target, || reached.clone())).is_some() =>
            {
                Some(target)
            }
            (reached, target) => reached.or(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv6Addr, Shutdown, TcpListener};
    use std::os::unix::net::UnixStream;

    use nix::sys::epoll::EpollEvent;

    use super::*;
    use crate::connect::{Inbound, Targets};
    use crate::known::Known;
    use crate::names::{GivenNames, Names};
    use crate::peer::{Family, Peer};
    use crate::proxy_protocol;
    use crate::registry::Registry;
    use crate::relay::token::Token;
    use crate::serve::restore::{Restored, restore};
    use crate::vsock::{Cid, VsockAddr};

    /// Lets the worker go on until nothing is reported; tells how many events there were.
    fn settle(worker: &mut Worker) -> usize {
        let mut events = [EpollEvent::empty(); 8];
        let mut total = 0;
        loop {
            worker.turn(Moment::now());
            let count = worker.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
            for event in &events[..count] {
                if let Token::Session(key, side) = Token::unpack(event.data()) {
                    worker.on_events(key, side, event.events(), Moment::now());
                }
            }
            total += count;
            if count == 0 && worker.sessions.queued() == 0 {
                return total;
            }
        }
    }

    #[test]
    fn bytes_for_a_full_target_wake_nobody_up_and_arrive_when_it_has_room() {
        let (mut client, peer) = UnixStream::pair().unwrap();
        let (mut server, target) = UnixStream::pair().unwrap();
        let stream = |own: UnixStream| Stream::passed(own.into(), Family::Unix).unwrap();
        let now = Moment::now();
        let store = Store::private().unwrap();
        let dialer = Arc::new(Dialer::to_nobody());
        let mut worker = Worker::new(dialer, store, Limits::default(), true).unwrap();
        worker.adopt(
            Session::relay(stream(peer), Peer::Unix(Some(7)), stream(target), now),
            now,
        );
        client.set_nonblocking(true).unwrap();
        server.set_nonblocking(true).unwrap();
        settle(&mut worker);

        let mut sent = Vec::new();
        for number in 0.. {
            let piece = [number as u8; 4096];
            // Whoever is woken up by each piece fails here, once nothing takes them any more.
            client.write_all(&piece).unwrap();
            sent.extend(piece);
            if settle(&mut worker) == 0 {
                break;
            }
        }

        let (mut arrived, mut part) = (Vec::<u8>::new(), vec![0; 65536]);
        while let Ok(count) = server.read(&mut part) {
            arrived.extend(&part[..count]);
            settle(&mut worker);
        }
        assert!(arrived == sent, "{} of {}", arrived.len(), sent.len());
        client.write_all(b"more").unwrap();
        settle(&mut worker);
        server.read_exact(&mut part[..4]).unwrap();
    }

    /// One that the kernel calls the host, which brings machines to ports of this one.
    fn inbound(limit: usize) -> Worker {
        let (registry, names) = (Registry::default(), GivenNames::from(Names::default()));
        let known = Known::with(Some(&names), &registry);
        let targets = Targets::resolve(&"inbound".parse().unwrap(), &[], &known).unwrap();
        let dialer = Arc::new(Dialer {
            targets,
            inbound: Some(Arc::new(Inbound::new(limit))),
            timeout: Duration::from_secs(60),
            ..Dialer::to_nobody()
        });
        let store = Store::private().unwrap();
        Worker::new(dialer, store, Limits::default(), true).unwrap()
    }

    /// Comes as the machine with that CID to the kernel.
    fn come(worker: &mut Worker, cid: u32) -> UnixStream {
        let (client, peer) = UnixStream::pair().unwrap();
        let arrival = Arrival {
            stream: Stream::passed(peer.into(), Family::Unix).unwrap(),
            peer: Peer::Vsock(machine(cid)),
            destination: Destination::Unnamed,
            has_greeted: false,
        };
        worker.begin(arrival, Moment::now());
        client
    }

    fn machine(cid: u32) -> VsockAddr {
        VsockAddr {
            cid: Cid::new(cid),
            port: 1024u16.into(),
        }
    }

    fn header(cid: u32, port: u16) -> Vec<u8> {
        let prefix = "fd00:abcd:ef12::/64".parse().unwrap();
        let to = (Ipv6Addr::LOCALHOST, port).into();
        proxy_protocol::of_machine(&machine(cid), to, prefix)
    }

    fn reasons(worker: &mut Worker) -> Vec<String> {
        let reason = |closed: Closed| match closed.result {
            Ok(ending) => ending.to_string(),
            Err(error) => error.report(),
        };
        worker.take_closed().map(reason).collect()
    }

    #[test]
    fn the_host_brings_a_machine_it_is_that_machine_and_the_port_has_what_is_behind_the_header() {
        let server = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let mut worker = inbound(10);
        let mut client = come(&mut worker, 2);
        let bytes = [
            &header(3, server.local_addr().unwrap().port())[..],
            b"SELECT 1",
        ]
        .concat();
        for byte in &bytes {
            client.write_all(&[*byte]).unwrap();
            settle(&mut worker);
        }
        let (mut stream, _) = server.accept().unwrap();
        settle(&mut worker);
        let mut found = [0; 8];
        stream.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"SELECT 1");
        stream.write_all(b"answer").unwrap();
        settle(&mut worker);
        let mut found = [0; 6];
        client.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"answer");
        let [entry] = &worker.entries()[..] else {
            panic!("not one")
        };
        assert_eq!(entry.peer.to_string(), "vsock:3:1024");
        let target = entry.target.as_ref().unwrap().to_string();
        assert_eq!(target, server.local_addr().unwrap().to_string());
    }

    #[test]
    fn who_is_not_the_host_or_says_nothing_right_is_refused_and_nothing_is_connected_to() {
        let server = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        server.set_nonblocking(true).unwrap();
        let good = header(5, server.local_addr().unwrap().port());
        for (cid, bytes, words) in [
            (3, &good[..], "from the gateway of the host alone"),
            (1, &good, "from the gateway of the host alone"),
            (2, b"SSH-2.0", "no PROXY header"),
            (2, &good[..30], "has ended in the middle"),
            (2, b"", "Broken pipe"),
        ] {
            let mut worker = inbound(10);
            let mut client = come(&mut worker, cid);
            // Who is not the host is not even heard.
            let _ = client.write_all(bytes);
            let _ = client.shutdown(Shutdown::Write);
            settle(&mut worker);
            let closed: Vec<Closed> = worker.take_closed().collect();
            assert_eq!(closed.len(), 1, "{closed:?}");
            assert_eq!(closed[0].who().cid(), Cid::new(cid), "{words}");
            let told = (closed[0].result.as_ref()).map_or_else(Error::report, Ending::to_string);
            assert!(told.contains(words), "{told}");
            assert!(server.accept().is_err(), "{words}");
        }
    }

    #[test]
    fn a_machine_has_all_its_places_others_have_theirs() {
        let server = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let mut worker = inbound(1);
        let mut open = Vec::new();
        for (cid, is_in) in [(3, true), (3, false), (4, true)] {
            let mut client = come(&mut worker, 2);
            client.write_all(&header(cid, port)).unwrap();
            settle(&mut worker);
            let reasons = reasons(&mut worker);
            assert_eq!(reasons.is_empty(), is_in, "{cid}: {reasons:?}");
            open.push(client);
        }
        drop(open);
        settle(&mut worker);
        drop((server.accept(), server.accept()));
        settle(&mut worker);
        reasons(&mut worker);
        let mut client = come(&mut worker, 2);
        client.write_all(&header(3, port)).unwrap();
        settle(&mut worker);
        assert_eq!(reasons(&mut worker), [""; 0]);
    }

    #[test]
    fn the_next_process_knows_who_was_brought_where_and_has_no_more_places_for_them() {
        let server = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let place = server.local_addr().unwrap();
        let mut before = Worker {
            shared: Shared::new(Store::with_queues()),
            ..inbound(1)
        };
        let mut client = come(&mut before, 2);
        client.write_all(&header(3, place.port())).unwrap();
        settle(&mut before);
        let (stream, _) = server.accept().unwrap();
        settle(&mut before);
        assert!(before.keep_all(Moment::now()).is_empty());

        let (store, inherited) = Store::adopt(before.store().stored(), usize::MAX).unwrap();
        before.store().freeze();
        before.forget_all();
        let tuning = before.dialer().tuning;
        let mut worker = Worker {
            shared: Shared::new(store.clone()),
            ..inbound(1)
        };
        for restored in restore(&store, inherited, &tuning) {
            match restored.unwrap() {
                Restored::Relaying(session) => worker.take_over(*session, Moment::now()),
                Restored::Connecting(_) => panic!("it was connected"),
            }
        }
        assert_eq!(
            worker.dialer.inbound.as_ref().unwrap().machines(),
            [(Cid::new(3).unwrap(), 1)]
        );
        let mut other = come(&mut worker, 2);
        other.write_all(&header(3, place.port())).unwrap();
        settle(&mut worker);
        let reasons = reasons(&mut worker);
        assert!(
            reasons.len() == 1 && reasons[0].contains("--max-connections-per-peer=1"),
            "{reasons:?}"
        );

        drop((client, stream));
        settle(&mut worker);
        let closed: Vec<Closed> = worker.take_closed().collect();
        let told: Vec<String> = (closed.iter())
            .map(|closed| format!("{} to {}", closed.who(), closed.target.as_ref().unwrap()))
            .collect();
        assert_eq!(told, [format!("vsock:3:1024 to {place}")]);
        drop(closed);
        assert_eq!(worker.dialer.inbound.as_ref().unwrap().machines(), []);
    }
}
