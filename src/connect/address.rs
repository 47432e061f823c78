//! One address of a target: its socket, and what its errors mean.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr, setsockopt, sockopt,
};
use nix::sys::time::TimeVal;

use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::gateway::INBOUND_PORT;
use crate::peer::{Family, inet_addr};
use crate::stream::{Stream, Tuning};
use crate::sys;
use crate::unix_path::{self, HOMES, TEMPORARY, is_below};
use crate::vsock::{Cid, VsockAddr, VsockPort};

/// What it means that nobody answers, though the kernel had a way to ask: by the module, then by CID.
const NO_LOOPBACK: &str = " (is the module vsock_loopback loaded? run `modprobe vsock_loopback`)";
const NO_MACHINE: &str = " (no such VM, or it is stopped)";
const NO_GATEWAY: &str = ", the gateway to other machines (VSOCK_BRIDGE_VIA; is vsock-bridge-gateway.socket enabled on \
     the host?)";

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

impl Source {
    /// Returns whether it can be bound for that address: only to one of its own kind; none binds to all.
    pub(super) fn fits(self, address: &Address) -> bool {
        match (self, address) {
            (Source::Kernel, _) => true,
            (Source::Mapped, Address::Tcp(addr)) => addr.is_ipv6(),
            (Source::Address(ip), Address::Tcp(addr)) => addr.is_ipv6() == ip.is_ipv6(),
            _ => false,
        }
    }
}

/// One place to connect to, without names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A TCP service.
    Tcp(SocketAddr),
    /// A port of a machine.
    Vsock(VsockAddr),
    /// A unix socket.
    Unix(UnixName),
    /// A port of the machine behind a VMM's socket.
    Mux(UnixName, VsockPort),
    /// A port of another machine, to which a gateway leads.
    Tunnel {
        /// Where the gateway listens.
        gateway: Arc<Address>,
        /// The machine, by its CID or by the name that the gateway knows, and its port.
        asked: Endpoint,
    },
}

impl Address {
    /// Takes one that needs no name and no connection to be known.
    pub(super) fn new(endpoint: &Endpoint) -> Option<Address> {
        match endpoint {
            Endpoint::Tcp(addr) => Some(Address::Tcp(*addr)),
            Endpoint::Vsock(addr) => Some(Address::Vsock(*addr)),
            Endpoint::Unix(name) => Some(Address::Unix(name.clone())),
            Endpoint::Mux { path, port } => Some(Address::Mux(path.clone(), *port)),
            _ => None,
        }
    }

    /// Returns the form that is printed.
    pub(super) fn endpoint(&self) -> Endpoint {
        match self.clone() {
            Address::Tcp(addr) => Endpoint::Tcp(addr),
            Address::Vsock(addr) => Endpoint::Vsock(addr),
            Address::Unix(name) => Endpoint::Unix(name),
            Address::Mux(path, port) => Endpoint::Mux { path, port },
            Address::Tunnel { asked, .. } => asked,
        }
    }

    /// Returns the machine that is reached over vsock.
    fn cid(&self) -> Option<Cid> {
        match self {
            Address::Vsock(addr) => addr.cid,
            _ => None,
        }
    }

    /// Returns whether nothing delays its answer but a full queue, for which the kernel drops the request without a word.
    pub(super) fn is_prompt(&self) -> bool {
        let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
        matches!(self, Address::Tcp(addr) if is_here(addr.ip().to_canonical()))
    }

    /// Returns whether a connected stream is its own other end.
    ///
    /// Where nobody listens on a port from which connections go out, the kernel may choose that very port for this one;
    /// then two requests meet, which is a connection (RFC 9293, section 3.5, simultaneous open).
    pub(super) fn is_itself(&self, stream: &Stream) -> bool {
        let Address::Tcp(addr) = self else {
            return false;
        };
        let local = (stream.local_address().ok()).and_then(|address| inet_addr(&address));
        local.is_some_and(|local| {
            // To no address is to this machine, from the address that is reached.
            let is_own = addr.ip().is_unspecified() || addr.ip().to_canonical() == local.ip();
            is_own && addr.port() == local.port()
        })
    }

