//! The control socket of a bridge: who may open it, what it tells, and that no reader holds the bridge up.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::bridge::Bridge;
use crate::common::content::{Content, read_to_end};
use crate::common::place::{Kind, Place, ping};
use crate::common::{DEADLINE, eventually, own_folder, skipped};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use socket2::Socket;
use tempfile::TempDir;
use vsock_bridge::testing::{Snapshot, Stage};

/// Enough to be taken for bulk, whatever the measure is.
const MUCH: u64 = 64 << 20;

/// What RuntimeDirectory= gives a service.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(own_folder())
    }

    fn given_to(&self, bridge: Bridge) -> Bridge {
        bridge.variable("RUNTIME_DIRECTORY", self.0.path())
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("control")
    }

    /// Connects as soon as the bridge listens.
    fn connect(&self) -> UnixStream {
        let mut stream = None;
        eventually("the control socket is there", || {
            stream = UnixStream::connect(self.socket()).ok();
            stream.is_some()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn snapshot(&self) -> Snapshot {
        snapshot(self.connect()).expect("an answer")
    }
}

/// Reads the answer; none if there is only the end.
fn snapshot(mut stream: UnixStream) -> Option<Snapshot> {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (!text.is_empty()).then(|| parse(&text))
}

fn connected(listener: &Place, target: &Place) -> (Socket, Socket) {
    let client = listener.connect();
    (client, target.accept())
}

fn name(client: &Socket) -> String {
    let address = client.local_addr().unwrap();
    address.as_socket().unwrap().to_string()
}

#[test]
fn the_socket_is_for_its_user_alone_and_goes_with_the_program() {
    let folder = Folder::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = folder.given_to(Bridge::to(&target.text).listener(&listener));
    let bridge = bridge.start();
    folder.snapshot();
    let metadata = fs::metadata(folder.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    bridge.stop();
    assert!(!folder.socket().exists());
}

#[test]
fn the_socket_of_a_process_that_was_killed_is_replaced() {
    let folder = Folder::new();
    drop(UnixListener::bind(folder.socket()).unwrap());
    // A program that another test starts at that moment has it, too, until it begins.
    eventually("nobody answers", || {
        UnixStream::connect(folder.socket()).is_err()
    });
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&target.text).listener(&listener);
    let bridge = folder.given_to(bridge).start();
    assert_eq!(folder.snapshot().pid, bridge.pid());
    bridge.stop();
}

#[test]
fn the_socket_cannot_be_made_the_bridge_says_so_and_serves() {
    let folder = Folder::new();
    fs::create_dir(folder.socket()).unwrap();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&target.text).listener(&listener);
    let mut bridge = folder.given_to(bridge).start();
    let line = bridge.wait_for_line("no control socket in");
    assert!(
        line.contains("warning: ") && line.contains("vsockctl list"),
        "{line}"
    );
    let (mut client, mut server) = connected(&listener, &target);
    ping(&mut client, &mut server);
}

#[test]
fn a_process_of_one_connection_has_no_socket() {
    let folder = Folder::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let mut client = listener.connect();
    let bridge = Bridge::to(&target.text).descriptor(listener.accept());
    let mut bridge = folder.given_to(bridge).start();
    let mut server = target.accept();
    ping(&mut client, &mut server);
    assert!(!folder.socket().exists());
    drop((client, server));
    assert_eq!(bridge.exit_code(), 0, "{:#?}", bridge.log);
}

#[test]
fn connections_are_told_with_peer_target_bytes_and_stage_the_oldest_first() {
    let folder = Folder::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text).arguments(&["--connect-retry", "1h"]);
    let bridge = folder.given_to(bridge.listener(&listener)).start();
    let (mut open, mut server) = connected(&listener, &target);
    ping(&mut open, &mut server);
    let (mut half_closed, mut other) = connected(&listener, &target);
    half_closed.write_all(b"all").unwrap();
    half_closed.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut other).0, b"all");
    // It does not listen any more.
    target.socket.shutdown(Shutdown::Both).unwrap();
    let connecting = listener.connect();
    eventually("three connections", || folder.snapshot().open == 3);

    let told = folder.snapshot();
    assert_eq!(told.pid, bridge.pid());
    assert_eq!(told.state, "serving");
    assert_eq!(
        (&told.listeners, &told.target),
        (&vec![listener.text.clone()], &target.text)
    );
    let expected = [
        (name(&open), Stage::Open, 1, 1),
        (name(&half_closed), Stage::HalfClosed, 3, 0),
        (name(&connecting), Stage::Connecting, 0, 0),
    ];
    assert_eq!(told.connections.len(), expected.len(), "{told:#?}");
    for (connection, (peer, stage, inbound, outbound)) in told.connections.iter().zip(expected) {
        assert_eq!((&connection.peer, connection.cid), (&peer, None));
        assert_eq!(
            (&connection.target, connection.stage),
            (&target.text, stage)
        );
        let bytes = (connection.inbound_bytes, connection.outbound_bytes);
        assert_eq!(bytes, (inbound, outbound), "{connection:#?}");
        assert!(
            connection.age_seconds >= connection.idle_seconds,
            "{connection:#?}"
        );
        assert!(connection.idle_seconds >= 0.0, "{connection:#?}");
    }
    assert!(told.connections[0].age_seconds >= told.connections[1].age_seconds);
}

