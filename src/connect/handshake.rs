//! What is said on a stream before it leads to the target: the line of hybrid vsock, or the request for a tunnel.

use std::time::Duration;

use nix::errno::Errno;

use super::Dialer;
use super::address::Address;
use crate::error::{Error, Result};
use crate::stream::Stream;
use crate::{mux, tunnel};

/// What a gateway needs beyond its own time to say that a machine is silent, on a busy machine.
const GATEWAY_ALLOWANCE: Duration = Duration::from_secs(2);

/// Words each way, and how far they have come.
#[derive(Debug)]
pub(super) enum Handshake {
    /// With the monitor of a machine.
    Mux(mux::Handshake),
    /// With a gateway.
    Tunnel(tunnel::Handshake),
}

impl Handshake {
    /// Returns whether an address needs any.
    pub(super) fn is_needed(address: &Address) -> bool {
        matches!(address, Address::Mux(..) | Address::Tunnel { .. })
    }

    /// Begins what an address needs, if it needs any.
    pub(super) fn towards(address: &Address, dialer: &Dialer) -> Option<Handshake> {
        match address {
            Address::Mux(_, port) => {
                let handshake = mux::Handshake::new(*port, dialer.mux_answer);
                Some(Handshake::Mux(handshake))
            }
            Address::Tunnel { asked, .. } => tunnel::Handshake::new(asked).map(Handshake::Tunnel),
            _ => None,
        }
    }

    /// Returns how much longer the answer may take than the target has time: a gateway says that a machine is silent once its
    /// own time for that is over, which is as long by default.
    pub(super) fn allowance(&self, timeout: Duration) -> Duration {
        match self {
            Handshake::Mux(_) => Duration::ZERO,
            Handshake::Tunnel(_) => timeout.min(GATEWAY_ALLOWANCE),
        }
    }

    /// Says what no answer within that time means.
    pub(super) fn silence(&self, address: &Address, timeout: Duration) -> Error {
        match self {
            Handshake::Mux(_) => address.silence(timeout),
            Handshake::Tunnel(_) => Error::Tunnel {
                target: Box::new(address.endpoint()),
                problem: format!(
                    "it was reached, and has not said within {:?} whether the machine answers",
                    timeout + self.allowance(timeout)
                ),
                is_final: false,
            },
        }
    }

    /// Goes as far as the stream allows without blocking; returns whether all is said, and the stream leads to the target.
    ///
    /// Errors: the other end does not lead there.
    pub(super) fn advance(&mut self, stream: &Stream, address: &Address) -> Result<bool> {
        match self {
            Handshake::Mux(handshake) => mux_on(handshake, stream, address),
            Handshake::Tunnel(handshake) => tunnel_on(handshake, stream, address),
        }
    }
}

fn mux_on(handshake: &mut mux::Handshake, stream: &Stream, address: &Address) -> Result<bool> {
    match handshake.advance(stream) {
        Ok(mux::Progress::Accepted) => Ok(true),
        Ok(mux::Progress::Waiting) => Ok(false),
        Ok(mux::Progress::Refused) => Err(Error::Connect {
            target: Box::new(address.endpoint()),
            hint: " (nothing listens on that port in the VM)",
            source: Errno::ECONNREFUSED,
        }),
        Ok(mux::Progress::Garbage(problem)) => Err(Error::Mux {
            target: Box::new(address.endpoint()),
            problem,
        }),
        Err(errno) => Err(address.refusal(errno)),
    }
}

fn tunnel_on(
    handshake: &mut tunnel::Handshake,
    stream: &Stream,
    address: &Address,
) -> Result<bool> {
    let fail = |problem: String, is_final: bool| {
        Err(Error::Tunnel {
            target: Box::new(address.endpoint()),
            problem,
            is_final,
        })
    };
    match handshake.advance(stream) {
        Ok(tunnel::Progress::Accepted) => Ok(true),
        Ok(tunnel::Progress::Waiting) => Ok(false),
        Ok(tunnel::Progress::Denied { why, is_final }) => fail(why, is_final),
        Ok(tunnel::Progress::Garbage(answer)) => fail(
            format!(
                "{} is no gateway: it answered {answer}; have VSOCK_BRIDGE_VIA, or --via, lead to \
                 vsock-bridge-gateway.socket of the host, as vsock:host:1080 does",
                address.first()
            ),
            true,
        ),
        Err(errno) => Err(address.refusal(errno)),
    }
}
