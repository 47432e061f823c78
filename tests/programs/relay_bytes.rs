//! Bytes through a running bridge: none lost, altered or moved, in both directions, whatever their number.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::thread;

use crate::common::content::{Content, End, read_to_end};
use crate::common::eventually;
use crate::common::pair::{Accept, Pair, each_mode, each_pair};
use crate::common::place::{Kind, ping};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::Socket;

const MIB: u64 = 1 << 20;
/// Pairs that between them take every way of moving bytes.
const PAIRS: [(Kind, Kind); 4] = [
    (Kind::Tcp6, Kind::Tcp6),
    (Kind::Tcp6, Kind::Unix),
    (Kind::Unix, Kind::Tcp4),
    (Kind::Unix, Kind::Unix),
];

#[test]
fn one_byte_each_way_arrives() {
    each_pair(|mut pair| {
        ping(&mut pair.client, &mut pair.server);
        let (client, server, ends) = pair.split();
        drop((client, server));
        ends.expect_complete(1, 1);
    });
}

#[test]
fn writes_around_buffer_sizes_arrive_whole() {
    let (there, back) = (Content::new(1), Content::new(2));
    each_pair(|mut pair| {
        for size in [32, 64, 128, 256, 1024].map(|kib| kib * 1024) {
            for count in [size - 1, size, size + 1] {
                exchange(&there, &mut pair.client, &mut pair.server, count);
                exchange(&back, &mut pair.server, &mut pair.client, count);
            }
        }
        let (client, server, ends) = pair.split();
        drop((client, server));
        let all = 3 * (32 + 64 + 128 + 256 + 1024) * 1024;
        ends.expect_complete(all, all);
    });
}

fn exchange(content: &Content, from: &mut Socket, to: &mut Socket, count: u64) {
    thread::scope(|scope| {
        scope.spawn(|| content.send(from, count));
        content.expect(to, count);
    });
}

#[test]
fn a_hundred_mib_each_way_at_once_with_slow_readers_arrive() {
    let (there, back) = (Content::new(3), Content::new(4));
    let count = 100 * MIB;
    for (from, to) in PAIRS {
        let pair = Pair::new(Accept::No, from, to, &[]);
        let (client, server, ends) = pair.split();
        thread::scope(|scope| {
            scope.spawn(|| send_all(&there, &client, count));
            scope.spawn(|| send_all(&back, &server, count));
            scope.spawn(|| there.expect_all(&mut Slow(&server), count));
            scope.spawn(|| back.expect_all(&mut Slow(&client), count));
        });
        drop((client, server));
        ends.expect_complete(count, count);
    }
}

fn send_all(content: &Content, mut socket: &Socket, count: u64) {
    content.send(&mut socket, count);
    socket.shutdown(std::net::Shutdown::Write).unwrap();
}

/// Reads little at a time, so that it is the slowest of all.
struct Slow<'a>(&'a Socket);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(3001);
        self.0.read(&mut buffer[..most])
    }
}

#[test]
fn both_sides_fill_every_buffer_before_they_read_nothing_is_stuck() {
    let (there, back) = (Content::new(5), Content::new(6));
    for (from, to) in PAIRS {
        each_mode(from, to, |mut pair| {
            let sent = there.fill(&pair.client);
            let answered = back.fill(&pair.server);
            // One direction is empty before the other is looked at.
            there.expect(&mut pair.server, sent);
            back.expect(&mut pair.client, answered);
            let (client, server, ends) = pair.split();
            drop((client, server));
            ends.expect_complete(sent, answered);
        });
    }
}

#[test]
fn a_reader_with_the_smallest_buffer_gets_every_byte() {
    let content = Content::new(7);
    // Over TCP each window is a few hundred bytes, and is announced with a delay.
    let count = 20_000;
    for (from, to) in PAIRS {
        let (client, mut server, ends) = Pair::new(Accept::No, from, to, &[]).split();
        server.set_recv_buffer_size(1).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| send_all(&content, &client, count));
            content.expect_all(&mut server, count);
        });
        drop((client, server));
        ends.expect_complete(count, 0);
    }
}

#[test]
fn many_small_writes_arrive_in_order() {
    let content = Content::new(8);
    let bytes = content.first(200_000);
    for (from, to) in PAIRS {
        let (client, mut server, ends) = Pair::new(Accept::No, from, to, &[]).split();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = &bytes[..];
                for size in [1, 64, 128, 200, 300, 600].into_iter().cycle() {
                    let (now, later) = rest.split_at(size.min(rest.len()));
                    (&client).write_all(now).unwrap();
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
                client.shutdown(std::net::Shutdown::Write).unwrap();
            });
            content.expect_all(&mut server, bytes.len() as u64);
        });
        drop((client, server));
        ends.expect_complete(bytes.len() as u64, 0);
    }
}

/// A read stops in front of the urgent byte although more is there (tcp(7)).
#[test]
fn bytes_behind_an_urgent_one_arrive_without_further_ones() {
    for to in [Kind::Tcp6, Kind::Unix] {
        each_mode(Kind::Tcp6, to, |mut pair| {
            ping(&mut pair.client, &mut pair.server);
            // All is there before the bridge looks.
            pause(&pair, || {
                pair.client.send(b"before").unwrap();
                pair.client.send_out_of_band(b"!").unwrap();
                pair.client.send(b"behind").unwrap();
            });
            let mut bytes = vec![0; 12];
            pair.server.read_exact(&mut bytes).unwrap();
            // The urgent byte itself may come in line or not at all.
            if let Some(at) = bytes.iter().position(|byte| *byte == b'!') {
                pair.server.read_exact(&mut bytes[at..=at]).unwrap();
                bytes[at..].rotate_left(1);
            }
            assert_eq!(bytes, b"beforebehind");
        });
    }
}

/// A read stops behind a byte that came with descriptors although more is there (unix(7)).
#[test]
fn bytes_behind_a_passed_descriptor_arrive_without_further_ones() {
    for to in [Kind::Tcp6, Kind::Unix] {
        each_mode(Kind::Unix, to, |mut pair| {
            ping(&mut pair.client, &mut pair.server);
            pause(&pair, || {
                let descriptors = [pair.client.as_raw_fd()];
                let control = [ControlMessage::ScmRights(&descriptors)];
                let bytes = [IoSlice::new(b"a")];
                let number = pair.client.as_raw_fd();
                sendmsg::<()>(number, &bytes, &control, MsgFlags::empty(), None).unwrap();
                pair.client.send(b"b").unwrap();
            });
            let mut bytes = [0; 2];
            pair.server.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"ab");
        });
    }
}

/// Does something while the bridge stands still.
fn pause(pair: &Pair, act: impl FnOnce()) {
    let bridge = &pair.ends.bridge;
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", bridge.pid())).unwrap();
        stat.rsplit(')').next().unwrap().starts_with(" T")
    };
    bridge.signal(Signal::SIGSTOP);
    eventually("the bridge stands still", is_stopped);
    act();
    bridge.signal(Signal::SIGCONT);
}

#[test]
fn a_header_that_the_peer_sends_itself_is_passed_as_it_is() {
    let header = b"PROXY TCP6 ::1 ::1 1 2\r\n";
    each_mode(Kind::Tcp6, Kind::Tcp6, |pair| {
        let (mut client, mut server, _ends) = pair.split();
        client.write_all(header).unwrap();
        drop(client);
        assert_eq!(read_to_end(&mut server), (header.to_vec(), End::Clean));
    });
}