#[test]
fn what_is_over_is_in_the_totals() {
    let folder = Folder::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text).arguments(&["--max-connections", "1"]);
    let bridge = folder.given_to(bridge.listener(&listener)).start();
    let (mut client, mut server) = connected(&listener, &target);
    listener.expect_refusal();
    ping(&mut client, &mut server);
    client.write_all(b"12345").unwrap();
    drop(client);
    read_to_end(&mut server);
    drop(server);
    eventually("nobody is left", || folder.snapshot().open == 0);
    target.socket.shutdown(Shutdown::Both).unwrap();
    listener.expect_refusal();

    let told = folder.snapshot();
    assert_eq!((told.served, told.refused, told.unreachable), (1, 1, 1));
    assert_eq!((told.inbound_bytes, told.outbound_bytes), (6, 1));
    assert_eq!(told.connections, []);
    let last = told.last_failure.unwrap();
    assert!(last.reason.contains("nothing listens"), "{last:?}");
    assert!((0.0..600.0).contains(&last.age_seconds), "{last:?}");
    bridge.stop();
}

#[test]
fn a_stop_signal_came_the_bridge_is_told_as_stopping() {
    let folder = Folder::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Tcp6));
    let bridge = Bridge::to(&target.text).arguments(&["--drain-timeout", "1h"]);
    let mut bridge = folder.given_to(bridge.listener(&listener)).start();
    let (client, server) = connected(&listener, &target);
    bridge.signal(Signal::SIGTERM);
    bridge.wait_for_line("stopping: 1 connection");
    let told = folder.snapshot();
    assert_eq!((&*told.state, told.open), ("stopping", 1));
    drop((client, server));
    assert_eq!(bridge.exit_code(), 0);
}

#[test]
fn the_bytes_of_a_bulk_transfer_grow_and_end_in_the_totals() {
    let folder = Folder::new();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&target.text).listener(&listener);
    let bridge = folder.given_to(bridge).start();
    let (client, mut server) = connected(&listener, &target);
    let content = Content::new(91);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut client = client;
            content.send(&mut client, 3 * MUCH);
        });
        let mut told = Vec::new();
        let mut sink = vec![0; MUCH as usize];
        for _ in 0..2 {
            server.read_exact(&mut sink).unwrap();
            let snapshot = folder.snapshot();
            let [connection] = &snapshot.connections[..] else {
                panic!("not one connection: {snapshot:#?}")
            };
            told.push(connection.inbound_bytes);
        }
        assert!(told[0] >= MUCH && told[1] >= 2 * MUCH, "{told:?}");
        server.read_exact(&mut sink).unwrap();
        sender.join().unwrap();
    });
    assert_eq!(read_to_end(&mut server).0, b"");
    drop(server);
    eventually("the connection is over", || folder.snapshot().open == 0);
    assert_eq!(folder.snapshot().inbound_bytes, 3 * MUCH);
    bridge.stop();
}

/// Connections whose list is more than a socket takes from a writer that nobody reads.
const MANY: usize = 1500;

#[test]
fn readers_that_never_read_hold_nothing_up_and_a_fifth_is_closed() {
    if !raise_open_files() {
        return skipped("too few descriptors are allowed here");
    }
    let folder = Folder::new();
    let (listener, target) = (Place::listening(Kind::Unix), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&target.text).arguments(&["--max-connections-per-peer", "5000"]);
    let bridge = folder.given_to(bridge.listener(&listener)).start();
    let mut open: Vec<_> = (0..MANY).map(|_| connected(&listener, &target)).collect();
    let (client, server) = &mut open[0];
    ping(client, server);
    // The four have two seconds for their answers, so that a bridge that stood still meanwhile answers the fifth.
    eventually("a fifth reader is closed", || {
        bridge.signal(Signal::SIGSTOP);
        let _silent: Vec<UnixStream> = (0..4).map(|_| folder.connect()).collect();
        let fifth = folder.connect();
        bridge.signal(Signal::SIGCONT);
        let answer = snapshot(fifth);
        ping(client, server);
        assert!(answer.as_ref().is_none_or(|told| told.open == MANY));
        answer.is_none()
    });
    eventually("the four have given way", || {
        snapshot(folder.connect()).is_some_and(|told| told.connections.len() == MANY)
    });
    drop(open);
    bridge.stop();
}

/// Takes as many descriptors as the administrator allows.
fn raise_open_files() -> bool {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() && hard as usize > 3 * MANY
}

/// Whoever asks waits until there is a descriptor for the answer, and the loop does not run meanwhile.
#[test]
fn descriptors_run_out_who_asks_waits_without_a_busy_loop_and_is_answered() {
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let folder = Folder::new();
    let bridge = folder
        .given_to(Bridge::to(&target.text))
        .listener(&listener)
        .start();
    let (mut client, mut server) = connected(&listener, &target);
    ping(&mut client, &mut server);
    folder.snapshot();
    bridge.limit_descriptors(bridge.lowest_free_descriptor());
    let (started, before) = (Instant::now(), bridge.cpu_time());
    let waiting = folder.connect();
    // Nine times as long as the pause between two looks.
    waiting
        .set_read_timeout(Some(Duration::from_millis(900)))
        .unwrap();
    assert!((&waiting).read(&mut [0]).is_err());
    let (used, passed) = (bridge.cpu_time() - before, started.elapsed());
    assert!(used <= passed / 10, "{used:?} in {passed:?}");
    bridge.limit_descriptors(1000);
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(snapshot(waiting).is_some());
}
