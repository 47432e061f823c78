//! Limits: how many connections, how long, how many descriptors; each ends what is over it and nothing else.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::eventually;
use crate::common::pair::{Accept, Pair};
use crate::common::place::{Kind, Place, own_name, ping};
use socket2::Socket;

fn connected(listener: &Place, target: &Place) -> (Socket, Socket) {
    let client = listener.connect();
    (client, target.accept())
}

#[test]
fn one_connection_more_than_the_limit_is_reset_the_others_live_and_one_leaving_makes_room() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut bridge = Bridge::to(&target.text)
        .variable("VSOCK_BRIDGE_MAX_CONNECTIONS", "3")
        .arguments(&["-v"])
        .listener(&listener)
        .start();
    let mut open: Vec<_> = (0..3).map(|_| connected(&listener, &target)).collect();
    let name = listener.expect_refusal();
    let line = bridge.wait_for_line("--max-connections");
    assert!(
        line.contains("warning") && line.contains(&name) && line.contains("--max-connections=3"),
        "{line}"
    );
    assert!(target.has_nobody_waiting());
    for (client, server) in &mut open {
        ping(client, server);
    }
    drop(open.pop());
    bridge.wait_for_line("complete");
    let (mut client, mut server) = connected(&listener, &target);
    ping(&mut client, &mut server);
    drop((open, client, server));
    let log = bridge.stop();
    assert_eq!(
        log.iter()
            .filter(|l| l.contains("--max-connections"))
            .count(),
        1
    );
}

#[test]
fn a_peer_over_its_limit_is_reset_another_peer_comes_in() {
    let (listener, target) = (Place::listening(Kind::Tcp4), Place::listening(Kind::Tcp4));
    let bridge = Bridge::to(&target.text)
        .arguments(&["--max-connections-per-peer", "2"])
        .listener(&listener)
        .start();
    let mut open: Vec<_> = (0..2).map(|_| connected(&listener, &target)).collect();
    listener.expect_refusal();
    let client = listener.connect_from("127.0.0.99:0");
    open.push((client, target.accept()));
    for (client, server) in &mut open {
        ping(client, server);
    }
    drop(open);
    let log = bridge.stop();
    let lines: Vec<_> = log
        .iter()
        .filter(|l| l.contains("--max-connections-per-peer"))
        .collect();
    assert_eq!(lines.len(), 1, "{log:#?}");
    assert!(lines[0].contains("127.0.0.1:"), "{lines:?}");
}

#[test]
fn a_user_over_the_limit_of_a_unix_listener_is_closed() {
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let mut bridge = Bridge::to(&target.text)
        .variable("VSOCK_BRIDGE_MAX_CONNECTIONS_PER_PEER", "1")
        .listener(&listener)
        .start();
    let (mut client, mut server) = connected(&listener, &target);
    listener.expect_refusal();
    let line = bridge.wait_for_line("--max-connections-per-peer");
    assert!(line.contains(&own_name()), "{line}");
    ping(&mut client, &mut server);
}

#[test]
fn a_thousand_over_the_limit_are_a_few_lines() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let started = Instant::now();
    let bridge = Bridge::to(&target.text)
        .arguments(&["--max-connections", "1"])
        .listener(&listener)
        .start();
    let (mut client, mut server) = connected(&listener, &target);
    for _ in 0..1000 {
        listener.expect_refusal();
    }
    ping(&mut client, &mut server);
    drop((client, server));
    let log = bridge.stop();
    let lines = log.iter().filter(|l| l.contains("refused: ")).count();
    let intervals = started.elapsed().as_secs() as usize / 5 + 1;
    assert!((1..=10 * intervals).contains(&lines), "{lines} lines");
    assert!(log.last().unwrap().contains("1000 refused"), "{log:#?}");
}

#[test]
fn no_byte_within_the_idle_timeout_both_are_reset_and_the_line_says_why() {
    for accept in Accept::BOTH {
        let pair = Pair::new(accept, Kind::Tcp6, Kind::Tcp6, &["--idle-timeout", "300ms"]);
        let (mut client, mut server, ends) = pair.split();
        assert_eq!(read_to_end(&mut client).1, End::Reset);
        assert_eq!(read_to_end(&mut server).1, End::Reset);
        assert!(ends.summary().ending.contains("--idle-timeout"));
    }
}

#[test]
fn a_reader_that_never_reads_is_idle_and_frees_its_connection() {
    let pair = Pair::new(
        Accept::No,
        Kind::Tcp6,
        Kind::Tcp6,
        &["--idle-timeout", "300ms"],
    );
    let (client, mut server, ends) = pair.split();
    Content::new(31).fill(&client);
    assert_eq!(read_to_end(&mut server).1, End::Reset);
    assert!(ends.summary().ending.contains("--idle-timeout"));
}

