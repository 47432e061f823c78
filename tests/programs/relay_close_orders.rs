//! Every order in which the two ends of a connection can end, half and whole, over every pair of sockets and in both
//! accept modes. The bridge says afterwards how many bytes each side took.

use std::net::Shutdown;
use std::sync::Barrier;
use std::thread;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::pair::{Accept, Pair, each_pair};
use crate::common::place::{Kind, Place};
use socket2::Socket;

const THERE: u64 = 100_003;
const BACK: u64 = 70_001;

fn contents() -> (Content, Content) {
    (Content::new(11), Content::new(12))
}

fn end(socket: &Socket) {
    socket.shutdown(Shutdown::Write).unwrap();
}

fn expect_end(socket: &mut Socket) {
    assert_eq!(read_to_end(socket), (vec![], End::Clean));
}

#[test]
fn client_closes_at_once_server_sees_the_end_and_closes() {
    each_pair(|pair| {
        let (client, mut server, ends) = pair.split();
        drop(client);
        expect_end(&mut server);
        drop(server);
        ends.expect_complete(0, 0);
    });
}

#[test]
fn server_closes_at_once_client_sees_the_end_and_closes() {
    each_pair(|pair| {
        let (mut client, server, ends) = pair.split();
        drop(server);
        expect_end(&mut client);
        drop(client);
        ends.expect_complete(0, 0);
    });
}

#[test]
fn client_sends_and_closes_server_gets_all_and_closes() {
    let (there, _) = contents();
    each_pair(|pair| {
        let (mut client, mut server, ends) = pair.split();
        there.send(&mut client, THERE);
        drop(client);
        there.expect_all(&mut server, THERE);
        drop(server);
        ends.expect_complete(THERE, 0);
    });
}

#[test]
fn server_sends_and_closes_client_gets_all_and_closes() {
    let (_, back) = contents();
    each_pair(|pair| {
        let (mut client, mut server, ends) = pair.split();
        back.send(&mut server, BACK);
        drop(server);
        back.expect_all(&mut client, BACK);
        drop(client);
        ends.expect_complete(0, BACK);
    });
}

#[test]
fn client_ends_server_answers_and_closes_client_closes() {
    let (there, back) = contents();
    each_pair(|pair| {
        let (mut client, mut server, ends) = pair.split();
        there.send(&mut client, THERE);
        end(&client);
        there.expect_all(&mut server, THERE);
        back.send(&mut server, BACK);
        drop(server);
        back.expect_all(&mut client, BACK);
        drop(client);
        ends.expect_complete(THERE, BACK);
    });
}

#[test]
fn server_ends_client_answers_and_closes_server_closes() {
    let (there, back) = contents();
    each_pair(|pair| {
        let (mut client, mut server, ends) = pair.split();
        back.send(&mut server, BACK);
        end(&server);
        back.expect_all(&mut client, BACK);
        there.send(&mut client, THERE);
        drop(client);
        there.expect_all(&mut server, THERE);
        drop(server);
        ends.expect_complete(THERE, BACK);
    });
}

#[test]
fn client_ends_server_answers_and_ends_client_closes_server_closes() {
    let (there, back) = contents();
    each_pair(|pair| {
        let (mut client, mut server, ends) = pair.split();
        end(&client);
        expect_end(&mut server);
        back.send(&mut server, BACK);
        end(&server);
        back.expect_all(&mut client, BACK);
        drop(client);
        // The end was passed on before: that the client has closed changes nothing for the server.
        there.expect_all(&mut server, 0);
        drop(server);
        ends.expect_complete(0, BACK);
    });
}

#[test]
fn server_ends_client_answers_and_ends_server_closes_client_closes() {
    let (there, back) = contents();
    each_pair(|pair| {
        let (mut client, mut server, ends) = pair.split();
        end(&server);
        expect_end(&mut client);
        there.send(&mut client, THERE);
        end(&client);
        there.expect_all(&mut server, THERE);
        drop(server);
        back.expect_all(&mut client, 0);
        drop(client);
        ends.expect_complete(THERE, 0);
    });
}