    /// Makes the socket and begins to connect; the flag tells whether it is connected already.
    ///
    /// Errors: [`Error::Connect`], [`Error::Source`].
    pub(super) fn open(
        &self,
        source: Option<IpAddr>,
        tuning: &Tuning,
        timeout: Duration,
    ) -> Result<(Stream, bool)> {
        let (family, kind) = match self {
            Address::Tunnel { gateway, .. } => {
                let explain = |error| match error {
                    Error::Connect { source, .. } => self.refusal(source),
                    other => other,
                };
                return gateway.open(None, tuning, timeout).map_err(explain);
            }
            Address::Tcp(SocketAddr::V4(_)) => (AddressFamily::Inet, Family::Tcp),
            Address::Tcp(SocketAddr::V6(_)) => (AddressFamily::Inet6, Family::Tcp),
            Address::Vsock(_) => (AddressFamily::Vsock, Family::Vsock),
            Address::Unix(_) | Address::Mux(..) => (AddressFamily::Unix, Family::Unix),
        };
        let refused = |errno| self.refusal(errno);
        let socket = sys::stream_socket(family).map_err(refused)?;
        tuning.apply(socket.as_fd(), kind).map_err(refused)?;
        if let (Some(ip), Address::Tcp(_)) = (source, self) {
            let fail = |source| Error::Source {
                address: ip,
                source,
            };
            bind_source(&socket, ip).map_err(fail)?;
        }
        if kind == Family::Vsock {
            let limit = TimeVal::new(timeout.as_secs() as i64, timeout.subsec_micros().into());
            setsockopt(&socket, sys::vsock_option::ConnectTimeout, &limit).map_err(refused)?;
        }
        let is_connected = match self.connect(socket.as_fd()) {
            Ok(()) => true,
            Err(Errno::EINPROGRESS) => false,
            Err(errno) => return Err(refused(errno)),
        };
        let stream = tuning.limit_writes(Stream::socket(socket, kind), self.cid());
        Ok((stream, is_connected))
    }

    fn connect(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            Address::Tunnel { gateway, .. } => gateway.connect(socket),
            Address::Tcp(addr) => sys::connect(socket, &*inet_sockaddr(*addr)),
            Address::Vsock(addr) => {
                let cid = addr.cid.map_or(libc::VMADDR_CID_ANY, |cid| cid.number());
                let addr = nix::sys::socket::VsockAddr::new(cid, addr.port.number());
                sys::connect(socket, &addr)
            }
            Address::Unix(name) | Address::Mux(name, _) => match name {
                UnixName::Path(path) => unix_path::connect(socket, path),
                UnixName::Abstract(name) => {
                    sys::connect(socket, &UnixAddr::new_abstract(name.as_bytes())?)
                }
                UnixName::Unnamed => Err(Errno::EDESTADDRREQ),
            },
        }
    }

    /// Says that another machine has answered, which is none of this host's.
    pub(super) fn strayed(&self) -> Error {
        Error::Connect {
            target: Box::new(self.endpoint()),
            hint: " (no VM of this machine has that CID, and Linux went to the host of this machine instead: set the \
                   sysctl net.vsock.g2h_fallback=0)",
            source: Errno::ENODEV,
        }
    }

    /// Returns where the socket of a connection there leads: to the gateway, if there is one.
    pub(super) fn first(&self) -> Endpoint {
        match self {
            Address::Tunnel { gateway, .. } => gateway.endpoint(),
            address => address.endpoint(),
        }
    }

    /// Says what no answer may mean for this kind of address.
    pub(super) fn silence(&self, limit: Duration) -> Error {
        let hint = match self {
            // What IPAddressDeny= forbids is dropped without an error.
            Address::Tcp(addr) if !addr.ip().is_loopback() => {
                " (kept from it by the unit's IPAddressAllow=, or by a firewall?)"
            }
            Address::Vsock(addr) if addr.cid == Some(Cid::LOCAL) => NO_LOOPBACK,
            Address::Vsock(_) => NO_MACHINE,
            Address::Tunnel { .. } => NO_GATEWAY,
            _ => "",
        };
        Error::ConnectTimeout {
            target: Box::new(self.first()),
            hint,
            limit,
        }
    }

    /// Says what the error means for this kind of address, where the kernel's word for it misleads.
    pub(super) fn refusal(&self, errno: Errno) -> Error {
        if let Address::Tunnel { gateway, .. } = self {
            return refusal_of_gateway(gateway, errno);
        }
        let hint = match (self, errno) {
            (_, Errno::EPERM | Errno::EACCES | Errno::EAFNOSUPPORT)
                if !matches!(self, Address::Unix(_) | Address::Mux(..)) =>
            {
                " (kept from it by the unit's RestrictAddressFamilies= or IPAddressAllow=, or by a firewall?)"
            }
            (Address::Vsock(addr), Errno::ECONNRESET)
                if addr.port == VsockPort::from(INBOUND_PORT) =>
            {
                " (nothing listens on that port: is vsock-bridge-inbound.socket enabled in the machine, as `as-peer` needs?)"
            }
            (Address::Vsock(_), Errno::ECONNRESET) => {
                " (nothing listens on that port, or its queue is full)"
            }
            (Address::Vsock(addr), Errno::ETIMEDOUT) if addr.cid == Some(Cid::LOCAL) => NO_LOOPBACK,
            (Address::Vsock(_), Errno::ETIMEDOUT) => NO_MACHINE,
            (Address::Vsock(_), Errno::ENODEV | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL) => {
                " (no such VM, or no vsock transport: load vhost_vsock on a host, vmw_vsock_virtio_transport in a guest, \
                 vsock_loopback for CID 1; a machine behind hybrid vsock is reached by its name or socket alone)"
            }
            (Address::Tcp(_), Errno::ECONNREFUSED) => " (nothing listens there)",
            (Address::Tcp(SocketAddr::V6(addr)), Errno::EADDRNOTAVAIL | Errno::ENETUNREACH)
                if addr.ip().is_loopback() =>
            {
                " (is IPv6 disabled on lo? `sysctl net.ipv6.conf.lo.disable_ipv6` tells)"
            }
            (Address::Unix(_) | Address::Mux(..), Errno::ECONNREFUSED) => {
                " (nothing listens on that socket)"
            }
            (Address::Unix(name) | Address::Mux(name, _), Errno::ENOENT | Errno::EACCES)
                if may_be_hidden(name) =>
            {
                " (is its service, or the VM, running, and may this user write to the socket? A unit with ProtectHome= or \
                 PrivateTmp= does not see this folder; `vsockctl check` tells)"
            }
            (Address::Unix(_) | Address::Mux(..), Errno::ENOENT) => {
                " (is its service, or the VM, running?)"
            }
            (Address::Unix(_) | Address::Mux(..), Errno::EACCES) => {
                " (may this user write to the socket and search its directories?)"
            }
            (Address::Unix(_) | Address::Mux(..), Errno::EAGAIN) => " (its queue is full)",
            (Address::Unix(_) | Address::Mux(..), Errno::ENAMETOOLONG) => {
                " (paths over 107 bytes need /proc, which is not mounted here)"
            }
            _ => "",
        };
        Error::Connect {
            target: Box::new(self.endpoint()),
            hint,
            source: errno,
        }
    }
}

