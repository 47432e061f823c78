//! System calls of the bridge fail one at a time: a connection is served right or reset, and the next one is served.
//!
//! strace(1) is attached to the running bridge and makes the Nth call of a thread fail. EAGAIN is left out: the kernel
//! says it only when there is nothing, and reports later that there is something, which no injection does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::bridge::Bridge;
use crate::common::content::{Content, End, read_to_end};
use crate::common::place::{Kind, Place};
use crate::common::program::Program;
use crate::common::{eventually, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::Socket;

/// Enough to be taken for bulk, which goes through pipes and to another thread.
const BYTES: usize = 1 << 20;
/// Connections while a call fails, so that it fails at any of them.
const CONNECTIONS: usize = 3;
/// Families, so that copying and both kinds of splicing are met.
const PAIRS: [(Kind, Kind); 3] = [
    (Kind::Tcp6, Kind::Tcp6),
    (Kind::Tcp6, Kind::Unix),
    (Kind::Unix, Kind::Tcp6),
];

/// A bridge, and a target that echoes all and remembers how each connection ended.
struct Bench {
    bridge: Program,
    listener: Place,
    to: Kind,
    ends: Arc<Mutex<Vec<(usize, End)>>>,
}

impl Bench {
    fn new(from: Kind, to: Kind) -> Bench {
        let (listener, target) = (Place::listening(from), Place::listening(to));
        let mut bridge = Bridge::to(&target.text).listener(&listener).start();
        bridge.wait_for_line("bridging");
        let ends: Arc<Mutex<Vec<(usize, End)>>> = Arc::default();
        let seen = Arc::clone(&ends);
        thread::spawn(move || {
            // With the folder of a unix socket.
            let target = target;
            loop {
                // Nobody comes any more when the test is over.
                let Ok((server, _)) = target.socket.accept() else {
                    return;
                };
                let seen = Arc::clone(&seen);
                thread::spawn(move || seen.lock().unwrap().push(echo(server)));
            }
        });
        Bench {
            bridge,
            listener,
            to,
            ends,
        }
    }

    /// Serves some connections while a call fails; gives how often it failed.
    fn with_fault(&mut self, call: &str, error: &str, at: &str) -> usize {
        let tracer = Tracer::attach(self.bridge.pid(), call, error, at);
        for _ in 0..CONNECTIONS {
            self.exchange();
        }
        let injected = tracer.detach();
        assert!(
            !self.bridge.has_ended(),
            "{call} {error} {at}: it has ended"
        );
        assert_eq!(
            self.exchange(),
            End::Clean,
            "the next after {call} {error} {at}"
        );
        injected
    }

    /// Sends bytes through and back, and checks that none is lost in silence at either end.
    fn exchange(&self) -> End {
        let (content, client) = (Content::new(26), self.listener.connect());
        let sent = content.first(BYTES);
        let (received, end) = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                (&client).write_all(&sent)?;
                client.shutdown(Shutdown::Write)
            });
            let (received, end) = read_to_end(&mut &client);
            // A failed write has taken the reset away, and left an end in its place (tcp(7)).
            match sender.join().unwrap() {
                Ok(()) => (received, end),
                Err(_) => (received, End::Reset),
            }
        });
        assert!(sent.starts_with(&received), "other bytes than were sent");
        if self.listener.kind.is_tcp() {
            let is_whole = received.len() == BYTES;
            assert!(
                is_whole || end == End::Reset,
                "{} bytes, {end:?}",
                received.len()
            );
        }
        for (count, end) in self.ends.lock().unwrap().drain(..) {
            // One that was made and never used ends as usual; the client's end tells of that.
            let is_unused = count == 0;
            let is_honest = count == BYTES || end == End::Reset || is_unused || !self.to.is_tcp();
            assert!(is_honest, "the target had a clean end after {count} bytes");
        }
        match received.len() {
            BYTES => end,
            _ => End::Reset,
        }
    }

    /// Waits until the bridge does nothing, and ends it.
    fn stop(self) {
        eventually("the bridge rests", || {
            let before = self.bridge.cpu_time();
            thread::sleep(Duration::from_millis(100));
            self.bridge.cpu_time() == before
        });
        self.bridge.stop();
    }
}

/// Echoes to the end; gives the number of bytes and how it ended.
fn echo(mut server: Socket) -> (usize, End) {
    let mut buffer = vec![0; 65536];
    let mut count = 0;
    loop {
        match server.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                count += read;
                if server.write_all(&buffer[..read]).is_err() {
                    return (count, End::Reset);
                }
            }
            Err(_) => return (count, End::Reset),
        }
    }
    let _ = server.shutdown(Shutdown::Write);
    (count, End::Clean)
}

/// strace, attached to all threads of a process.
struct Tracer {
    strace: Child,
    said: Option<BufReader<std::process::ChildStderr>>,
}

