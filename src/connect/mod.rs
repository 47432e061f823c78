//! From a target's endpoint to a connected stream, without blocking: every address, the source, the time limits.
//!
//! A [`Dialer`] is what all connections of a bridge share; an [`Attempt`] is how one of them reaches the target.
//! The program that is named like it, vsock-connect, is [`crate::programs::connect`].

mod address;
mod attempt;
pub(crate) mod circle;
mod own_cid;
mod queue;
mod renewal;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use address::Address;
pub(crate) use attempt::{Attempt, Readiness};
pub(crate) use queue::{Caller, Queue};
use renewal::Renewal;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::mux;
use crate::names::{GivenNames, Machine};
use crate::peer::{self, Destination, Peer};
use crate::prefix::Prefix;
use crate::proxy_protocol;
use crate::stream::{Stream, Tuning};
use crate::vsock::{Cid, VsockAddr, VsockPort};

/// The source address of outgoing connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Whatever the kernel chooses.
    Kernel,
    /// `P::<CID of the peer>`, so that the target sees which machine it is.
    Mapped,
    /// Always this one.
    Address(IpAddr),
}

/// A target with its names resolved.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As it was given, but a machine by its CID.
    pub endpoint: Endpoint,
    /// In the order in which they are tried; none for a mapped target, which each connection has anew.
    addresses: Vec<Address>,
    /// Where the name leads by now, if it is one that a resolver knows.
    renewal: Option<Arc<Renewal>>,
}

impl Target {
    /// Resolves once; blocks while a name is resolved. The names of machines are `given` or in the configuration file.
    ///
    /// Errors: [`Error::Resolve`]; those of [`Machine::cid`];
    /// [`Error::Invalid`] for a machine that is named as if it were a host, and for a port that is still to be taken from a
    /// listener.
    pub(crate) fn resolve(endpoint: Endpoint, given: Option<&GivenNames>) -> Result<Target> {
        endpoint.no_machine_as_host(given)?;
        let addresses = match &endpoint {
            Endpoint::Tcp(addr) => vec![Address::Tcp(*addr)],
            Endpoint::TcpName { name, port } => {
                let fail = |source| Error::Resolve {
                    name: name.clone(),
                    source,
                };
                (name.as_str(), *port)
                    .to_socket_addrs()
                    .map_err(fail)?
                    .map(Address::Tcp)
                    .collect()
            }
            Endpoint::Vsock(addr) => vec![Address::Vsock(*addr)],
            Endpoint::VsockName { name, port } => {
                let cid = Machine::Name(name.clone()).cid(given)?;
                vec![Address::Vsock(VsockAddr {
                    cid: Some(cid),
                    port: *port,
                })]
            }
            Endpoint::VsockMapped(_) => Vec::new(),
            Endpoint::TcpMapped(_) => {
                let hint = "there is no listener whose port could be taken";
                return Err(Error::invalid("target", &endpoint.to_string(), hint));
            }
            Endpoint::Unix(name) => vec![Address::Unix(name.clone())],
            Endpoint::Mux { path, port } => vec![Address::Mux(path.clone(), *port)],
        };
        let endpoint = match &addresses[..] {
            [address @ Address::Vsock(_)] => address.endpoint(),
            _ => endpoint,
        };
        let is_name = matches!(endpoint, Endpoint::TcpName { .. });
        Ok(Target {
            endpoint,
            addresses,
            renewal: is_name.then(Arc::default),
        })
    }

    /// Returns the addresses of a name that leads elsewhere than at the start.
    fn renewed(&self) -> Option<Arc<[Address]>> {
        self.renewal.as_ref()?.addresses()
    }

    /// Returns whether each connection brings its own target.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.endpoint, Endpoint::VsockMapped(_))
    }

    /// Returns whether it is reached over vsock.
    pub(crate) fn is_vsock(&self) -> bool {
        self.is_mapped() || matches!(self.endpoint, Endpoint::Vsock(_))
    }

    /// Returns whether a line each way comes before the stream.
    pub(crate) fn is_mux(&self) -> bool {
        matches!(self.endpoint, Endpoint::Mux { .. })
    }

    /// Returns whether it is a TCP service of this machine, reached over IPv6.
    pub(crate) fn is_ipv6_loopback(&self) -> bool {
        let is_loopback = |a: &Address| matches!(a, Address::Tcp(SocketAddr::V6(addr)) if addr.ip().is_loopback());
        !self.addresses.is_empty() && self.addresses.iter().all(is_loopback)
    }
}

