//! Signals: SIGTERM lets open connections finish, a second one ends them, the others change nothing.

use std::io::Write;
use std::thread;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::eventually;
use crate::common::pair::{Accept, Pair, each_mode};
use crate::common::place::{Kind, Place, ping};
use nix::sys::signal::Signal;

#[test]
fn sigterm_and_sigint_with_nothing_open_exit_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
        let mut bridge = Bridge::to(&target.text).listener(&listener).start();
        drop((listener.connect(), target.accept()));
        bridge.signal(signal);
        assert_eq!(bridge.exit_code(), 0);
        bridge_log_has(&bridge.log, "stopped: 1 connection served");
    }
}

fn bridge_log_has(log: &[String], text: &str) {
    assert!(log.iter().any(|line| line.contains(text)), "{log:#?}");
}

#[test]
fn sigterm_during_transfers_they_finish_new_clients_wait_for_the_next_bridge_and_exit_0() {
    let (there, back) = (Content::new(41), Content::new(42));
    let count = 16 << 20;
    for (from, to) in [(Kind::Tcp6, Kind::Tcp6), (Kind::Unix, Kind::Unix)] {
        let pair = Pair::new(Accept::No, from, to, &["--drain-timeout", "1h"]);
        let (mut client, mut server, mut ends) = pair.split();
        there.send(&mut client, 1000);
        there.expect(&mut server, 1000);
        ends.bridge.signal(Signal::SIGTERM);
        ends.bridge
            .wait_for_line("stopping: 1 connection may go on for 1h");
        let mut late = ends.listener.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                back.send(&mut &server, count);
                server.shutdown(std::net::Shutdown::Write).unwrap();
            });
            back.expect_all(&mut &client, count);
        });
        drop((client, server));
        assert_eq!(ends.bridge.exit_code(), 0, "{:#?}", ends.bridge.log);
        assert!(ends.target.has_nobody_waiting());
        let next = Bridge::to(&ends.target.text)
            .listener(&ends.listener)
            .start();
        ping(&mut late, &mut ends.target.accept());
        drop(next);
    }
}

#[test]
fn sigterm_accept_yes_the_connection_finishes_and_exit_0() {
    let content = Content::new(43);
    let arguments = ["--drain-timeout", "1h"];
    let pair = Pair::new(Accept::Yes, Kind::Tcp6, Kind::Tcp6, &arguments);
    let (mut client, mut server, mut ends) = pair.split();
    ping(&mut client, &mut server);
    ends.bridge.signal(Signal::SIGTERM);
    ends.bridge.wait_for_line("stopping: 1 connection");
    content.send(&mut client, 100_000);
    drop(client);
    content.expect_all(&mut server, 100_000);
    drop(server);
    ends.expect_complete(100_001, 1);
}

#[test]
fn sigterm_then_the_drain_timeout_passes_what_is_open_is_reset_and_exit_0() {
    each_mode_with_drain("300ms", |pair| {
        let (mut client, mut server, mut ends) = pair.split();
        ping(&mut client, &mut server);
        ends.bridge.signal(Signal::SIGTERM);
        assert_eq!(read_to_end(&mut client), (vec![], End::Reset));
        assert_eq!(read_to_end(&mut server), (vec![], End::Reset));
        assert_eq!(ends.bridge.exit_code(), 0);
        bridge_log_has(&ends.bridge.log, "--drain-timeout");
    });
}

#[test]
fn sigterm_twice_what_is_open_is_reset_at_once_and_exit_0() {
    each_mode_with_drain("1h", |pair| {
        let (mut client, mut server, mut ends) = pair.split();
        ping(&mut client, &mut server);
        ends.bridge.signal(Signal::SIGTERM);
        ends.bridge.wait_for_line("stopping: 1 connection");
        ends.bridge.signal(Signal::SIGTERM);
        assert_eq!(read_to_end(&mut client), (vec![], End::Reset));
        assert_eq!(read_to_end(&mut server), (vec![], End::Reset));
        assert_eq!(ends.bridge.exit_code(), 0);
    });
}

fn each_mode_with_drain(time: &str, test: impl Fn(Pair)) {
    for accept in Accept::BOTH {
        let arguments = ["--drain-timeout", time];
        test(Pair::new(accept, Kind::Tcp6, Kind::Tcp6, &arguments));
    }
}

#[test]
fn sigterm_while_the_target_is_tried_client_is_reset_after_the_drain_timeout() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::bound(Kind::Tcp6));
    let mut bridge = Bridge::to(&target.text)
        .arguments(&["--connect-retry", "1h"])
        .variable("VSOCK_BRIDGE_DRAIN_TIMEOUT", "300ms")
        .listener(&listener)
        .start();
    let mut client = listener.connect();
    let mut other = listener.connect();
    bridge.wait_for_line("bridging");
    eventually("both clients are accepted", || {
        let text = std::fs::read_to_string("/proc/net/tcp6").unwrap();
        let port = listener.address.as_socket().unwrap().port();
        // A connection in the queue of a listener has no inode yet (proc_net_tcp(5)).
        let rows = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| {
            row[1].ends_with(&format!(":{port:04X}")) && row[3] == "01" && row[9] != "0"
        })
        .count()
            == 2
    });
    bridge.signal(Signal::SIGTERM);
    assert_eq!(read_to_end(&mut client), (vec![], End::Reset));
    assert_eq!(read_to_end(&mut other), (vec![], End::Reset));
    assert_eq!(bridge.exit_code(), 0);
}

#[test]
fn other_signals_change_nothing_and_sighup_says_so() {
    each_mode(Kind::Tcp6, Kind::Unix, |pair| {
        let (mut client, mut server, mut ends) = pair.split();
        ping(&mut client, &mut server);
        ends.bridge.signal(Signal::SIGHUP);
        ends.bridge.wait_for_line("SIGHUP is ignored");
        for signal in [Signal::SIGPIPE, Signal::SIGWINCH, Signal::SIGCHLD] {
            ends.bridge.signal(signal);
            ping(&mut client, &mut server);
        }
        ends.bridge.signal(Signal::SIGSTOP);
        client.write_all(b"stands still").unwrap();
        ends.bridge.signal(Signal::SIGCONT);
        drop(client);
        let all = (b"stands still".to_vec(), End::Clean);
        assert_eq!(read_to_end(&mut server), all);
        drop(server);
        ends.expect_complete(4 + 12, 4);
    });
}

/// A client that comes while the process leaves is served by it or by the next one.
#[test]
fn sigterm_at_any_moment_every_client_is_served() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    for _ in 0..40 {
        let first = Bridge::to(&target.text)
            .arguments(&["--drain-timeout", "1h"])
            .listener(&listener)
            .start();
        let mut clients: Vec<_> = (0..8).map(|_| listener.connect()).collect();
        first.signal(Signal::SIGTERM);
        let second = Bridge::to(&target.text).listener(&listener).start();
        for client in &mut clients {
            client.write_all(b"x").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        for _ in 0..8 {
            let mut server = target.accept();
            assert_eq!(read_to_end(&mut server), (b"x".to_vec(), End::Clean));
            server.write_all(b"y").unwrap();
        }
        for client in &mut clients {
            assert_eq!(read_to_end(client), (b"y".to_vec(), End::Clean));
        }
        drop(second);
    }
}