impl Tracer {
    fn attach(pid: u32, calls: &str, error: &str, at: &str) -> Tracer {
        // A name that this architecture does not have is passed over.
        let calls: Vec<String> = calls.split(',').map(|call| format!("?{call}")).collect();
        let calls = calls.join(",");
        let mut strace = Command::new("strace")
            .args(["-f", "-p", &pid.to_string()])
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={error}:when={at}")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("attached") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "strace has ended");
        }
        Tracer {
            strace,
            said: Some(said),
        }
    }

    /// Lets the process go; gives how many calls have failed.
    fn detach(mut self) -> usize {
        let said = self.said.take().unwrap();
        let count = thread::spawn(move || {
            let lines = said.lines().map_while(Result::ok);
            lines.filter(|line| line.contains("(INJECTED)")).count()
        });
        kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGINT).unwrap();
        self.strace.wait().unwrap();
        count.join().unwrap()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Lets each of the calls fail with each error, at each of the places, on every pair of families.
fn sweep(calls: &[&str], errors: &[&str], places: &[&str]) {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    for call in calls {
        let mut injected = 0;
        for (from, to) in PAIRS {
            let mut bench = Bench::new(from, to);
            for error in errors {
                for place in places {
                    // Shown if the test fails.
                    eprintln!("{from:?} to {to:?}: {call} fails with {error} at {place}");
                    injected += bench.with_fault(call, error, place);
                }
            }
            bench.stop();
        }
        assert!(injected > 0, "{call} was never called");
    }
}

#[test]
fn accept_fails_for_one_connection_the_loop_goes_on() {
    sweep(
        &["accept4"],
        &["ECONNABORTED", "EPROTO", "EPERM", "EINTR", "ENETDOWN"],
        &["1", "2"],
    );
}

#[test]
fn accept_fails_for_want_of_something_accepting_pauses_and_goes_on() {
    sweep(
        &["accept4"],
        &["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"],
        &["1", "2..3"],
    );
}

#[test]
fn no_socket_for_the_target_or_no_connection_it_is_served_later_or_reset() {
    sweep(&["socket"], &["EMFILE", "ENOMEM", "ENOBUFS"], &["1", "2"]);
    sweep(
        &["connect"],
        &["ENOMEM", "ENOBUFS", "EADDRNOTAVAIL"],
        &["1"],
    );
}

#[test]
fn no_pipe_bytes_are_copied() {
    sweep(&["pipe2"], &["EMFILE", "ENFILE", "ENOMEM"], &["1", "2"]);
}

#[test]
fn a_connection_cannot_be_watched_it_is_reset() {
    sweep(&["epoll_ctl"], &["ENOMEM", "ENOSPC"], &["1", "2", "3"]);
}

#[test]
fn a_read_fails_it_is_reset() {
    sweep(
        &["recvfrom,recvmsg,recvmmsg"],
        &["ENOMEM", "ENOBUFS"],
        &["1", "3"],
    );
}

#[test]
fn a_write_fails_it_is_reset() {
    sweep(
        &["sendto,sendmsg,sendmmsg"],
        &["ENOMEM", "ENOBUFS"],
        &["1", "3"],
    );
}

#[test]
fn a_splice_fails_it_is_reset() {
    sweep(&["splice"], &["ENOMEM", "ENOBUFS"], &["1", "4"]);
}

#[test]
fn an_end_cannot_be_sent_on_it_is_reset() {
    sweep(&["shutdown"], &["ENOMEM", "ENOBUFS"], &["1", "2"]);
}

#[test]
fn calls_are_interrupted_they_are_tried_again() {
    let places = ["1", "2..4"];
    sweep(&["splice"], &["EINTR"], &places);
    sweep(&["recvfrom,recvmsg,recvmmsg"], &["EINTR"], &places);
    sweep(&["sendto,sendmsg,sendmmsg"], &["EINTR"], &places);
    sweep(
        &["epoll_wait,epoll_pwait,epoll_pwait2"],
        &["EINTR"],
        &places,
    );
}

#[test]
fn options_are_refused_it_is_served_or_reset() {
    sweep(&["setsockopt", "fcntl"], &["ENOMEM", "EPERM"], &["1", "2"]);
}

#[test]
fn accept_always_fails_the_bridge_tries_ten_times_a_second() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    for error in ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"] {
        let mut bench = Bench::new(Kind::Tcp6, Kind::Tcp6);
        let tracer = Tracer::attach(bench.bridge.pid(), "accept4", error, "1+");
        let started = Instant::now();
        let client = bench.listener.connect();
        for _ in 0..5 {
            bench.bridge.wait_for_line("accepting pauses");
        }
        let passed = started.elapsed();
        assert!(passed >= Duration::from_millis(350), "{error}: {passed:?}");
        tracer.detach();
        drop(client);
        assert_eq!(bench.exchange(), End::Clean);
        bench.stop();
    }
}