/// What all connections of a bridge share on their way to the target.
#[derive(Debug)]
pub(crate) struct Dialer {
    /// Where they go.
    pub target: Target,
    /// The source address.
    pub source: Source,
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
    /// For tests that need one and never connect.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Dialer {
        Dialer {
            target: Target {
                endpoint: Endpoint::Unix(crate::endpoint::UnixName::Unnamed),
                addresses: Vec::new(),
                renewal: None,
            },
            source: Source::Kernel,
            mux_answer: mux::Answer::default(),
            proxy_protocol: None,
            prefix: None,
            timeout: Duration::ZERO,
            retry: Duration::ZERO,
            tuning: Tuning {
                keepalive: None,
                vsock_buffer_bytes: 0,
                vsock_packets: crate::packets::Packets::UNLIMITED,
            },
        }
    }

    /// Checks that the source fits the target, and that connections from mapped sources would come back.
    ///
    /// Errors: [`Error::Usage`], [`Error::NoRoute`].
    pub(crate) fn check(&self) -> Result<()> {
        let addresses = &self.target.addresses;
        let has_use = self.source == Source::Kernel || !self.target.is_mapped();
        if !has_use || !addresses.iter().all(|address| fits(self.source, address)) {
            let target = &self.target.endpoint;
            return Err(Error::Usage(format!(
                "`--source` needs a TCP target of the same IP version, and `mapped` one over IPv6; {target} is not"
            )));
        }
        match (self.source, self.prefix) {
            (Source::Mapped, Some(prefix)) if !has_local_route(prefix) => {
                Err(Error::NoRoute { prefix })
            }
            _ => Ok(()),
        }
    }

    /// Begins to connect on behalf of a peer that connected to `destination`.
    ///
    /// Errors: [`Error::Unmapped`] when the target is mapped and the destination names no CID.
    pub(crate) fn dial(
        &self,
        peer: &Peer,
        destination: Destination,
        caller: Caller,
        now: Moment,
    ) -> Result<Attempt> {
        let mapped = match self.target.endpoint {
            Endpoint::VsockMapped(port) => Some(self.map(destination, port)?),
            _ => None,
        };
        let source = self.source_address(peer);
        Ok(Attempt::new(self, mapped, source, caller, now))
    }

    /// Finds out in the background whether the name of a target that cannot be reached leads elsewhere by now.
    fn look_up_again(&self, now: Moment) {
        if let Some(renewal) = &self.target.renewal {
            renewal.look_up(&self.target, self.source, now);
        }
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

    /// Returns where a connection to `destination` goes: to a mapped target's machine, else to the target as given.
    pub(crate) fn target_of(&self, destination: Destination) -> Endpoint {
        let mapped = match self.target.endpoint {
            Endpoint::VsockMapped(port) => self.map(destination, port).ok(),
            _ => None,
        };
        match mapped {
            Some(Address::Vsock(addr)) => Endpoint::Vsock(addr),
            _ => self.target.endpoint.clone(),
        }
    }

    /// Turns the destination of a connection into the machine that it names.
    fn map(&self, destination: Destination, port: Option<VsockPort>) -> Result<Address> {
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
        Ok(Address::Vsock(VsockAddr {
            cid: Some(cid.ok_or_else(unmapped)?),
            port,
        }))
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

    /// Returns the address that maps the peer, if it has one.
    pub(crate) fn source_address(&self, peer: &Peer) -> Option<IpAddr> {
        match self.source {
            Source::Kernel => None,
            Source::Address(address) => Some(address),
            Source::Mapped => Some(self.prefix?.address(peer.cid()?).into()),
        }
    }
}

/// Without the local route a connection from a mapped source would hang, because the answers go elsewhere.
fn has_local_route(prefix: Prefix) -> bool {
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

/// A source address binds only to targets of its own kind; none binds to all.
fn fits(source: Source, address: &Address) -> bool {
    match (source, address) {
        (Source::Kernel, _) => true,
        (Source::Mapped, Address::Tcp(addr)) => addr.is_ipv6(),
        (Source::Address(ip), Address::Tcp(addr)) => addr.is_ipv6() == ip.is_ipv6(),
        _ => false,
    }
}
