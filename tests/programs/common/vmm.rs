//! The monitor of a machine with hybrid vsock, as a test plays it.

use std::io::{Read, Write};

use socket2::Socket;

use super::place::Place;

/// Takes a connection; returns it once the port was asked for.
pub fn asked(monitor: &Place, port: u32) -> Socket {
    let mut socket = monitor.accept();
    let request = format!("CONNECT {port}\n");
    let mut bytes = vec![0; request.len()];
    socket.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), request);
    socket
}

/// Takes a connection, and lets it through to the machine.
pub fn taken(monitor: &Place, port: u32) -> Socket {
    let mut socket = asked(monitor, port);
    socket.write_all(b"OK 1\n").unwrap();
    socket
}
