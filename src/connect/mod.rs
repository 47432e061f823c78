//! From a target's endpoint to a connected stream, without blocking: every address, the source, the time limits.
//!
//! A [`Dialer`] is what all connections of a bridge share; an [`Attempt`] is how one of them reaches the target. For a peer of
//! the gateway also where its rules [lead], and what the peer is [told](answer).
//! The program that is named like it, vsock-connect, is [`crate::programs::connect`].

mod address;
pub(crate) mod answer;
mod attempt;
pub(crate) mod circle;
mod errand;
mod handshake;
mod inbound;
mod lead;
mod own_cid;
mod probe;
mod queue;
mod renewal;
mod target;
mod targets;
mod via;

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use address::Address;
pub(crate) use address::Source;
pub(crate) use attempt::{Attempt, Readiness};
pub(crate) use errand::{Asks, Errand};
pub(crate) use inbound::Inbound;
pub(crate) use lead::Lead;
pub(crate) use own_cid::is_own as is_own_cid;
pub(crate) use probe::{greet, probe};
pub(crate) use queue::{Caller, Queues};
pub(crate) use target::Target;
pub(crate) use targets::{Targets, check_listeners, machines};
pub(crate) use via::Route;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway::Gateway;
use crate::mux;
use crate::peer::{self, Destination, Peer};
use crate::prefix::Prefix;
use crate::proxy_protocol;
use crate::stream::{Stream, Tuning};
use crate::vsock::{Cid, VsockAddr, VsockPort};

/// What all connections of a bridge share on their way to the target.
#[derive(Debug)]
pub(crate) struct Dialer {
    /// Where they go.
    pub targets: Targets,
    /// Who may go where, if peers say where they want to go.
    pub gateway: Option<Arc<Gateway>>,
    /// The machines that the gateway of the host brings, if that is what it is for.
    pub inbound: Option<Arc<Inbound>>,
    /// The prefix that maps CIDs and addresses, if one is known.
    pub prefix: Option<Prefix>,
    /// Bound of one round through all addresses.
    pub timeout: Duration,
    /// Window in which a refused target is tried again.
    pub retry: Duration,
    /// Socket options.
    pub tuning: Tuning,
    /// What the monitor behind a hybrid socket says before the bytes of the target.
    pub mux_answer: mux::Answer,
    /// The header that comes before the bytes of the peer, if any.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

impl Dialer {
    /// Returns one that differs in its targets alone.
    pub(crate) fn with_targets(&self, targets: Targets) -> Dialer {
        let (gateway, inbound) = (self.gateway.clone(), self.inbound.clone());
        Dialer {
            targets,
            gateway,
            inbound,
            ..*self
        }
    }

    /// Returns one with a single target, which hears nothing but what is passed on, and is tried once.
    pub(crate) fn to(target: Target, timeout: Duration, tuning: Tuning) -> Dialer {
        Dialer {
            targets: Targets::common(target),
            gateway: None,
            inbound: None,
            mux_answer: mux::Answer::default(),
            proxy_protocol: None,
            prefix: None,
            timeout,
            retry: Duration::ZERO,
            tuning,
        }
    }

    /// For tests that need one and never connect.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Dialer {
        let target = Target {
            endpoint: Endpoint::Unix(crate::endpoint::UnixName::Unnamed),
            source: Source::Kernel,
            addresses: Vec::new(),
            renewal: None,
            machine: None,
            problem: None,
        };
        let tuning = Tuning {
            keepalive: None,
            vsock_buffer_bytes: 0,
            vsock_packets: crate::packets::Packets::UNLIMITED,
        };
        Dialer::to(target, Duration::ZERO, tuning)
    }

    /// Checks that the source fits the target, and that connections from mapped sources would come back.
    ///
    /// Errors: [`Error::Usage`], [`Error::NoRoute`].
    pub(crate) fn check(&self) -> Result<()> {
        self.targets.iter().try_for_each(Target::check)?;
        let is_mapped = (self.targets.iter()).any(|target| target.source == Source::Mapped);
        match self.prefix.filter(|_| is_mapped) {
            Some(prefix) if !has_local_route(prefix) => Err(Error::NoRoute { prefix }),
            _ => Ok(()),
        }
    }

    /// Begins to connect on behalf of a peer that connected to `destination`. `caller`: as whom it waits for room at the
    /// target with that number.
    ///
    /// Errors: [`Error::NoTarget`] when there is none for the peer; [`Error::Unmapped`] when the target is mapped and the
    /// destination names no CID.
    pub(crate) fn dial(
        &self,
        peer: &Peer,
        destination: Destination,
        caller: impl FnOnce(usize) -> Caller,
        now: Moment,
    ) -> Result<Attempt> {
        let number = self.targets.choose(peer, destination);
        let number = number.ok_or_else(|| Error::NoTarget(peer.to_string()))?;
        let target = self.targets.get(number);
        let mapped = match target.endpoint {
            Endpoint::VsockMapped(port) => {
                let address = Address::Vsock(self.map(destination, port)?);
                Some([self.targets.route().lead(address)].into())
            }
            _ => None,
        };
        let source = self.source_address(target.source, peer);
        let caller = caller(number);
        Ok(Attempt::new(
            self,
            number,
            mapped,
            source,
            Some(caller),
            now,
        ))
    }

