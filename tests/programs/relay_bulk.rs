//! Connections that move much: limits, signals and ends reach them as they reach all others.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::common::bridge::{Bridge, wakeups};
use crate::common::content::{Content, End};
use crate::common::eventually;
use crate::common::pair::{Accept, Ends, Pair};
use crate::common::place::{Kind, Place, ping, reset};
use nix::sys::signal::Signal;

/// Enough to be taken for bulk, whatever the measure is.
const MUCH: u64 = 64 << 20;

/// Begins a transfer without end on a connection, and does something when it is well under way.
fn while_bulk_moves(pair: Pair, act: impl FnOnce(&mut Ends)) -> Ends {
    let content = Content::new(81);
    let (client, server, mut ends) = pair.split();
    let (past, under_way) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| content.send_while_wanted(&mut &client, u64::MAX));
        let reader = scope.spawn(|| {
            content.expect(&mut &server, MUCH);
            past.send(()).unwrap();
            // From here on the position is another one: only the end counts.
            drain(&server)
        });
        under_way.recv_timeout(crate::common::DEADLINE).unwrap();
        act(&mut ends);
        assert_eq!(reader.join().unwrap(), End::Reset);
    });
    ends
}

/// Reads until the end, whatever comes.
fn drain(mut from: &socket2::Socket) -> End {
    let mut sink = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut from, &mut sink) {
            Ok(0) => return End::Clean,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return End::Reset,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn sigterm_during_bulk_the_drain_timeout_passes_it_is_reset_and_exit_0() {
    for accept in Accept::BOTH {
        let arguments = ["--drain-timeout", "300ms"];
        let pair = Pair::new(accept, Kind::Tcp6, Kind::Tcp6, &arguments);
        let mut ends = while_bulk_moves(pair, |ends| ends.bridge.signal(Signal::SIGTERM));
        assert_eq!(ends.bridge.exit_code(), 0, "{:#?}", ends.bridge.log);
    }
}

#[test]
fn sigterm_twice_during_bulk_it_is_reset_at_once_and_exit_0() {
    let arguments = ["--drain-timeout", "1h"];
    let pair = Pair::new(Accept::No, Kind::Tcp6, Kind::Tcp6, &arguments);
    let mut ends = while_bulk_moves(pair, |ends| {
        ends.bridge.signal(Signal::SIGTERM);
        ends.bridge.wait_for_line("stopping: 1 connection");
        ends.bridge.signal(Signal::SIGTERM);
    });
    assert_eq!(ends.bridge.exit_code(), 0, "{:#?}", ends.bridge.log);
}

#[test]
fn sigterm_during_bulk_it_finishes_and_exit_0() {
    let content = Content::new(82);
    for (from, to) in [(Kind::Tcp6, Kind::Unix), (Kind::Unix, Kind::Tcp6)] {
        let arguments = ["--drain-timeout", "1h"];
        let (mut client, mut server, mut ends) =
            Pair::new(Accept::No, from, to, &arguments).split();
        thread::scope(|scope| {
            scope.spawn(|| {
                content.send(&mut client, 2 * MUCH);
                drop(client);
            });
            content.expect(&mut server, 1);
            ends.bridge.signal(Signal::SIGTERM);
            ends.bridge.wait_for_line("stopping: 1 connection");
            assert_eq!(drain(&server), End::Clean);
        });
        drop(server);
        let line = ends.bridge.wait_for_line(" bytes in, ");
        assert!(
            line.contains(&format!("complete: {} bytes in", 2 * MUCH)),
            "{line}"
        );
        assert_eq!(ends.bridge.exit_code(), 0, "{:#?}", ends.bridge.log);
    }
}

#[test]
fn bulk_stands_still_for_the_idle_timeout_it_is_reset() {
    let content = Content::new(83);
    let arguments = ["--idle-timeout", "3s"];
    let pair = Pair::new(Accept::No, Kind::Tcp6, Kind::Tcp6, &arguments);
    let (client, mut server, ends) = pair.split();
    thread::scope(|scope| {
        scope.spawn(|| content.send_while_wanted(&mut &client, u64::MAX));
        content.expect(&mut server, MUCH);
        // Nobody reads from here on.
        let summary = ends.summary();
        assert!(summary.ending.contains("--idle-timeout"), "{summary:?}");
        assert!(summary.inbound_bytes >= MUCH);
    });
}

#[test]
fn bulk_ends_in_one_direction_the_half_close_timeout_closes_it() {
    let content = Content::new(84);
    let arguments = ["--half-close-timeout", "300ms"];
    let pair = Pair::new(Accept::No, Kind::Tcp6, Kind::Tcp6, &arguments);
    let (mut client, mut server, ends) = pair.split();
    thread::scope(|scope| {
        scope.spawn(|| content.send(&mut client, MUCH));
        content.expect(&mut server, MUCH);
    });
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let summary = ends.summary();
    assert!(
        summary.ending.contains("--half-close-timeout"),
        "{summary:?}"
    );
    assert_eq!(summary.inbound_bytes, MUCH);
}

#[test]
fn client_resets_after_bulk_server_gets_an_intact_prefix_and_a_reset() {
    let content = Content::new(85);
    for accept in Accept::BOTH {
        let pair = Pair::new(accept, Kind::Tcp6, Kind::Tcp6, &[]);
        let (client, mut server, ends) = pair.split();
        let (count, end) = thread::scope(|scope| {
            let reader = scope.spawn(|| content.expect_prefix(&mut server));
            content.send(&mut &client, MUCH);
            reset(client);
            reader.join().unwrap()
        });
        assert!(count > 0 && end == End::Reset, "{count} {end:?}");
        assert!(ends.summary().ending.starts_with("aborted by the peer: "));
    }
}

/// The limit counts it until it is closed, and no longer.
/// Each piece takes a place of the pipe, which is full long before its bytes are many: splice(2) says EAGAIN then as it does
/// when nothing is there, and no event tells of what was left.
#[test]
fn small_pieces_fill_the_pipe_before_the_client_reads_all_arrives() {
    let content = Content::new(87);
    for to in [Kind::Tcp6, Kind::Unix] {
        let (mut client, server, ends) = Pair::new(Accept::No, Kind::Tcp6, to, &[]).split();
        if to.is_tcp() {
            server.set_tcp_nodelay(true).unwrap();
        }
        let bytes = content.first(12 << 20);
        let (full, is_full) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                for (number, piece) in bytes.chunks(701).enumerate() {
                    (&server).write_all(piece).unwrap();
                    if number == 5000 {
                        // Nobody listens if no more fitted before.
                        let _ = full.send(());
                    }
                }
                server.shutdown(Shutdown::Write).unwrap();
            });
            let _ = is_full.recv_timeout(Duration::from_secs(1));
            content.expect_all(&mut client, bytes.len() as u64);
        });
        drop((client, server));
        ends.expect_complete(0, bytes.len() as u64);
    }
}

