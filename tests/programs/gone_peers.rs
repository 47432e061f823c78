//! Peers that have gone while their target is dialled, or stands still: their places are free at once.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::eventually;
use crate::common::place::{Kind, Place, ping, reset};
use crate::common::program::Program;
use socket2::Socket;

/// As many as the limit for one peer.
const PLACES: usize = 3;

fn bridge(listener: &Place, target: &str) -> Program {
    Bridge::to(target)
        .arguments(&["-v", "--max-connections-per-peer", "3"])
        .arguments(&["--connect-retry", "1h", "--connect-timeout", "1h"])
        .listener(listener)
        .start()
}

/// Waits until the bridge has told of so many connections that they ended before their target was reached.
fn wait_for_ends(bridge: &mut Program, count: usize) {
    for _ in 0..count {
        let line = bridge.wait_for_line("aborted by the peer");
        assert!(line.contains(": 0 bytes in, 0 bytes out"), "{line}");
    }
}

/// Opens as many as may be open, each with a byte for the target.
fn occupy(listener: &Place) -> Vec<Socket> {
    let client = |_| {
        let mut client = listener.connect();
        client.write_all(b"x").unwrap();
        client
    };
    (0..PLACES).map(client).collect()
}

#[test]
fn peers_are_reset_while_their_target_is_down_it_is_dialled_for_the_next_one_alone() {
    for to in Kind::ALL {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::bound(to));
        let mut bridge = bridge(&listener, &target.text);
        occupy(&listener).into_iter().for_each(reset);
        wait_for_ends(&mut bridge, PLACES);
        let mut client = listener.connect();
        client.write_all(b"y").unwrap();
        target.socket.listen(10).unwrap();
        let mut server = target.accept();
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"y");
        ping(&mut client, &mut server);
        assert!(target.has_nobody_waiting());
        drop((client, server));
        bridge.stop();
    }
}

#[test]
fn unix_peers_have_left_nothing_and_closed_while_their_target_is_down_their_places_are_free() {
    let (listener, target) = (Place::listening(Kind::Unix), Place::bound(Kind::Tcp6));
    let mut bridge = bridge(&listener, &target.text);
    let clients: Vec<_> = (0..PLACES).map(|_| listener.connect()).collect();
    drop(clients);
    wait_for_ends(&mut bridge, PLACES);
    let mut client = listener.connect();
    target.socket.listen(10).unwrap();
    let mut server = target.accept();
    ping(&mut client, &mut server);
    assert!(target.has_nobody_waiting());
}

#[test]
fn peers_are_reset_while_a_vmm_does_not_answer_their_places_are_free() {
    let (listener, vmm) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut bridge = bridge(&listener, &format!("vsock-mux:{}:22", vmm.text));
    let clients = occupy(&listener);
    let asked: Vec<_> = (0..PLACES).map(|_| vmm.accept()).collect();
    clients.into_iter().for_each(reset);
    wait_for_ends(&mut bridge, PLACES);
    for mut asked in asked {
        // Nothing of the peer's came behind the question.
        assert_eq!(read_to_end(&mut asked).0, b"CONNECT 22\n");
    }
    let mut client = listener.connect();
    let mut guest = vmm.accept();
    let mut question = [0; 11];
    guest.read_exact(&mut question).unwrap();
    guest.write_all(b"OK 1\n").unwrap();
    ping(&mut client, &mut guest);
}

#[test]
fn peers_have_ended_their_direction_while_their_target_is_down_they_are_served() {
    for from in Kind::ALL {
        let (listener, target) = (Place::listening(from), Place::bound(Kind::Tcp6));
        let bridge = bridge(&listener, &target.text);
        let mut client = listener.connect();
        client.write_all(b"early").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        eventually("the bridge has accepted", || listener.has_nobody_waiting());
        target.socket.listen(10).unwrap();
        let mut server = target.accept();
        assert_eq!(read_to_end(&mut server), (b"early".to_vec(), End::Clean));
        server.write_all(b"late").unwrap();
        drop(server);
        assert_eq!(read_to_end(&mut client), (b"late".to_vec(), End::Clean));
        bridge.stop();
    }
}

/// Nothing that was sent is lost, though nobody waits for an answer.
#[test]
fn peers_have_sent_and_closed_while_their_target_is_down_it_gets_all() {
    for from in Kind::ALL {
        let (listener, target) = (Place::listening(from), Place::bound(Kind::Tcp6));
        let _bridge = bridge(&listener, &target.text);
        let mut client = listener.connect();
        client.write_all(b"early").unwrap();
        drop(client);
        eventually("the bridge has accepted", || listener.has_nobody_waiting());
        target.socket.listen(10).unwrap();
        assert_eq!(read_to_end(&mut target.accept()).0, b"early");
    }
}

#[test]
fn peers_are_reset_while_their_target_stands_still_both_ends_are_closed_and_the_places_free() {
    for to in Kind::ALL {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(to));
        let mut bridge = bridge(&listener, &target.text);
        let mut servers = Vec::new();
        for _ in 0..PLACES {
            let client = listener.connect();
            servers.push(target.accept());
            Content::new(83).fill(&client);
            reset(client);
        }
        for _ in 0..PLACES {
            bridge.wait_for_line("aborted by the peer");
        }
        let (mut client, mut server) = (listener.connect(), target.accept());
        ping(&mut client, &mut server);
        for mut stood_still in servers {
            let (_, end) = Content::new(83).expect_prefix(&mut stood_still);
            assert!(end == End::Reset || !to.is_tcp(), "{to:?}");
        }
        drop((client, server));
        bridge.stop();
    }
}
