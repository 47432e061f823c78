//! The log: one that takes nothing holds no connection up, and a flood of one kind is a few lines.
//!
//! The journal is tested under real systemd.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::thread;
use std::time::Instant;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, read_to_end};
use crate::common::own_folder;
use crate::common::place::{Kind, Place, ping};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use socket2::Socket;

/// Lines that wait in the program are at most so many, see src/logging/background.rs.
const CAPACITY: usize = 1024;

/// A pipe into which nothing more fits.
fn full_pipe() -> (File, File) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut writer = File::from(writer);
    let filling = vec![b'.'; size as usize - 1];
    writer.write_all(&filling).unwrap();
    writer.write_all(b"\n").unwrap();
    (reader.into(), writer)
}

#[test]
fn the_log_is_a_file_each_line_has_its_time() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let mut file = tempfile::tempfile().unwrap();
    let mut bridge = Bridge::to(&target.text)
        .listener(&listener)
        .start_unheard(file.try_clone().unwrap());
    ping(&mut listener.connect(), &mut target.accept());
    bridge.signal(Signal::SIGTERM);
    assert_eq!(bridge.exit_code(), 0);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert!(text.lines().count() >= 3, "{text}");
    for line in text.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        humantime::parse_rfc3339(time).unwrap();
        assert!(rest.starts_with("vsock-bridge: "), "{line}");
    }
}

/// Sends in both directions at once, and compares what arrives.
fn relay_both_ways(client: &Socket, server: &Socket) {
    let count = 16 << 20;
    thread::scope(|scope| {
        for (mut from, mut to, seed) in [(client, server, 101), (server, client, 102)] {
            scope.spawn(move || Content::new(seed).send(&mut from, count));
            scope.spawn(move || Content::new(seed).expect(&mut to, count));
        }
    });
}

#[test]
fn nobody_reads_the_log_bytes_go_on_and_what_was_dropped_is_counted() {
    let (reader, writer) = full_pipe();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let mut bridge = Bridge::to(&target.text)
        .listener(&listener)
        .start_unheard(writer);
    let bulk = (listener.connect(), target.accept());
    relay_both_ways(&bulk.0, &bulk.1);
    let (mut client, mut server) = (listener.connect(), target.accept());
    let signals = CAPACITY + 100;
    for _ in 0..signals {
        bridge.signal(Signal::SIGHUP);
        // Only one of a signal can wait. The main loop takes it before the byte that comes behind it.
        ping(&mut client, &mut server);
    }
    relay_both_ways(&bulk.0, &bulk.1);

    bridge.hear(reader);
    let line = bridge.wait_for_line("log lines were dropped");
    let (_, count) = line.split_once("warning: ").expect(&line);
    let dropped: usize = count.split(' ').next().unwrap().parse().unwrap();
    drop((bulk, client, server));
    let log = bridge.stop();
    let told = log.iter().filter(|line| line.contains("SIGHUP")).count();
    assert_eq!(told + dropped, signals, "{line}");
    assert!(log[1].contains("bridging"), "{:?}", &log[..3]);
    let last = log.last().unwrap();
    assert!(last.contains("2 connections served"), "{last}");
}

#[test]
fn nobody_reads_the_log_sigterm_ends_it_in_good_order() {
    let (_reader, writer) = full_pipe();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut bridge = Bridge::to(&target.text)
        .listener(&listener)
        .start_unheard(writer);
    let (mut client, mut server) = (listener.connect(), target.accept());
    ping(&mut client, &mut server);
    bridge.signal(Signal::SIGTERM);
    client.write_all(b"last").unwrap();
    drop(client);
    assert_eq!(read_to_end(&mut server).0, b"last");
    drop(server);
    assert_eq!(bridge.exit_code(), 0);
}

#[test]
fn a_thousand_ends_are_two_hundred_lines_in_five_seconds() {
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let started = Instant::now();
    let bridge = Bridge::to(&target.text).listener(&listener).start();
    for _ in 0..1000 {
        let (mut client, mut server) = (listener.connect(), target.accept());
        drop(client.shutdown(std::net::Shutdown::Write));
        assert_eq!(read_to_end(&mut server).0, b"");
        drop(server);
        assert_eq!(read_to_end(&mut client).0, b"");
    }
    let log = bridge.stop();
    let lines = log.iter().filter(|l| l.contains(" complete: ")).count();
    let intervals = started.elapsed().as_secs() as usize / 5 + 1;
    assert!((200..=200 * intervals).contains(&lines), "{lines} lines");
    let last = log.last().unwrap();
    assert!(last.contains("1000 connections served"), "{last}");
}

/// One machine that is refused all the time, or whose targets are all dead, hides nothing of what becomes of others.
#[test]
fn a_flood_of_one_peer_hides_no_line_of_another() {
    let (listener, dead) = (Place::listening(Kind::Tcp4), Place::bound(Kind::Tcp4));
    for (target, words) in [("gateway", " refused: "), (&dead.text, " closed: ")] {
        let folder = own_folder();
        let rules = folder.path().join("rules");
        std::fs::write(&rules, "").unwrap();
        let mut bridge = Bridge::to(target).listener(&listener);
        if target == "gateway" {
            bridge = bridge.arguments(&["--rules", rules.to_str().unwrap()]);
        }
        let mut bridge = bridge.start();
        let refused = |source: &str| {
            let mut client = listener.connect_from(source);
            // A bridge does not hear that, and may have closed by then.
            let _ = client.write_all(b"CONNECT 4.vsock:1 HTTP/1.1\r\n\r\n");
            read_to_end(&mut client);
        };
        (0..100).for_each(|_| refused("127.0.0.1:0"));
        refused("127.0.0.2:0");
        let line = bridge.wait_for_line("127.0.0.2:");
        assert!(line.contains(words), "{line}");
        let log = bridge.stop();
        let lines = log.iter().filter(|line| line.contains("127.0.0.1:"));
        assert!(lines.count() < 50, "{log:#?}");
    }
}

