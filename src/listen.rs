//! Listens by itself, where there is no systemd that passes sockets: `--listen`.
//!
//! A socket gets what the shipped socket units have: SO_REUSEADDR, the longest queue that the kernel allows, permissions
//! as by SocketMode=. `[::]` takes IPv4 as well unless net.ipv6.bindv6only says otherwise, as with BindIPv6Only=default.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockType, SockaddrIn, SockaddrIn6, UnixAddr,
    VsockAddr as SockaddrVsock, listen as listen_on, setsockopt, sockopt,
};
use nix::sys::stat::Mode;

use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::known::Known;
use crate::listen_list::ListenList;
use crate::names::Machine;
use crate::peer::Family;
use crate::prefix::Prefix;
use crate::stream::Listener;
use crate::sys;
use crate::unix_path::{self, Made};
use crate::vsock::VsockAddr;

/// Ports below need a privilege, of TCP as of vsock (LAST_RESERVED_PORT in net/vmw_vsock/af_vsock.c).
pub(crate) const FIRST_FREE_PORT: u32 = 1024;
/// Begins an address of vsock.
const WORD: &str = "vsock";

/// Returns the addresses of all lists, the names of machines looked up.
///
/// Errors: a name that no machine has; [`Error::Usage`] for an address that is given twice.
pub(crate) fn addresses(lists: &[ListenList], names: &Known<'_>) -> Result<Vec<Endpoint>> {
    let mut found: Vec<Endpoint> = Vec::new();
    for given in lists.iter().flat_map(ListenList::addresses) {
        let address = match given.clone() {
            Endpoint::VsockName { name, port } => Endpoint::Vsock(VsockAddr {
                cid: Some(names.cid(&Machine::Name(name))?),
                port,
            }),
            address => address,
        };
        if let Some(before) = found.iter().find(|other| **other == address) {
            // Slashes that stand twice say nothing.
            let (address, before) = (address.to_string(), before.to_string());
            let other = match before == address {
                true => String::new(),
                false => format!(", once as {before},"),
            };
            return Err(Error::Usage(format!(
                "{address} is given twice{other} in `--listen` or VSOCK_BRIDGE_LISTEN"
            )));
        }
        found.push(address);
    }
    Ok(found)
}

/// Listens on all addresses, or on none. `mode`: the permissions of unix sockets; `routed`: a prefix whose addresses are all
/// this machine's by its local route.
///
/// Errors: [`Error::Listen`].
pub(crate) fn open(
    addresses: Vec<Endpoint>,
    mode: Mode,
    routed: Option<Prefix>,
) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = bound(&address, SockType::Stream, mode, routed);
        let listener = listener.map_err(|source| failed(address, source, &listeners, WORD))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Listens on one address, with sockets of that type. `word`: what begins one of vsock there, as hints have it.
///
/// Errors: [`Error::Listen`].
pub(crate) fn open_one(
    address: Endpoint,
    (kind, word): (SockType, &str),
    mode: Mode,
) -> Result<Listener> {
    bound(&address, kind, mode, None).map_err(|source| failed(address, source, &[], word))
}

/// Checks that a port of this machine is free, and this user may take it.
///
/// Errors: [`Error::Listen`].
pub(crate) fn expect_free(address: &Endpoint) -> Result<()> {
    if !matches!(address, Endpoint::Tcp(_) | Endpoint::Vsock(_)) {
        return Ok(());
    }
    match made(address, SockType::Stream, Mode::empty(), None) {
        Err(source @ (Errno::EADDRINUSE | Errno::EACCES)) => {
            Err(failed(address.clone(), source, &[], WORD))
        }
        // Such as an address that comes later.
        _ => Ok(()),
    }
}

fn failed(address: Endpoint, source: Errno, before: &[Listener], word: &str) -> Error {
    Error::Listen {
        hint: hint(&address, source, before, word),
        address: Box::new(address),
        source,
    }
}

fn bound(
    address: &Endpoint,
    of_type: SockType,
    mode: Mode,
    routed: Option<Prefix>,
) -> Result<Listener, Errno> {
    let (socket, kind, file) = made(address, of_type, mode, routed)?;
    listen_on(&socket, Backlog::MAXALLOWABLE)?;
    Ok(Listener::own(socket, kind, address.clone(), file))
}