    /// Returns what the target is told of a peer before its first byte; nothing without PROXY protocol.
    pub(crate) fn header(&self, peer: &Peer, stream: &Stream) -> Vec<u8> {
        let Some(version) = self.proxy_protocol else {
            return Vec::new();
        };
        let local = stream.local_address().ok();
        let local = local.and_then(|address| peer::endpoint(&address));
        proxy_protocol::header(version, peer, local.as_ref(), self.prefix)
    }

    /// Returns where a connection of the peer to `destination` goes: to a mapped target's machine, else to the target as
    /// given, if there is one for the peer.
    pub(crate) fn target_of(&self, peer: &Peer, destination: Destination) -> Option<Endpoint> {
        let target = self.targets.get(self.targets.choose(peer, destination)?);
        let mapped = match target.endpoint {
            Endpoint::VsockMapped(port) => self.map(destination, port).ok(),
            _ => None,
        };
        Some(mapped.map_or_else(|| target.endpoint.clone(), Endpoint::Vsock))
    }

    /// Returns the gateway through which a connection to a target has gone, whose socket has `reached` that address, if it
    /// still tells.
    pub(crate) fn gone_through(
        &self,
        target: &Endpoint,
        reached: impl FnOnce() -> Option<Endpoint>,
    ) -> Option<Endpoint> {
        self.targets.route().gone_through(target, reached)
    }

    /// Turns the destination of a connection into the machine that it names.
    fn map(&self, destination: Destination, port: Option<VsockPort>) -> Result<VsockAddr> {
        let destination = destination.tcp();
        let unmapped = || Error::Unmapped {
            address: destination.map_or("(no IP address)".into(), |d| d.to_string()),
        };
        let destination = destination.ok_or_else(unmapped)?;
        let cid = match destination.ip() {
            IpAddr::V6(ip) => self.prefix.and_then(|prefix| prefix.cid(ip)),
            IpAddr::V4(_) => None,
        };
        let port = port.unwrap_or(destination.port().into());
        Ok(VsockAddr {
            cid: Some(cid.ok_or_else(unmapped)?),
            port,
        })
    }

    /// Names the cause of a failure where it is that nothing comes back to the source any more.
    pub(super) fn explain(&self, error: Error, source: Option<IpAddr>) -> Error {
        const LOST: &str = " (the local route of the prefix is gone: `systemctl restart vsock-bridge-prefix.service` \
            adds it again)";
        let is_lost = || match (source, self.prefix) {
            (Some(IpAddr::V6(ip)), Some(prefix)) => prefix.contains(ip) && !has_local_route(prefix),
            _ => false,
        };
        match error {
            Error::ConnectTimeout { target, limit, .. } if is_lost() => Error::ConnectTimeout {
                target,
                hint: LOST,
                limit,
            },
            Error::Connect { target, source, .. } if is_lost() => Error::Connect {
                target,
                hint: LOST,
                source,
            },
            other => other,
        }
    }

    /// Returns the address to come from on behalf of the peer, if the kernel is not to choose it.
    fn source_address(&self, source: Source, peer: &Peer) -> Option<IpAddr> {
        match source {
            Source::Kernel => None,
            Source::Address(address) => Some(address),
            Source::Mapped => Some(self.prefix?.address(peer.cid()?).into()),
        }
    }
}

/// Returns whether all addresses of a prefix are this machine's. Without the local route a connection from a mapped source
/// would hang, because the answers go elsewhere.
pub(crate) fn has_local_route(prefix: Prefix) -> bool {
    let source = source_towards(prefix.address(Cid::LOCAL).into());
    matches!(source, Some(IpAddr::V6(ip)) if prefix.contains(ip) || ip.is_loopback())
}

/// Asks the kernel from where it would reach an address, which is the address itself if that is this machine's own: by
/// connecting a UDP socket, which sends nothing.
fn source_towards(ip: IpAddr) -> Option<IpAddr> {
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    // Not UdpSocket::bind, which the unit's SocketBindDeny= forbids; connect(2) chooses the source by itself.
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket = UdpSocket::from(socket.ok()?);
    // The discard port; any other would do.
    socket.connect((ip, 9)).ok()?;
    socket.local_addr().ok().map(|source| source.ip())
}