/// Lines that tell of connections, which all have their target's or peer's word.
fn steps(log: &[String]) -> Vec<&str> {
    let lines = log
        .iter()
        .filter_map(|line| line.strip_prefix("vsock-bridge: "));
    lines.filter(|line| line.contains("uid ")).collect()
}

/// One connection from accept to end, of which the log is returned.
fn log_of_one(set: impl FnOnce(Bridge) -> Bridge) -> Vec<String> {
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let bridge = set(Bridge::to(&target.text).listener(&listener)).start();
    let (mut client, mut server) = (listener.connect(), target.accept());
    ping(&mut client, &mut server);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut server).0, b"");
    drop(server);
    assert_eq!(read_to_end(&mut client).0, b"");
    bridge.stop()
}

#[test]
fn at_debug_each_step_of_a_connection_is_a_line() {
    let uid = nix::unistd::getuid();
    for set in [
        (|bridge: Bridge| bridge.arguments(&["-v"])) as fn(Bridge) -> Bridge,
        |bridge| bridge.variable("VSOCK_BRIDGE_LOG", "debug"),
        |bridge| bridge.variable("VSOCK_BRIDGE_LOG", "vsock_bridge::relay=debug"),
    ] {
        let log = log_of_one(set);
        let [accepted, connected, half_closed, ended, over] = &steps(&log)[..] else {
            panic!("not five lines: {log:#?}")
        };
        let begin = format!("debug: uid {uid} accepted, its target is /");
        assert!(accepted.starts_with(&begin), "{accepted}");
        let begin = format!("debug: uid {uid} connected to its target after ");
        assert!(connected.starts_with(&begin), "{connected}");
        let said = format!("debug: uid {uid}: the peer has ended, and the target has all of it");
        assert_eq!(**half_closed, said);
        let said = format!("debug: uid {uid}: the target has ended, and the peer has all of it");
        assert_eq!(**ended, said);
        assert!(
            over.starts_with("info: ") && over.contains(" complete: "),
            "{over}"
        );
    }
    assert_eq!(steps(&log_of_one(|bridge| bridge)).len(), 1);
}

#[test]
fn at_trace_each_event_of_its_sockets_is_a_line_as_well() {
    for set in [
        (|bridge: Bridge| bridge.arguments(&["-vv"])) as fn(Bridge) -> Bridge,
        |bridge| bridge.variable("VSOCK_BRIDGE_LOG", "vsock_bridge::relay=trace"),
    ] {
        let log = log_of_one(set);
        let traced: Vec<&str> = steps(&log)
            .into_iter()
            .filter(|line| line.starts_with("trace: "))
            .collect();
        let has = |words: &str| traced.iter().any(|line| line.contains(words));
        assert!(
            has(": the peer: EpollFlags(") && has(": the target: EpollFlags("),
            "{log:#?}"
        );
        assert!(has(": 1 bytes in, "), "{log:#?}");
        assert_eq!(steps(&log).len() - traced.len(), 5, "{log:#?}");
    }
}

#[test]
fn at_debug_no_end_of_a_connection_is_left_out() {
    // Ends alone, so that they all have room where lines wait; the second name is that of before.
    for module in ["accounting", "relay::report"] {
        let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
        let filter = format!("vsock_bridge::{module}=debug");
        let bridge = Bridge::to(&target.text).listener(&listener);
        // More than are told in five seconds otherwise.
        let (bridge, count) = (bridge.variable("VSOCK_BRIDGE_LOG", &filter).start(), 250);
        for _ in 0..count {
            let (mut client, mut server) = (listener.connect(), target.accept());
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut server).0, b"");
            drop(server);
            assert_eq!(read_to_end(&mut client).0, b"");
        }
        let log = bridge.stop();
        let told = log
            .iter()
            .filter(|line| line.contains(" complete: "))
            .count();
        assert_eq!(told, count, "{filter}");
    }
}

#[test]
fn a_filter_that_names_nothing_is_warned_of_and_the_rest_holds() {
    for (filter, words) in [
        ("foo", "\"foo\" is neither a level"),
        (
            "vsock_bridge::rely=trace",
            "\"vsock_bridge::rely\" is not a module of ours",
        ),
        ("vsock_bridge::relay=trce", "\"trce\" is not a level"),
    ] {
        let log = log_of_one(|bridge| bridge.variable("VSOCK_BRIDGE_LOG", filter));
        let warned: Vec<&String> = log
            .iter()
            .filter(|line| line.contains("warning: "))
            .collect();
        let said = format!("vsock-bridge: warning: VSOCK_BRIDGE_LOG: {words}");
        assert!(
            warned.len() == 1 && warned[0].starts_with(&said),
            "{log:#?}"
        );
        assert_eq!(steps(&log).len(), 1, "{log:#?}");
    }
}