#[test]
fn bulk_leaves_and_makes_room_for_the_next() {
    let content = Content::new(86);
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let mut bridge = Bridge::to(&target.text)
        .arguments(&["-v", "--max-connections", "1"])
        .listener(&listener)
        .start();
    for _ in 0..3 {
        let (mut client, mut server) = (listener.connect(), target.accept());
        thread::scope(|scope| {
            scope.spawn(|| content.send(&mut client, MUCH));
            content.expect(&mut server, MUCH);
        });
        listener.expect_refusal();
        ping(&mut client, &mut server);
        drop((client, server));
        bridge.wait_for_line("complete");
    }
    bridge.stop();
}

#[test]
fn bulk_of_one_client_delays_no_other() {
    let content = Content::new(87);
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text).listener(&listener).start();
    let (first, first_server) = (listener.connect(), target.accept());
    let (mut second, mut second_server) = (listener.connect(), target.accept());
    thread::scope(|scope| {
        scope.spawn(|| content.send(&mut &first, 4 * MUCH));
        let reader = scope.spawn(|| content.expect(&mut &first_server, 4 * MUCH));
        while !reader.is_finished() {
            ping(&mut second, &mut second_server);
        }
    });
    ping(&mut second, &mut second_server);
    drop(bridge);
}

#[test]
fn a_dialogue_behind_bulk_is_the_main_loops_again() {
    let content = Content::new(88);
    for (from, to) in [(Kind::Tcp6, Kind::Tcp6), (Kind::Unix, Kind::Unix)] {
        let (listener, target) = (Place::listening(from), Place::listening(to));
        let bridge = Bridge::to(&target.text).listener(&listener).start();
        let (mut client, mut server) = (listener.connect(), target.accept());
        for _ in 0..2 {
            thread::scope(|scope| {
                scope.spawn(|| content.send(&mut &client, MUCH));
                content.expect(&mut &server, MUCH);
            });
            assert!(wakeups(&bridge, "bulk").is_some());
            eventually("the main loop has it again", || {
                let before = wakeups(&bridge, "bulk");
                (0..20).for_each(|_| ping(&mut client, &mut server));
                wakeups(&bridge, "bulk") == before
            });
        }
    }
}

