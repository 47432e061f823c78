//! 127.0.0.2 on lo, so that a machine without a network keeps the IPv4 addresses of its own names.
//!
//! getaddrinfo(3) with AI_ADDRCONFIG, as many programs call it, gives addresses of a family only where an address of that
//! family is there; it leaves out 127.0.0.1 and ::1, and only these, and wants both families where it finds none at all
//! (glibc, sysdeps/unix/sysv/linux/check_pf.c). On a machine that has no other address, as a guest without a network card,
//! the one that the prefix needs would be the only one, and take IPv4 from all programs: not even `127.0.0.1` would be
//! an address. One more of IPv4 makes up for that. It is in no program's way: 127.0.0.0/8 is this machine's anyway.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Address, Netlink};
use crate::error::Result;
use crate::prefix::Prefix;

/// The first one that does count.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Tells it from one that somebody else has added.
const LABEL: &str = "lo:vsock";

/// Returns whether the prefix would be all that there is, but for 127.0.0.1 and ::1.
pub(super) fn is_missing(addresses: &[Address], prefix: Prefix) -> bool {
    let counts = |address: &Address| match address.ip {
        IpAddr::V4(ip) => ip != Ipv4Addr::LOCALHOST,
        IpAddr::V6(ip) => !ip.is_loopback() && !prefix.contains(ip),
    };
    !addresses.iter().any(counts)
}

/// Adds it where it is missing.
pub(super) fn add(netlink: &mut Netlink, prefix: Prefix) -> Result<()> {
    if !is_missing(&netlink.addresses()?, prefix) {
        return Ok(());
    }
    let message = RouteNetlinkMessage::NewAddress(message(netlink.loopback));
    netlink.change(
        message,
        netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE,
        &format!("add {ADDRESS} to lo"),
    )
}

/// Removes it, if it is ours.
pub(super) fn remove(netlink: &mut Netlink) -> Result<()> {
    let is_ours = |address: &Address| {
        address.ip == IpAddr::V4(ADDRESS) && address.label.as_deref() == Some(LABEL)
    };
    if !netlink.addresses()?.iter().any(is_ours) {
        return Ok(());
    }
    let message = RouteNetlinkMessage::DelAddress(message(netlink.loopback));
    netlink.change(message, 0, &format!("remove {ADDRESS} from lo"))
}

fn message(loopback: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    message.header.index = loopback;
    message.attributes = vec![
        AddressAttribute::Local(ADDRESS.into()),
        AddressAttribute::Address(ADDRESS.into()),
        AddressAttribute::Label(LABEL.into()),
    ];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_missing_where_nothing_else_counts() {
        let prefix: Prefix = "fd00:1::/64".parse().unwrap();
        for (addresses, expected) in [
            (&[][..], true),
            (&["127.0.0.1", "::1"], true),
            (&["127.0.0.1", "::1", "fd00:1::3"], true),
            // It is there, or another one.
            (&["127.0.0.1", "127.0.0.2"], false),
            (&["127.0.0.1", "192.0.2.1", "fd00:1::3"], false),
            // Programs have no IPv4 here, with or without the prefix.
            (&["127.0.0.1", "fe80::1", "fd00:1::3"], false),
        ] {
            let address = |text: &&str| Address {
                interface: 1,
                ip: text.parse().unwrap(),
                label: None,
            };
            let found: Vec<Address> = addresses.iter().map(address).collect();
            assert_eq!(is_missing(&found, prefix), expected, "{addresses:?}");
        }
    }
}