/// Makes a socket that does not listen yet.
fn made(
    address: &Endpoint,
    of_type: SockType,
    mode: Mode,
    routed: Option<Prefix>,
) -> Result<(OwnedFd, Family, Option<Made>), Errno> {
    let (family, kind) = match address {
        Endpoint::Tcp(SocketAddr::V4(_)) => (AddressFamily::Inet, Family::Tcp),
        Endpoint::Tcp(SocketAddr::V6(_)) => (AddressFamily::Inet6, Family::Tcp),
        Endpoint::Vsock(_) => (AddressFamily::Vsock, Family::Vsock),
        _ => (AddressFamily::Unix, Family::Unix),
    };
    let socket: OwnedFd = sys::connected_socket(family, of_type)?;
    if kind == Family::Tcp {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    // IPv6 takes for this machine's own what an interface has, unless it is told not to look.
    if routed.is_some_and(|prefix| is_in(prefix, address)) {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    let file = bind(socket.as_fd(), address, mode)?;
    Ok((socket, kind, file))
}

/// Returns whether it is a TCP address of the prefix.
pub(crate) fn is_in(prefix: Prefix, address: &Endpoint) -> bool {
    matches!(address, Endpoint::Tcp(SocketAddr::V6(addr)) if prefix.contains(*addr.ip()))
}

fn bind(socket: BorrowedFd<'_>, address: &Endpoint, mode: Mode) -> Result<Option<Made>, Errno> {
    match address {
        Endpoint::Tcp(SocketAddr::V4(addr)) => sys::bind(socket, &SockaddrIn::from(*addr)),
        Endpoint::Tcp(SocketAddr::V6(addr)) => sys::bind(socket, &SockaddrIn6::from(*addr)),
        Endpoint::Vsock(VsockAddr { cid, port }) => {
            let cid = cid.map_or(libc::VMADDR_CID_ANY, |cid| cid.number());
            sys::bind(socket, &SockaddrVsock::new(cid, port.number()))
        }
        Endpoint::Unix(UnixName::Abstract(name)) => {
            sys::bind(socket, &UnixAddr::new_abstract(name.as_bytes())?)
        }
        Endpoint::Unix(UnixName::Path(path)) => {
            return unix_path::make(socket, path, mode).map(Some);
        }
        // No list has any other.
        _ => Err(Errno::EAFNOSUPPORT),
    }
    .map(|()| None)
}

/// Says what an error means for an address, in brackets and with what to do.
fn hint(address: &Endpoint, errno: Errno, before: &[Listener], word: &str) -> String {
    let hint = match address {
        Endpoint::Tcp(addr) => tcp_hint(*addr, errno, before),
        Endpoint::Vsock(addr) => vsock_hint(*addr, errno, word),
        Endpoint::Unix(UnixName::Path(path)) if errno == Errno::EADDRINUSE => {
            own_file(path, before).or_else(|| unix_hint(errno))
        }
        _ => unix_hint(errno),
    };
    match hint {
        Some(hint) => format!(" ({hint})"),
        None => String::new(),
    }
}

fn tcp_hint(addr: SocketAddr, errno: Errno, before: &[Listener]) -> Option<String> {
    let port = addr.port();
    Some(match errno {
        Errno::EADDRINUSE => own_listener(addr, before).unwrap_or_else(|| {
            format!(
                "another program listens there: `ss -tlnp sport = :{port}`, or `netstat -tlnp`, shows it"
            )
        }),
        Errno::EADDRNOTAVAIL => "no address of this machine; those of the prefix are after \
             `vsockctl prefix up`"
            .to_owned(),
        Errno::EACCES => privileged(port.into())?,
        Errno::EAFNOSUPPORT => "this kernel has no IPv6; boot without ipv6.disable=1".to_owned(),
        _ => return None,
    })
}

/// Says which listener of this bridge itself has a part of the address already.
fn own_listener(addr: SocketAddr, before: &[Listener]) -> Option<String> {
    // All addresses of IPv6 are those of IPv4 as well.
    let covers = |one: SocketAddr, other: SocketAddr| {
        one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    before.iter().find_map(|listener| match listener.local() {
        Endpoint::Tcp(own) if own.port() == addr.port() => {
            match (covers(*own, addr), covers(addr, *own)) {
                (true, _) => Some(format!(
                    "{own}, given before it, takes this address as well"
                )),
                (_, true) => Some(format!(
                    "it would take {own}, given before it, as well: leave that one out"
                )),
                _ => None,
            }
        }
        _ => None,
    })
}

fn vsock_hint(VsockAddr { cid, port }: VsockAddr, errno: Errno, word: &str) -> Option<String> {
    Some(match errno {
        Errno::EADDRINUSE => {
            "another program listens there: `modprobe vsock_diag && ss --vsock -l` shows it"
                .to_owned()
        }
        Errno::EADDRNOTAVAIL => format!(
            "{} is no CID of this machine; {word}::{port} is for peers of every CID",
            cid.map_or_else(String::new, |cid| cid.to_string())
        ),
        Errno::EACCES => privileged(port.number())?,
        Errno::EAFNOSUPPORT | Errno::ENODEV => {
            "this kernel has no vsock: run `modprobe vsock`".to_owned()
        }
        Errno::EPERM => "a container or sandbox refuses vsock here: give its seccomp profile \
             AF_VSOCK, or listen on a unix socket"
            .to_owned(),
        _ => return None,
    })
}

fn privileged(port: u32) -> Option<String> {
    (port < FIRST_FREE_PORT)
        .then(|| "a port below 1024 needs root or CAP_NET_BIND_SERVICE".to_owned())
}

/// Says which listener of this bridge itself has made the file.
fn own_file(path: &Path, before: &[Listener]) -> Option<String> {
    before.iter().find_map(|listener| match listener.local() {
        Endpoint::Unix(UnixName::Path(own)) if unix_path::is_same(own, path) => {
            let own = own.display();
            Some(format!(
                "{own}, given before it, is the same file: leave one of them out"
            ))
        }
        _ => None,
    })
}

fn unix_hint(errno: Errno) -> Option<String> {
    let hint = match errno {
        Errno::EADDRINUSE => "another program listens there; if none does, remove the file",
        Errno::EEXIST => "what is there is no socket: give another path",
        Errno::ENOENT | Errno::ENOTDIR => "its folder has to be made first",
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            "may this user make files in its folder, or remove the one that is there?"
        }
        Errno::ENAMETOOLONG => "a path of more than 107 bytes needs /proc and a short last name",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::GivenNames;
    use crate::registry::Registry;

    fn all(lists: &[&str], names: &str) -> Result<Vec<String>> {
        let lists: Vec<ListenList> = lists.iter().map(|list| list.parse().unwrap()).collect();
        let names: GivenNames = names.parse().unwrap();
        let registry = Registry::default();
        let found = addresses(&lists, &Known::with(Some(&names), &registry))?;
        Ok(found.iter().map(Endpoint::to_string).collect())
    }

    #[test]
    fn lists_are_one_after_the_other_with_names_looked_up() {
        assert_eq!(
            all(&["vsock:web:445 @a", "[::]:80"], "web=3").unwrap(),
            ["vsock:3:445", "@a", "[::]:80"]
        );
        assert!(all(&["vsock:db:445"], "web=3").is_err());
    }

    #[test]
    fn an_address_that_is_given_twice_is_named() {
        for lists in [
            &["@a @b @a"][..],
            &["@a", "@b @a"],
            &["unix:@a", "@a"],
            &["vsock:web:1 @a", "vsock:3:1"],
        ] {
            let problem = all(lists, "web=3").unwrap_err().report();
            assert!(problem.contains("is given twice"), "{problem}");
        }
        let problem = all(&["/run/a.sock", "/run//a.sock"], "").unwrap_err();
        let words = "/run//a.sock is given twice, once as /run/a.sock, in";
        assert!(problem.report().contains(words), "{}", problem.report());
    }

    #[test]
    fn each_cause_is_told_with_what_to_do() {
        for (address, errno, words) in [
            ("[::1]:445", Errno::EADDRINUSE, "`ss -tlnp sport = :445`"),
            ("[::1]:445", Errno::EACCES, "CAP_NET_BIND_SERVICE"),
            (
                "[fd00::2]:445",
                Errno::EADDRNOTAVAIL,
                "`vsockctl prefix up`",
            ),
            (
                "vsock::445",
                Errno::EADDRINUSE,
                "`modprobe vsock_diag && ss --vsock -l`",
            ),
            ("vsock::1023", Errno::EACCES, "CAP_NET_BIND_SERVICE"),
            ("vsock::445", Errno::EAFNOSUPPORT, "`modprobe vsock`"),
            (
                "vsock:7:445",
                Errno::EADDRNOTAVAIL,
                "7 is no CID of this machine; vsock::445",
            ),
            ("vsock::445", Errno::EPERM, "seccomp"),
            ("@a", Errno::EADDRINUSE, "another program listens there"),
            ("/run/x/y", Errno::ENOENT, "folder has to be made"),
        ] {
            let said = hint(&address.parse().unwrap(), errno, &[], WORD);
            assert!(
                said.starts_with(" (") && said.contains(words),
                "{address}: {said}"
            );
        }
        // A port that everybody may take was refused by something else.
        let address = "[::1]:8080".parse().unwrap();
        assert_eq!(hint(&address, Errno::EACCES, &[], WORD), "");
    }
}
