//! vsock-exec: the command has the connection, knows who is there, and does not run for what is wrong.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use socket2::Socket;
use tempfile::TempDir;

use crate::common::bridge::Bridge;
use crate::common::content::{End, read_to_end};
use crate::common::place::{Kind, Place};
use crate::common::{own_folder, skipped};

/// Passes an accepted connection.
fn exec(connection: impl Into<std::os::fd::OwnedFd>) -> Bridge {
    Bridge::program("vsock-exec").descriptor(connection)
}

/// A peer, and what systemd has accepted for it.
fn connected(kind: Kind) -> (Socket, Socket) {
    let place = Place::listening(kind);
    let peer = place.connect();
    (peer, place.accept())
}

/// The same where the listener names a port.
fn connected_to_port(name: &str) -> (TempDir, UnixStream, UnixStream) {
    let folder = own_folder();
    let path = folder.path().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let peer = UnixStream::connect(&path).unwrap();
    (folder, peer, listener.accept().unwrap().0)
}

#[test]
fn the_command_has_the_connection_to_its_end_in_each_direction() {
    for kind in Kind::ALL {
        let (mut peer, accepted) = connected(kind);
        let mut program = exec(accepted)
            .arguments(&["--", "sh", "-c", "cat; echo end"])
            .start();
        peer.write_all(b"hello ").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            read_to_end(&mut peer),
            (b"hello end\n".to_vec(), End::Clean)
        );
        assert_eq!((program.exit_code(), &*program.log), (0, &[][..]));
    }
}

#[test]
fn the_command_knows_who_is_there_and_has_nothing_else_of_systemd() {
    for (kind, expected) in [
        (Kind::Tcp6, ["::1", ""]),
        (Kind::Tcp4, ["127.0.0.1", ""]),
        (Kind::Unix, ["", &*nix::unistd::getuid().to_string()]),
    ] {
        let (mut peer, accepted) = connected(kind);
        let script = "echo $REMOTE_ADDR,$REMOTE_UID,$LISTEN_FDS$LISTEN_PID$LISTEN_PIDFDID; \
                      readlink /proc/$$/fd/* | grep -cFx \"$(readlink /proc/$$/fd/0)\"; exit 3";
        let mut program = exec(accepted)
            .variable("REMOTE_ADDR", "vsock:3")
            .variable("LISTEN_PIDFDID", "7")
            .arguments(&["--", "sh", "-c", script])
            .start();
        let (said, end) = read_to_end(&mut peer);
        let [address, uid] = expected;
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said, format!("{address},{uid},\n2\n"));
        assert_eq!((end, program.exit_code()), (End::Clean, 3));
    }
}

#[test]
fn the_socket_blocks_as_a_fresh_one_does() {
    let (mut peer, accepted) = connected(Kind::Unix);
    accepted.set_nonblocking(true).unwrap();
    let mut program = exec(accepted)
        .arguments(&["--", "sh", "-c", "read line; echo \"$line\" back"])
        .start();
    peer.write_all(b"there and\n").unwrap();
    assert_eq!(
        read_to_end(&mut peer),
        (b"there and back\n".to_vec(), End::Clean)
    );
    assert_eq!(program.exit_code(), 0);
}

#[test]
fn what_cannot_be_run_is_one_line_and_no_clean_end() {
    let (mut peer, accepted) = connected(Kind::Tcp6);
    let mut program = exec(accepted).arguments(&["/nonexistent/program"]).start();
    assert_eq!(program.exit_code(), 1);
    let line =
        "vsock-exec: cannot run /nonexistent/program: No such file or directory (os error 2)";
    assert_eq!(program.log, [line]);
    assert_eq!(peer.read(&mut [0]).ok(), None);
    let (mut peer, accepted) = connected(Kind::Tcp6);
    let mut program = exec(accepted).arguments(&["--", ""]).start();
    assert_eq!(program.exit_code(), 2);
    let line =
        "vsock-exec: `COMMAND`: the name of the program is empty; was a variable of the shell?";
    assert_eq!(program.log, [line]);
    assert_eq!(peer.read(&mut [0]).ok(), None);
}

