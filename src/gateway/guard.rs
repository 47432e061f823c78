//! Addresses that a name must not lead to: what is inside, behind a name of somebody else's.
//!
//! The registries of special addresses (RFC 6890, IANA), without the networks for documentation, which lead nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First address, length, and what it is.
const IPV4: [(Ipv4Addr, u32, &str); 11] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "of this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "private to a provider"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "reserved"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// The same; the first that fits holds.
const IPV6: [(Ipv6Addr, u32, &str); 11] = [
    (Ipv6Addr::UNSPECIFIED, 128, "of this machine"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::UNSPECIFIED, 96, "reserved"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "private"),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, "reserved"),
    // Teredo and everything else for protocols, of which none is a service.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "private"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "private"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16, "reserved"),
];

/// Returns what an address is if it is none of the Internet.
pub(crate) fn kind(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => kind_of_ipv4(ip),
        IpAddr::V6(ip) => {
            let is_in = |(first, bits, _): &&(Ipv6Addr, u32, &str)| {
                (ip.to_bits() ^ first.to_bits()).leading_zeros() >= *bits
            };
            let kind = IPV6.iter().find(is_in).map(|(_, _, kind)| *kind);
            kind.or_else(|| kind_of_ipv4(embedded(ip)?))
        }
    }
}

fn kind_of_ipv4(ip: Ipv4Addr) -> Option<&'static str> {
    let is_in = |(first, bits, _): &&(Ipv4Addr, u32, &str)| {
        (ip.to_bits() ^ first.to_bits()).leading_zeros() >= *bits
    };
    IPV4.iter().find(is_in).map(|(_, _, kind)| *kind)
}

/// Returns the IPv4 address that a translator or tunnel reaches by that one: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_told_from_what_is_outside() {
        for (text, expected) in [
            ("0.0.0.0", Some("of this network")),
            ("10.255.255.255", Some("private")),
            ("11.0.0.0", None),
            ("100.64.0.1", Some("private to a provider")),
            ("100.128.0.1", None),
            ("127.255.0.1", Some("loopback")),
            ("169.254.169.254", Some("link-local")),
            ("172.15.255.255", None),
            ("172.31.0.1", Some("private")),
            ("172.32.0.1", None),
            ("192.168.1.1", Some("private")),
            ("192.0.2.1", None),
            ("198.19.0.1", Some("reserved")),
            ("224.0.0.1", Some("multicast")),
            ("255.255.255.255", Some("reserved")),
            ("8.8.8.8", None),
            ("::", Some("of this machine")),
            ("::1", Some("loopback")),
            ("::127.0.0.1", Some("reserved")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("::ffff:8.8.8.8", None),
            ("64:ff9b::169.254.169.254", Some("link-local")),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b:1::1", Some("private")),
            ("2002:7f00:1::1", Some("loopback")),
            ("2002:808:808::1", None),
            ("2001::1", Some("reserved")),
            ("2001:200::1", None),
            ("2001:db8::1", None),
            ("2a00::1", None),
            ("fc00::1", Some("private")),
            ("fd00:ec2::254", Some("private")),
            ("fe80::1", Some("link-local")),
            ("febf::1", Some("link-local")),
            ("fec0::1", Some("private")),
            ("ff02::1", Some("multicast")),
        ] {
            assert_eq!(kind(text.parse().unwrap()), expected, "{text}");
        }
    }
}