#[test]
fn client_ends_then_64_mib_come_from_the_server() {
    let content = Content::new(13);
    let count = 64 << 20;
    for_bulk(|pair| {
        let (mut client, mut server, ends) = pair.split();
        end(&client);
        expect_end(&mut server);
        thread::scope(|scope| {
            scope.spawn(|| content.expect_all(&mut client, count));
            content.send(&mut server, count);
            drop(server);
        });
        drop(client);
        ends.expect_complete(0, count);
    });
}

#[test]
fn server_ends_then_64_mib_come_from_the_client() {
    let content = Content::new(14);
    let count = 64 << 20;
    for_bulk(|pair| {
        let (mut client, mut server, ends) = pair.split();
        end(&server);
        expect_end(&mut client);
        thread::scope(|scope| {
            scope.spawn(|| content.expect_all(&mut server, count));
            content.send(&mut client, count);
            drop(client);
        });
        drop(server);
        ends.expect_complete(count, 0);
    });
}

/// One pair of sockets for each way of moving bytes.
fn for_bulk(test: impl Fn(Pair)) {
    test(Pair::new(Accept::No, Kind::Tcp6, Kind::Tcp6, &[]));
    test(Pair::new(Accept::Yes, Kind::Tcp6, Kind::Unix, &[]));
    test(Pair::new(Accept::No, Kind::Unix, Kind::Tcp6, &[]));
    test(Pair::new(Accept::Yes, Kind::Unix, Kind::Unix, &[]));
}

/// The end must wait for the bytes that the bridge still holds.
#[test]
fn client_sends_more_than_fits_and_closes_server_reads_later_and_gets_all() {
    let content = Content::new(15);
    for_bulk(|pair| {
        let (mut client, mut server, ends) = pair.split();
        let count = 24 << 20;
        thread::scope(|scope| {
            scope.spawn(|| {
                content.send(&mut client, count);
                drop(client);
            });
            content.expect_all(&mut server, count);
        });
        drop(server);
        ends.expect_complete(count, 0);
    });
}

#[test]
fn client_closes_while_the_server_sends_server_is_told() {
    let content = Content::new(16);
    each_pair(|pair| {
        let (client, mut server, ends) = pair.split();
        thread::scope(|scope| {
            let sender = scope.spawn(|| content.send_while_wanted(&mut server, u64::MAX));
            content.expect(&mut &client, 1000);
            drop(client);
            assert!(sender.join().unwrap() >= 1000);
        });
        drop(server);
        assert!(ends.summary().ending.starts_with("aborted by the peer: "));
    });
}

#[test]
fn server_closes_while_the_client_sends_client_is_told() {
    let content = Content::new(17);
    each_pair(|pair| {
        let (mut client, server, ends) = pair.split();
        thread::scope(|scope| {
            let sender = scope.spawn(|| content.send_while_wanted(&mut client, u64::MAX));
            content.expect(&mut &server, 1000);
            drop(server);
            assert!(sender.join().unwrap() >= 1000);
        });
        drop(client);
        assert!(ends.summary().ending.starts_with("aborted by the target: "));
    });
}

#[test]
fn both_end_at_the_same_moment_both_see_a_clean_end() {
    for (from, to, times) in [
        (Kind::Tcp6, Kind::Tcp6, 300),
        (Kind::Unix, Kind::Tcp4, 150),
        (Kind::Tcp4, Kind::Unix, 150),
        (Kind::Unix, Kind::Unix, 150),
    ] {
        let (listener, target) = (Place::listening(from), Place::listening(to));
        let bridge = Bridge::to(&target.text).listener(&listener).start();
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..times {
                    let mut server = target.accept();
                    barrier.wait();
                    end(&server);
                    expect_end(&mut server);
                }
            });
            for _ in 0..times {
                let mut client = listener.connect();
                barrier.wait();
                end(&client);
                expect_end(&mut client);
            }
        });
        let log = bridge.stop();
        let said = format!("stopped: {times} connections served, 0 refused, 0 without target");
        assert!(log.iter().any(|line| line.ends_with(&said)), "{log:#?}");
    }
}
