//! Ends that fail: over TCP a reset on one side is a reset on the other, and what was delivered before is intact.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use crate::common::content::{Content, End, read_to_end};
use crate::common::eventually;
use crate::common::pair::{each_mode, each_pair};
use crate::common::place::{Kind, reset};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;

const COUNT: u64 = 100_003;

/// What the other side of an abort reads: unix sockets know no reset.
fn end_of_abort(kind: Kind) -> End {
    match kind.is_tcp() {
        true => End::Reset,
        false => End::Clean,
    }
}

fn each_tcp_peer(test: impl Fn(crate::common::pair::Pair)) {
    each_pair(|pair| {
        if pair.ends.listener.kind.is_tcp() {
            test(pair);
        }
    });
}

fn each_tcp_target(test: impl Fn(crate::common::pair::Pair)) {
    each_pair(|pair| {
        if pair.ends.target.kind.is_tcp() {
            test(pair);
        }
    });
}

#[test]
fn client_sends_and_resets_server_gets_the_bytes_and_a_reset() {
    let content = Content::new(21);
    each_tcp_peer(|pair| {
        let (mut client, mut server, ends) = pair.split();
        content.send(&mut client, COUNT);
        content.expect(&mut server, COUNT);
        reset(client);
        let end = end_of_abort(ends.target.kind);
        assert_eq!(read_to_end(&mut server), (vec![], end));
        let summary = ends.summary();
        assert!(
            summary.ending.starts_with("aborted by the peer: "),
            "{summary:?}"
        );
        assert_eq!(summary.inbound_bytes, COUNT);
    });
}

#[test]
fn server_sends_and_resets_client_gets_the_bytes_and_a_reset() {
    let content = Content::new(22);
    each_tcp_target(|pair| {
        let (mut client, mut server, ends) = pair.split();
        content.send(&mut server, COUNT);
        content.expect(&mut client, COUNT);
        reset(server);
        let end = end_of_abort(ends.listener.kind);
        assert_eq!(read_to_end(&mut client), (vec![], end));
        let summary = ends.summary();
        assert!(
            summary.ending.starts_with("aborted by the target: "),
            "{summary:?}"
        );
        assert_eq!(summary.outbound_bytes, COUNT);
    });
}

#[test]
fn client_resets_in_the_middle_server_gets_an_intact_prefix_and_a_reset() {
    let content = Content::new(23);
    each_tcp_peer(|pair| {
        let (client, mut server, ends) = pair.split();
        let end = thread::scope(|scope| {
            let reader = scope.spawn(|| content.expect_prefix(&mut server));
            content.send(&mut &client, 5 << 20);
            reset(client);
            reader.join().unwrap().1
        });
        assert_eq!(end, end_of_abort(ends.target.kind));
    });
}

#[test]
fn server_resets_in_the_middle_client_gets_an_intact_prefix_and_a_reset() {
    let content = Content::new(24);
    each_tcp_target(|pair| {
        let (mut client, server, ends) = pair.split();
        let end = thread::scope(|scope| {
            let reader = scope.spawn(|| content.expect_prefix(&mut client));
            content.send(&mut &server, 5 << 20);
            reset(server);
            reader.join().unwrap().1
        });
        assert_eq!(end, end_of_abort(ends.listener.kind));
    });
}

/// The bridge may learn of the reset by a failed write; the error is then no longer there for the read.
#[test]
fn server_resets_with_bytes_for_it_on_the_way_client_sees_no_clean_end() {
    let (there, back) = (Content::new(25), Content::new(26));
    each_tcp_target(|pair| {
        let (mut client, mut server, ends) = pair.split();
        there.fill(&client);
        back.send(&mut server, 1000);
        reset(server);
        // Over unix sockets, too: the bridge closes with bytes unread.
        assert_eq!(back.expect_prefix(&mut client).1, End::Reset);
        let summary = ends.summary();
        assert!(
            summary.ending.starts_with("aborted by the target: "),
            "{summary:?}"
        );
    });
}

#[test]
fn client_resets_with_bytes_for_it_on_the_way_server_sees_no_clean_end() {
    let (there, back) = (Content::new(27), Content::new(28));
    each_tcp_peer(|pair| {
        let (mut client, mut server, ends) = pair.split();
        back.fill(&server);
        there.send(&mut client, 1000);
        reset(client);
        assert_eq!(there.expect_prefix(&mut server).1, End::Reset);
        let summary = ends.summary();
        assert!(
            summary.ending.starts_with("aborted by the peer: "),
            "{summary:?}"
        );
    });
}

/// Nothing more is to be read from the client, and nothing is written to it: only the reset itself can tell.
#[test]
fn client_ends_and_resets_server_is_reset() {
    each_tcp_peer(|pair| {
        let (client, mut server, ends) = pair.split();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut server), (vec![], End::Clean));
        reset(client);
        expect_gone(&server);
        assert!(ends.summary().ending.starts_with("aborted by the peer: "));
    });
}

#[test]
fn server_ends_and_resets_client_is_reset() {
    each_tcp_target(|pair| {
        let (mut client, server, ends) = pair.split();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), (vec![], End::Clean));
        reset(server);
        expect_gone(&client);
        assert!(ends.summary().ending.starts_with("aborted by the target: "));
    });
}

/// Waits until a write would fail, without a write.
fn expect_gone(socket: &Socket) {
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    eventually("the other side is told", || {
        let mut watched = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        poll(&mut watched, PollTimeout::from(10u8)).unwrap();
        watched[0]
            .revents()
            .is_some_and(|seen| seen.intersects(gone))
    });
}

/// The kernel sends RST then, and may drop what the client has not read yet (RFC 1122, section 4.2.2.13).
#[test]
fn server_sends_and_closes_with_unread_bytes_client_gets_all_or_a_reset() {
    let content = Content::new(29);
    for _ in 0..5 {
        each_pair(|pair| {
            let (mut client, mut server, _ends) = pair.split();
            client.write_all(&[0; 1000]).unwrap();
            wait_for_unread(&server, 1000);
            thread::scope(|scope| {
                let reader = scope.spawn(|| content.expect_prefix(&mut client));
                content.send(&mut server, COUNT);
                drop(server);
                let (received, end) = reader.join().unwrap();
                assert!(received == COUNT || end == End::Reset, "{received} {end:?}");
            });
        });
    }
}

/// Waits until that many bytes wait to be read.
fn wait_for_unread(socket: &Socket, count: usize) {
    let mut bytes = [0; 1001];
    eventually("the bytes are there", || {
        recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK).unwrap() == count
    });
}

/// A unix socket says so by ECONNRESET.
#[test]
fn unix_client_closes_with_unread_bytes_server_is_reset() {
    for kind in [Kind::Tcp6, Kind::Tcp4] {
        each_mode(Kind::Unix, kind, |pair| {
            let (client, mut server, ends) = pair.split();
            server.write_all(b"never read").unwrap();
            wait_for_unread(&client, 10);
            drop(client);
            assert_eq!(read_to_end(&mut server), (vec![], End::Reset));
            assert!(ends.summary().ending.starts_with("aborted by the peer: "));
        });
    }
}

#[test]
fn unix_server_closes_with_unread_bytes_client_is_reset() {
    for kind in [Kind::Tcp6, Kind::Tcp4] {
        each_mode(kind, Kind::Unix, |pair| {
            let (mut client, server, ends) = pair.split();
            client.write_all(b"never read").unwrap();
            wait_for_unread(&server, 10);
            drop(server);
            assert_eq!(read_to_end(&mut client), (vec![], End::Reset));
            assert!(ends.summary().ending.starts_with("aborted by the target: "));
        });
    }
}
