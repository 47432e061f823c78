//! Which host a request names, and whether nobody else can have led a browser here by that name.
//!
//! A web page may be of a name that its owner has lead to 127.0.0.1 by now (DNS rebinding), and its scripts then read what is
//! for programs of this machine. They cannot choose what the browser names as the host.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Names that no owner of a domain can lead anywhere: `localhost` and what ends so (RFC 6761, section 6.3), and the names
/// that machines have here.
const OWN: [&str; 2] = ["localhost", "vsock"];

/// Returns whether it is an address, or a name that nobody else can have; with a port or without.
pub(super) fn is_own(host: &str) -> bool {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.split(':').next().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.parse::<Ipv4Addr>().is_ok() || OWN.iter().any(|own| last.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_of_this_machine_are_its_own() {
        for host in [
            "localhost",
            "localhost:10400",
            "LocalHost.:80",
            "web.localhost",
            "web.vsock:10400",
            "127.0.0.1",
            "127.0.0.1:10400",
            "[::1]",
            "[::1]:10400",
            "[fd00:1::3]:10400",
        ] {
            assert!(is_own(host), "{host}");
        }
        for host in [
            "",
            ":10400",
            "web",
            "web.example:10400",
            "localhost.example",
            "127.0.0.1.example",
            "0x7f000001",
            "[::1",
            "[localhost]",
            "::1",
        ] {
            assert!(!is_own(host), "{host}");
        }
    }
}
