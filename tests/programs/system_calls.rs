//! What a short connection costs the bridge in system calls.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use crate::common::bridge::Bridge;
use crate::common::place::{Kind, Place};
use crate::common::store::Store;
use crate::common::{own_folder, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sixteen clients at a time, as in the scenario short-16 of the bench.
const CLIENTS: usize = 16;
const CONNECTIONS: usize = 120;
/// Twenty, five of which see to it that a crash is no clean end, and two more with a store; on a busy machine events come one
/// by one, which adds some. systemd-socket-proxyd needs 53.
const MOST_CALLS: f64 = 26.0;

#[test]
fn a_short_connection_costs_at_most_twenty_six_calls() {
    count_calls(None);
}

/// Two of them put it where it survives a crash, and forget it there.
#[test]
fn one_that_is_kept_costs_no_more() {
    count_calls(Some(Store::new()));
}

fn count_calls(store: Option<Store>) {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    // Looking for events is not waiting for them, and would be counted.
    let mut bridge = Bridge::to(&target.text)
        .arguments(&["--busy-poll", "no"])
        .listener(&listener);
    if let Some(store) = &store {
        bridge = bridge.variable("NOTIFY_SOCKET", &store.path);
    }
    let mut bridge = bridge.start();
    bridge.wait_for_line("bridging");
    // The first connection does not inherit the listener's options.
    exchange(&listener, &target);

    let directory = own_folder();
    let summary = directory.path().join("summary");
    let mut tracer = Command::new("strace")
        // The standard library makes sure of a descriptor before it closes it, in debug builds.
        .args([
            "-f",
            "-c",
            "-e",
            "trace=!fcntl",
            "-p",
            &bridge.pid().to_string(),
            "-o",
        ])
        .arg(&summary)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: it says more as threads are made, and would end if nobody could hear it.
    let mut said = BufReader::new(tracer.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("attached")));
    load(&listener, &target);
    kill(Pid::from_raw(tracer.id() as i32), Signal::SIGINT).unwrap();
    tracer.wait().unwrap();
    bridge.stop();

    let summary = std::fs::read_to_string(&summary).unwrap();
    assert!(
        count(&summary, "connect") >= CLIENTS * CONNECTIONS,
        "{summary}"
    );
    let each = count(&summary, "total") as f64 / (CLIENTS * CONNECTIONS) as f64;
    assert!(each <= MOST_CALLS, "{each:.1} calls for each connection");
}

fn load(listener: &Place, target: &Place) {
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..CLIENTS * CONNECTIONS {
                let mut server = target.accept();
                scope.spawn(move || echo(&mut server));
            }
        });
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..CONNECTIONS).for_each(|_| request(listener)));
        }
    });
}

fn exchange(listener: &Place, target: &Place) {
    thread::scope(|scope| {
        scope.spawn(|| request(listener));
        echo(&mut target.accept());
    });
}

fn request(listener: &Place) {
    let mut client = listener.connect();
    client.write_all(&[7; 64]).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [7; 64]);
}

/// Answers one request and closes.
fn echo(server: &mut (impl Read + Write)) {
    let mut request = [0; 64];
    server.read_exact(&mut request).unwrap();
    server.write_all(&request).unwrap();
}

/// Reads a number of calls from a line of `strace -c`: `100.00 0.1 5 1234 [errors] total`.
fn count(summary: &str, name: &str) -> usize {
    let line = summary.lines().rfind(|line| line.ends_with(name)).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}