#[test]
fn a_listener_is_no_connection() {
    let place = Place::listening(Kind::Tcp6);
    let finished = Bridge::program("vsock-exec")
        .listener(&place)
        .arguments(&["cat"])
        .finish();
    assert_eq!((finished.code, finished.stderr.len()), (2, 1));
    assert!(finished.stderr[0].contains("write Accept=yes into the socket unit"));
    let finished = Bridge::program("vsock-exec").arguments(&["cat"]).finish();
    let line = &finished.stderr[0];
    assert!(
        line.contains("LISTEN_FDS is 0") && line.contains("systemctl start vsock-exec@22.socket"),
        "{finished:?}"
    );
    assert_eq!(finished.code, 2, "{finished:?}");
}

/// Runs it with a file of the port 2222 that has that text, and its own /etc.
fn by_file(accepted: UnixStream, text: &str) -> Option<Bridge> {
    let bridge = exec(accepted).with_hidden(&["/etc"])?;
    let folder = "/etc/vsock-bridge";
    let write = format!("mkdir {folder} && printf '{text}' >{folder}/vsock-exec@2222.conf");
    Some(bridge.shell(&write))
}

#[test]
fn the_file_of_the_port_has_the_command_and_variables_for_it() {
    let (_folder, mut peer, accepted) = connected_to_port("guest.vsock_2222");
    let text =
        "# sftp\\nVSOCK_BRIDGE_EXEC=sh -c \"echo \\$1, \\$OWN\" sh \"a b\"\\nOWN=variable\\n";
    let Some(bridge) = by_file(accepted, text) else {
        return skipped("nothing can be mounted here");
    };
    let mut program = bridge.start();
    let answer = read_to_end(&mut peer);
    assert_eq!(answer, (b"a b, variable\n".to_vec(), End::Clean));
    assert_eq!((program.exit_code(), &*program.log), (0, &[][..]));
}

#[test]
fn what_is_wrong_in_the_file_is_one_line_with_its_place_and_nothing_runs() {
    let file = "/etc/vsock-bridge/vsock-exec@2222.conf";
    let run = "VSOCK_BRIDGE_EXEC=echo served\\n";
    for (text, said) in [
        (
            "".to_owned(),
            format!("no command for port 2222: write one into {file}, such as"),
        ),
        (
            format!("{run}VSOCK_BRIDGE_ALOW_CID=3\\n"),
            format!("{file}:2: VSOCK_BRIDGE_ALOW_CID is not a setting"),
        ),
        (
            format!("{run}ALLOW_CID=3\\n"),
            format!("{file}:2: ALLOW_CID is not a setting"),
        ),
        (
            format!("{run}VSOCK_BRIDGE_ALLOW_CID=7-3\\n"),
            format!("{file}:2: VSOCK_BRIDGE_ALLOW_CID: \"7-3\" is not a valid"),
        ),
        (
            format!("{run}nonsense\\n"),
            format!("{file}:2: expected NAME=value"),
        ),
        (
            format!("{run}VSOCK_BRIDGE_TO=[::1]:22\\n"),
            format!("{file}:2: VSOCK_BRIDGE_TO has no effect here"),
        ),
        (
            "VSOCK_BRIDGE_EXEC=echo \"a\\n".to_owned(),
            format!("{file}:1: VSOCK_BRIDGE_EXEC: \"echo \\\"a\" is not a valid command: a quote"),
        ),
        (
            "VSOCK_BRIDGE_EXEC=/none\\n".to_owned(),
            format!("{file}:1: cannot run /none: No such file"),
        ),
    ] {
        let (_folder, mut peer, accepted) = connected_to_port("guest.vsock_2222");
        let Some(bridge) = by_file(accepted, &text) else {
            return skipped("nothing can be mounted here");
        };
        let mut program = bridge.start();
        assert_eq!(program.exit_code(), 2, "{text}");
        let [line] = &program.log[..] else {
            panic!("{text}: not one line: {:#?}", program.log)
        };
        assert!(line.starts_with(&format!("vsock-exec: {said}")), "{line}");
        assert_eq!(read_to_end(&mut peer).0, b"", "{text}");
    }
}

#[test]
fn a_listener_that_names_no_port_is_told_what_to_do() {
    let (_folder, _peer, accepted) = connected_to_port("guest.vsock");
    let finished = exec(accepted).finish();
    assert_eq!((finished.code, finished.stderr.len()), (2, 1));
    assert!(
        finished.stderr[0].contains("let its path end in `_PORT`"),
        "{finished:?}"
    );
}