#[test]
fn no_second_end_within_the_half_close_timeout_both_are_closed_and_the_line_says_why() {
    for accept in Accept::BOTH {
        let arguments = ["--half-close-timeout", "300ms"];
        let pair = Pair::new(accept, Kind::Tcp6, Kind::Tcp6, &arguments);
        let (mut client, mut server, ends) = pair.split();
        ping(&mut client, &mut server);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), (vec![], End::Reset));
        let summary = ends.summary();
        assert!(
            summary.ending.contains("--half-close-timeout"),
            "{summary:?}"
        );
        assert_eq!(read_to_end(&mut server).0, b"");
    }
}

#[test]
fn the_half_close_timeout_of_one_connection_leaves_the_others() {
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let mut bridge = Bridge::to(&target.text)
        .variable("VSOCK_BRIDGE_HALF_CLOSE_TIMEOUT", "200ms")
        .arguments(&["-v"])
        .listener(&listener)
        .start();
    let (mut client, mut server) = connected(&listener, &target);
    let (other, _never_ends) = connected(&listener, &target);
    other.shutdown(Shutdown::Write).unwrap();
    bridge.wait_for_line("--half-close-timeout");
    ping(&mut client, &mut server);
}

#[test]
fn descriptors_run_out_accepting_pauses_open_ones_live_and_one_leaving_lets_the_next_in() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut bridge = Bridge::to(&target.text).listener(&listener).start();
    let mut open: Vec<_> = (0..5).map(|_| connected(&listener, &target)).collect();
    for (client, server) in &mut open {
        ping(client, server);
    }
    bridge.limit_descriptors(bridge.lowest_free_descriptor());
    let (started, before) = (Instant::now(), bridge.cpu_time());
    let mut waiting = listener.connect();
    waiting.write_all(b"patient").unwrap();
    // Each pause is 100 ms, and ten lines are written before the rest is left out.
    for _ in 0..10 {
        let line = bridge.wait_for_line("accepting pauses");
        assert!(line.contains("Too many open files"), "{line}");
    }
    let (used, passed) = (bridge.cpu_time() - before, started.elapsed());
    assert!(passed >= Duration::from_millis(800), "{passed:?}");
    assert!(used <= passed / 10, "{used:?} in {passed:?}");
    for (client, server) in &mut open {
        ping(client, server);
    }
    drop(open.pop());
    let mut bytes = [0; 7];
    let mut server = target.accept();
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"patient");
    ping(&mut waiting, &mut server);
    drop((open, waiting, server));
    bridge.stop();
}

/// The one descriptor that is left takes the client, and none is left for the target.
#[test]
fn descriptors_run_out_for_the_target_client_waits_and_is_served_when_one_leaves() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text)
        .arguments(&["--connect-timeout", "1h"])
        .listener(&listener)
        .start();
    let mut open: Vec<_> = (0..3).map(|_| connected(&listener, &target)).collect();
    for (client, server) in &mut open {
        ping(client, server);
    }
    bridge.limit_descriptors(bridge.lowest_free_descriptor() + 1);
    let mut waiting = listener.connect();
    for (client, server) in &mut open {
        ping(client, server);
    }
    drop(open.pop());
    ping(&mut waiting, &mut target.accept());
}

#[test]
fn a_limit_of_descriptors_below_the_promise_is_said_at_the_start_and_kept() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let mut bridge = Bridge::to(&target.text)
        .arguments(&["--max-connections", "4096"])
        .open_files(140)
        .listener(&listener)
        .start();
    let line = bridge.wait_for_line("LimitNOFILE=");
    assert!(
        line.contains("140 descriptors suffice for 6 connections, not for 4096"),
        "{line}"
    );
    let mut open: Vec<_> = (0..6).map(|_| connected(&listener, &target)).collect();
    listener.expect_refusal();
    let content = Content::new(32);
    for (client, server) in &mut open {
        thread::scope(|scope| {
            scope.spawn(|| content.send(client, 1 << 20));
            content.expect(server, 1 << 20);
        });
    }
}

#[test]
fn three_thousand_short_connections_leave_no_descriptor() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&target.text).listener(&listener).start();
    let (mut first, mut served) = connected(&listener, &target);
    ping(&mut first, &mut served);
    let baseline = bridge.descriptors() - 2;
    drop((first, served));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3000 {
                let mut server = target.accept();
                let (request, _) = read_to_end(&mut server);
                server.write_all(&request).unwrap();
            }
        });
        for number in 0..3000_u32 {
            let mut client = listener.connect();
            client.write_all(&number.to_le_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let answer = (number.to_le_bytes().to_vec(), End::Clean);
            assert_eq!(read_to_end(&mut client), answer);
        }
    });
    eventually("all descriptors are closed", || {
        bridge.descriptors() == baseline
    });
    let log = bridge.stop();
    assert!(
        log.last().unwrap().contains("3001 connections served"),
        "{log:#?}"
    );
}
