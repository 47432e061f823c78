//! Starts vsock-connect.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use vsock_bridge::testing::{drop_packet, peek_packet};

use super::program::{Program, command, ours, with_own_settings};

/// Begins a command that depends on no settings of this machine.
pub fn connect<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut connect = command(ours("vsock-connect"));
    with_own_settings(&mut connect)
        .args(arguments)
        // Bounds the search for a name where no resolver answers (resolv.conf(5)).
        .env("RES_OPTIONS", "timeout:1 attempts:1");
    connect
}

/// Starts it between two pipes.
pub fn piped<S: AsRef<OsStr>>(arguments: &[S]) -> Program {
    let mut connect = connect(arguments);
    connect.stdin(Stdio::piped()).stdout(Stdio::piped());
    Program::start(connect)
}

/// Takes the descriptor that a program which is over has passed, with the one byte that it came with.
pub fn passed(socket: impl AsFd) -> OwnedFd {
    let (bytes, mut descriptors) = peek_packet(socket.as_fd()).unwrap();
    assert_eq!((bytes.len(), descriptors.len()), (1, 1));
    drop_packet(socket.as_fd()).unwrap();
    descriptors.remove(0)
}
