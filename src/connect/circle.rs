//! A target that leads back to a listener of the same bridge: each connection would make another one, until the limits.
//!
//! Found before anybody is served, from addresses alone: nothing is connected to. A way back through another bridge or
//! relay is not seen.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};

use super::address::Address;
use super::{own_cid, source_towards};
use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::prefix::Prefix;
use crate::stream::Listener;
use crate::vsock::{Cid, VsockAddr};

/// Where peers connect to, and what comes there besides.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    local: Endpoint,
    /// An IPv6 listener on all addresses is one on those of IPv4 as well.
    takes_ipv4: bool,
    /// The rules bring it what goes to any other machine's address of the prefix (tproxy).
    is_transparent: bool,
}

impl Place {
    /// Returns that of a listener.
    pub(crate) fn of_listener(listener: &Listener) -> Place {
        let is_v6only = getsockopt(listener, sockopt::Ipv6V6Only);
        Place {
            local: listener.local().clone(),
            takes_ipv4: is_v6only == Ok(false),
            is_transparent: getsockopt(listener, sockopt::IpTransparent) == Ok(true),
        }
    }

    /// Returns that of a connection which somebody else has accepted.
    pub(crate) fn of_connection(local: Endpoint) -> Place {
        Place {
            local,
            takes_ipv4: false,
            is_transparent: false,
        }
    }
}

/// Checks that no address of a target is one where a peer has come from, or can come to.
///
/// Errors: [`Error::Usage`].
pub(super) fn check(
    given: &Endpoint,
    addresses: &[Address],
    places: &[Place],
    prefix: Option<Prefix>,
) -> Result<()> {
    let this = ThisMachine { prefix };
    for place in places {
        if let Some(address) = (addresses.iter()).find(|to| leads_back(place, to, &this)) {
            let listener = &place.local;
            let found = address.endpoint();
            let found = match found == *given {
                true => String::new(),
                false => format!(" ({found})"),
            };
            return Err(Error::Usage(format!(
                "the target {given}{found} leads back to {listener}, where this bridge listens itself, and each \
                 connection would make another one: give `--to` or VSOCK_BRIDGE_TO another place"
            )));
        }
    }
    Ok(())
}

/// What addresses are this machine's own.
trait Machine {
    /// Returns whether a connection to the CID stays here.
    fn has_cid(&self, cid: Cid) -> bool;
    /// Returns whether a connection to the address stays here.
    fn has_ip(&self, ip: IpAddr) -> bool;
    /// Returns whether the address stands for another machine, where the rules are in place.
    fn maps(&self, ip: IpAddr) -> bool;
}

fn leads_back(place: &Place, to: &Address, machine: &impl Machine) -> bool {
    match (&place.local, to) {
        (_, Address::Tunnel { gateway, .. }) => leads_back(place, gateway, machine),
        (Endpoint::Tcp(at), Address::Tcp(to)) => tcp_leads_back(place, *at, *to, machine),
        (Endpoint::Vsock(at), Address::Vsock(to)) => vsock_leads_back(*at, *to, machine),
        (Endpoint::Unix(at), Address::Unix(to) | Address::Mux(to, _)) => is_same_socket(at, to),
        _ => false,
    }
}

fn tcp_leads_back(place: &Place, at: SocketAddr, to: SocketAddr, machine: &impl Machine) -> bool {
    let ip = destination(to.ip());
    if place.is_transparent && machine.maps(ip) {
        return true;
    }
    // First, as it costs nothing: one bridge may have a thousand of both.
    at.port() == to.port()
        && match at.ip() {
            any if any.is_unspecified() => {
                (any.is_ipv6() == ip.is_ipv6() || place.takes_ipv4) && machine.has_ip(ip)
            }
            one => one == ip,
        }
}