/// Enough for splice(2), which stops in front of an urgent byte for ever, and calls it an end if there is one behind it.
const BEFORE: u64 = 3 << 20;
const BEHIND: u64 = 1 << 20;

/// Every pair of sockets between which a byte can be urgent, and each with either end as its sender.
fn each_urgent_pair(test: impl Fn(&socket2::Socket, &socket2::Socket)) {
    for (from, to) in [
        (Kind::Tcp6, Kind::Tcp6),
        (Kind::Tcp6, Kind::Unix),
        (Kind::Unix, Kind::Tcp6),
        (Kind::Unix, Kind::Unix),
    ] {
        for accept in Accept::BOTH {
            eprintln!("{from:?} to {to:?}, Accept={accept:?}");
            let (client, server, _ends) = Pair::new(accept, from, to, &[]).split();
            test(&client, &server);
            let (client, server, _ends) = Pair::new(accept, from, to, &[]).split();
            test(&server, &client);
        }
    }
}

/// Sends bytes of which one is urgent, and compares what arrives; the urgent one may come in line or not at all.
fn send_with_urgent(from: &socket2::Socket, to: &socket2::Socket, end: impl FnOnce() + Send) {
    let content = Content::new(82);
    thread::scope(|scope| {
        scope.spawn(|| {
            content.send(&mut &*from, BEFORE);
            from.send_out_of_band(b"!").unwrap();
            content.send(&mut &*from, BEHIND);
            end();
        });
        content.expect(&mut &*to, BEFORE);
        let mut behind = vec![0; BEHIND as usize];
        std::io::Read::read_exact(&mut &*to, &mut behind).unwrap();
        if behind[0] == b'!' && behind[1..] == content.first(BEHIND as usize - 1) {
            behind.remove(0);
            behind.push(0);
            std::io::Read::read_exact(&mut &*to, &mut behind[BEHIND as usize - 1..]).unwrap();
        }
        assert!(behind == content.first(BEHIND as usize));
    });
}

#[test]
fn an_urgent_byte_in_bulk_then_the_end_all_arrives_before_the_end() {
    each_urgent_pair(|from, to| {
        send_with_urgent(from, to, || from.shutdown(Shutdown::Write).unwrap());
        assert_eq!(drain(to), End::Clean);
    });
}

#[test]
fn an_urgent_byte_in_bulk_without_an_end_all_arrives() {
    each_urgent_pair(|from, to| send_with_urgent(from, to, || ()));
}