/// Says what it means that the gateway itself was not reached.
fn refusal_of_gateway(gateway: &Address, errno: Errno) -> Error {
    use Errno::{ECONNREFUSED, ECONNRESET, ENOENT, ETIMEDOUT};
    match errno {
        ECONNREFUSED | ECONNRESET | ENOENT | ETIMEDOUT => Error::Connect {
            target: Box::new(gateway.endpoint()),
            hint: NO_GATEWAY,
            source: errno,
        },
        _ => gateway.refusal(errno),
    }
}

/// Returns whether a path is where the sandboxes of units have folders of their own, or none (systemd.exec(5)).
fn may_be_hidden(name: &UnixName) -> bool {
    let UnixName::Path(path) = name else {
        return false;
    };
    is_below(path, &HOMES) || is_below(path, &TEMPORARY)
}

/// Lets the outgoing connection come from `ip`, which needs no capability.
fn bind_source(socket: &impl AsFd, ip: IpAddr) -> Result<(), Errno> {
    // On an IPv6 socket Linux takes IP_FREEBIND for IPV6_FREEBIND. Needed for addresses that only a local route
    // makes ours: IPv6 refuses to bind them otherwise (EADDRNOTAVAIL).
    setsockopt(socket, sockopt::IpFreebind, &true)?;
    // The port is chosen at connect, when the target is known: else 28 000 connections would be all, whatever the target.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    sys::bind(socket.as_fd(), &*inet_sockaddr(SocketAddr::new(ip, 0)))
}

fn inet_sockaddr(addr: SocketAddr) -> Box<dyn SockaddrLike> {
    match addr {
        SocketAddr::V4(addr) => Box::new(SockaddrIn::from(addr)),
        SocketAddr::V6(addr) => Box::new(SockaddrIn6::from(addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_told_alike_whoever_waited() {
        for (cid, words) in [(Cid::LOCAL, NO_LOOPBACK), (Cid::HOST, NO_MACHINE)] {
            let address = Address::Vsock(VsockAddr {
                cid: Some(cid),
                port: 22.into(),
            });
            for error in [
                address.silence(Duration::from_secs(5)),
                address.refusal(Errno::ETIMEDOUT),
            ] {
                assert!(error.report().contains(words), "{error}");
            }
        }
    }

    #[test]
    fn a_path_that_sandboxes_hide_is_told_with_them() {
        for (path, is_hidden) in [
            ("/tmp/x.sock", true),
            ("/run/user/1000/x.sock", true),
            ("/run/x.sock", false),
            ("/homes/x.sock", false),
        ] {
            for errno in [Errno::ENOENT, Errno::EACCES] {
                let error = Address::Unix(UnixName::Path(path.into()))
                    .refusal(errno)
                    .report();
                assert_eq!(error.contains("PrivateTmp="), is_hidden, "{error}");
            }
        }
    }
}
