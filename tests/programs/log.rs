//! The log: one that takes nothing holds no connection up, and a flood of one kind is a few lines.
//!
//! The journal is tested under real systemd.

use std::fs::File;
use std::io::Write;
use std::thread;
use std::time::Instant;

use crate::common::bridge::Bridge;
use crate::common::content::{Content, read_to_end};
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
