//! Looks whether a place answers, for whoever checks it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::TimeVal;

use super::{Caller, Dialer, Target};
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::gateway::{reply, request};
use crate::known::Known;
use crate::packets::Packets;
use crate::peer::{Destination, Peer};
use crate::stream::{Stream, Tuning};

/// Connects to a place, and closes at once.
///
/// Errors: why it cannot be reached within the limit.
pub(crate) fn probe(endpoint: &Endpoint, limit: Duration) -> Result<()> {
    connected(endpoint, limit).map(drop)
}

/// Connects to a gateway, has it answer a greeting, and closes.
///
/// Errors: in a line, why it cannot be reached within the limit, or that it is none.
pub(crate) fn greet(gateway: &Endpoint, limit: Duration) -> Result<(), String> {
    let stream = connected(gateway, limit).map_err(|error| error.report())?;
    let answer = greeted(stream, limit);
    match answer.map_err(|error| error.kind()) {
        Ok(reply::METHOD) => Ok(()),
        Ok(_) | Err(ErrorKind::WouldBlock) => {
            Err(format!("{gateway} does not answer as a gateway does"))
        }
        Err(_) => Err(format!("{gateway} closes the connection at once")),
    }
}

fn greeted(stream: Stream, limit: Duration) -> io::Result<[u8; 2]> {
    let mut socket = File::from(stream.into_blocking()?);
    let time = TimeVal::new(limit.as_secs() as i64, limit.subsec_micros().into());
    setsockopt(&socket, ReceiveTimeout, &time)?;
    socket.write_all(&request::GREETING)?;
    let mut answer = [0; 2];
    socket.read_exact(&mut answer)?;
    Ok(answer)
}

fn connected(endpoint: &Endpoint, limit: Duration) -> Result<Stream> {
    let target = Target::resolve(endpoint.clone(), &Known::now(None))?;
    let tuning = Tuning {
        keepalive: None,
        vsock_buffer_bytes: 1 << 16,
        vsock_packets: Packets::UNLIMITED,
    };
    let mut dialer = Dialer::to(target, limit, tuning);
    let (peer, from) = (Peer::Stdio, Destination::Unnamed);
    let mut attempt = dialer.dial(&peer, from, |_| Caller::default(), Moment::now())?;
    attempt.wait_connected(&mut dialer, || None, |_| {})
}
