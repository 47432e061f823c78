//! What the address of a socket says: its family, its peer, its endpoint.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockopt, sockopt};

use crate::endpoint::{Endpoint, UnixName};
use crate::vsock::{Cid, VsockAddr, VsockPort};

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who connected to us.
    Peer,
    /// Whom we connected to.
    Target,
}

impl Side {
    /// Returns the one at the other end.
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Peer => Side::Target,
            Side::Target => Side::Peer,
        }
    }
}

/// What kind of descriptor it is, as far as the rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// AF_VSOCK.
    Vsock,
    /// TCP over IPv6 or IPv4.
    Tcp,
    /// AF_UNIX.
    Unix,
    /// stdin and stdout: pipes, terminals, files.
    File,
}

impl Family {
    /// Reads the family of a socket address; none for what cannot be bridged.
    pub(crate) fn of(address: &SockaddrStorage) -> Option<Family> {
        match address.family()? {
            AddressFamily::Vsock => Some(Family::Vsock),
            AddressFamily::Inet | AddressFamily::Inet6 => Some(Family::Tcp),
            AddressFamily::Unix => Some(Family::Unix),
            _ => None,
        }
    }
}

/// Whom the kernel means by "somebody who has no number here": every user that a user namespace does not map, as with
/// PrivateUsers=yes (kernel.overflowuid, which the sandbox hides; nobody changes it).
const OVERFLOW_UID: u32 = 65534;

/// Who connected to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A machine and the port it used.
    Vsock(VsockAddr),
    /// Address and port of a TCP peer; an IPv4 address is never in its IPv6-mapped form.
    Tcp(IpAddr, u16),
    /// A process of this machine; its user at the time of connect(2), if the kernel told and knows it here.
    Unix(Option<u32>),
    /// Whoever is behind stdin and stdout.
    Stdio,
}

impl Peer {
    /// Makes the peer of a connection from the address that accept(2) or getpeername(2) gave.
    pub fn new(socket: BorrowedFd<'_>, address: &SockaddrStorage) -> Option<Peer> {
        match Family::of(address)? {
            Family::Vsock => Some(Peer::Vsock(vsock_addr(address)?)),
            Family::Tcp => {
                let addr = inet_addr(address)?;
                Some(Peer::Tcp(addr.ip(), addr.port()))
            }
            _ => {
                let credentials = getsockopt(&socket, sockopt::PeerCredentials).ok();
                let uid = credentials.map(|credentials| credentials.uid());
                Some(Peer::Unix(uid.filter(|&uid| uid != OVERFLOW_UID)))
            }
        }
    }

    /// Returns the machine of a vsock peer.
    pub fn cid(&self) -> Option<Cid> {
        match self {
            Peer::Vsock(addr) => addr.cid,
            _ => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Vsock(addr) => addr.fmt(f),
            Peer::Tcp(ip, port) => SocketAddr::new(*ip, *port).fmt(f),
            Peer::Unix(Some(uid)) => write!(f, "uid {uid}"),
            Peer::Unix(None) => write!(f, "unix"),
            Peer::Stdio => write!(f, "stdio"),
        }
    }
}

/// Where a peer connected to, as far as its target may follow from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A TCP address of this machine, or one that the rules bring here.
    Tcp(SocketAddr),
    /// This machine by one of its CIDs.
    Vsock(VsockAddr),
    /// A unix socket whose name ends in the number of a port, as those of hybrid vsock do.
    Port(u16),
    /// Any other.
    Unnamed,
}

impl Destination {
    /// Reduces the local address of a connection, or of its listener, to what counts.
    pub(crate) fn new(local: &Endpoint) -> Destination {
        match local {
            Endpoint::Tcp(addr) => Destination::Tcp(*addr),
            Endpoint::Vsock(addr) => Destination::Vsock(*addr),
            other => other
                .named_port()
                .map_or(Destination::Unnamed, Destination::Port),
        }
    }

    /// Returns the IP address and port.
    pub(crate) fn tcp(self) -> Option<SocketAddr> {
        match self {
            Destination::Tcp(addr) => Some(addr),
            _ => None,
        }
    }

    /// Returns as which CID the peer has reached this machine.
    fn cid(self) -> Option<Cid> {
        match self {
            Destination::Vsock(addr) => addr.cid,
            _ => None,
        }
    }

    /// Returns whether a peer with that CID is a process of this machine itself.
    ///
    /// On a transport that knows the machine itself by its number, it comes from the CID that it went to. The number alone
    /// would not tell: on a host that is a guest, a guest of its own may have the CID that it has itself.
    pub(crate) fn is_own(self, cid: Cid) -> bool {
        cid == Cid::LOCAL || self.cid() == Some(cid)
    }

    /// Returns the port, where there is one that TCP has as well.
    pub(crate) fn port(self) -> Option<u16> {
        match self {
            Destination::Tcp(addr) => Some(addr.port()),
            Destination::Vsock(addr) => u16::try_from(addr.port.number()).ok(),
            Destination::Port(port) => Some(port),
            Destination::Unnamed => None,
        }
    }
}

/// Reads a vsock address; the CID is none for "any".
pub(crate) fn vsock_addr(address: &SockaddrStorage) -> Option<VsockAddr> {
    let addr = address.as_vsock_addr()?;
    Some(VsockAddr {
        cid: Cid::new(addr.cid()),
        port: VsockPort::new(addr.port())?,
    })
}

/// Reads an IPv4 or IPv6 address.
pub(crate) fn inet_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(addr) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*addr).into()));
    }
    let addr = *address.as_sockaddr_in6()?;
    let ip = IpAddr::V6(addr.ip()).to_canonical();
    Some(SocketAddr::new(ip, addr.port()))
}

/// Reads the address of a socket of any family that can be bridged.
pub(crate) fn endpoint(address: &SockaddrStorage) -> Option<Endpoint> {
    match Family::of(address)? {
        Family::Vsock => Some(Endpoint::Vsock(vsock_addr(address)?)),
        Family::Tcp => Some(Endpoint::Tcp(inet_addr(address)?)),
        _ => {
            let addr = address.as_unix_addr()?;
            let name =
                |bytes: &[u8]| UnixName::Abstract(String::from_utf8_lossy(bytes).into_owned());
            let path = addr.path().map(|path| UnixName::Path(path.to_owned()));
            Some(Endpoint::Unix(
                path.or_else(|| addr.as_abstract().map(name))
                    .unwrap_or(UnixName::Unnamed),
            ))
        }
    }
}