/// Returns where connect(2) goes: no address is this machine's loopback.
fn destination(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// A listener on one CID takes no connection that went to another one of the same machine.
fn vsock_leads_back(at: VsockAddr, to: VsockAddr, machine: &impl Machine) -> bool {
    let is_taken = match (at.cid, to.cid) {
        (None, Some(cid)) => machine.has_cid(cid),
        (at, to) => at == to,
    };
    at.port == to.port && is_taken
}

/// Compares the files behind the paths, to which there may be several ways.
fn is_same_socket(one: &UnixName, other: &UnixName) -> bool {
    let (UnixName::Path(one), UnixName::Path(other)) = (one, other) else {
        return one == other && *one != UnixName::Unnamed;
    };
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    one == other || file(one).is_some_and(|found| Some(found) == file(other))
}

/// The one that this runs on.
struct ThisMachine {
    prefix: Option<Prefix>,
}

impl Machine for ThisMachine {
    fn has_cid(&self, cid: Cid) -> bool {
        own_cid::stays_here(cid)
    }

    fn has_ip(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || source_towards(ip) == Some(ip)
    }

    fn maps(&self, ip: IpAddr) -> bool {
        let is_in_prefix = |prefix: Prefix| matches!(ip, IpAddr::V6(ip) if prefix.contains(ip));
        self.prefix.is_some_and(is_in_prefix) && !self.has_ip(ip)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// CIDs 1 and 3, addresses of loopback and 192.0.2.1, 2001:db8::1 and fd00::3, and the prefix fd00::/64.
    struct Example;

    impl Machine for Example {
        fn has_cid(&self, cid: Cid) -> bool {
            [1, 3].contains(&cid.number())
        }

        fn has_ip(&self, ip: IpAddr) -> bool {
            let own = ["192.0.2.1", "2001:db8::1", "fd00::3"];
            ip.is_loopback() || own.contains(&&*ip.to_string())
        }

        fn maps(&self, ip: IpAddr) -> bool {
            ip.to_string().starts_with("fd00::") && !self.has_ip(ip)
        }
    }

    fn address(text: &str) -> Address {
        Address::new(&text.parse().unwrap()).unwrap()
    }

    fn place(text: &str) -> Place {
        Place::of_connection(text.parse().unwrap())
    }

    fn expect_circle(listener: &str, target: &str, is_circle: bool) {
        let found = leads_back(&place(listener), &address(target), &Example);
        assert_eq!(found, is_circle, "{listener} to {target}");
    }

    #[test]
    fn a_vsock_listener_and_its_own_machine_are_a_circle() {
        for (listener, target, is_circle) in [
            ("vsock::445", "vsock:3:445", true),
            ("vsock::445", "vsock:local:445", true),
            ("vsock::445", "vsock:2:445", false),
            ("vsock::445", "vsock:3:446", false),
            ("vsock::445", "vsock:4:445", false),
            ("vsock:3:445", "vsock:3:445", true),
            ("vsock:3:445", "vsock:1:445", false),
            ("vsock::445", "[::1]:445", false),
        ] {
            expect_circle(listener, target, is_circle);
        }
    }

    #[test]
    fn a_tcp_listener_and_an_address_that_it_takes_are_a_circle() {
        for (listener, target, is_circle) in [
            ("[::1]:80", "[::1]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::1]:80", "[::1]:81", false),
            ("[::1]:80", "127.0.0.1:80", false),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "192.0.2.1:80", true),
            ("0.0.0.0:80", "192.0.2.2:80", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "[2001:db8::1]:80", true),
            ("[::]:80", "[2001:db8::2]:80", false),
            // Through the listener for all ports, if there is one.
            ("[::]:80", "[fd00::2]:80", false),
            ("[fd00::2]:80", "[fd00::2]:80", true),
            ("[fd00::2]:80", "[::1]:80", false),
        ] {
            expect_circle(listener, target, is_circle);
        }
    }

    #[test]
    fn a_listener_for_both_versions_takes_both() {
        for (takes_ipv4, target, is_circle) in [
            (true, "127.0.0.1:80", true),
            (true, "192.0.2.1:80", true),
            (true, "192.0.2.2:80", false),
            (false, "127.0.0.1:80", false),
        ] {
            let place = Place {
                takes_ipv4,
                ..place("[::]:80")
            };
            let found = leads_back(&place, &address(target), &Example);
            assert_eq!(found, is_circle, "{takes_ipv4} {target}");
        }
    }

    #[test]
    fn the_listener_for_all_ports_and_another_machine_s_address_are_a_circle() {
        for (is_transparent, target, is_circle) in [
            (true, "[fd00::2]:80", true),
            (true, "[fd00::3]:80", false),
            (true, "[::1]:40", true),
            (true, "[::1]:80", false),
            (false, "[fd00::2]:80", false),
        ] {
            let place = Place {
                is_transparent,
                ..place("[::1]:40")
            };
            let found = leads_back(&place, &address(target), &Example);
            assert_eq!(found, is_circle, "{is_transparent} {target}");
        }
    }

    #[test]
    fn unix_sockets_are_compared_by_what_is_behind_their_paths() {
        // TMPDIR may be too long for the address of a socket.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let _listeners =
            ["one", "other"].map(|name| UnixListener::bind(folder.path().join(name)).unwrap());
        std::os::unix::fs::symlink(path("one"), path("link")).unwrap();
        fs::hard_link(path("one"), path("hard")).unwrap();
        for (target, is_circle) in [
            (path("one"), true),
            (path("link"), true),
            (path("hard"), true),
            (path(".//one"), true),
            (path("other"), false),
            (path("missing"), false),
            (format!("vsock-mux:{}:445", path("link")), true),
            (format!("vsock-mux:{}:445", path("other")), false),
            ("@one".to_owned(), false),
        ] {
            expect_circle(&path("one"), &target, is_circle);
        }
        expect_circle("@one", "@one", true);
        expect_circle("@one", "@other", false);
        expect_circle("/missing", "/missing", true);
        expect_circle("/missing", "/missing/too", false);
    }
}
