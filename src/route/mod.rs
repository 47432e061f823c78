//! The local route of a prefix: `local P::/64 dev lo src P::<own CID>`. The only user of netlink.
//!
//! With the route every address of the prefix is this machine's own, so that any of them can be bound (with
//! IPV6_FREEBIND) and answered. The address on lo is the source of ordinary local connections to the prefix,
//! without which a listener bound to lo would not hear them.

mod netlink;
mod stand_in;
mod watch;

use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{Error, Result};
use crate::prefix::Prefix;
use crate::sys;
use crate::vsock::Cid;

use netlink::Netlink;
pub(crate) use watch::Watch;

/// The kernel's table for local addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u8 = 255;
/// Marks our routes, so that they are found again after the prefix has changed; a number that nobody else is known
/// to use (iproute2, etc/iproute2/rt_protos).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(118);
/// Longest covering route that is still somebody else's site: RFC 4193 gives each a /48.
const SITE_LENGTH: u8 = 48;

/// Asks /dev/vsock for the CID of this machine.
///
/// None when there is no vsock transport yet: the module may be loaded later, so that is no error.
pub(crate) fn own_cid() -> Option<Cid> {
    let device = File::open("/dev/vsock").ok()?;
    sys::local_cid(device.as_fd()).ok().and_then(Cid::new)
}

/// Puts the route and the own address in place; what an earlier prefix or CID left behind is removed.
///
/// Errors: [`Error::PrefixInUse`], [`Error::Route`].
pub(crate) fn up(prefix: Prefix) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let routes = netlink.routes()?;
    refuse_clash(prefix, &routes, netlink.loopback)?;
    let own = present_address(prefix);
    for old in routes.iter().filter_map(ours).filter(|&old| old != prefix) {
        remove(&mut netlink, old)?;
    }
    remove_addresses(&mut netlink, prefix, Some(own))?;
    // Before the address that would make it necessary.
    stand_in::add(&mut netlink, prefix)?;
    let address = RouteNetlinkMessage::NewAddress(address_message(own, netlink.loopback));
    let operation = format!("add {own} to lo");
    let added = netlink.change(address, NLM_F_CREATE | NLM_F_REPLACE, &operation);
    added.map_err(without_ipv6)?;
    let mut route = route_message(prefix, netlink.loopback);
    route
        .attributes
        .push(RouteAttribute::PrefSource(RouteAddress::Inet6(own)));
    let route = RouteNetlinkMessage::NewRoute(route);
    let operation = format!("add the local route of {prefix}");
    netlink.change(route, NLM_F_CREATE | NLM_F_REPLACE, &operation)
}

/// Returns this machine's own address: the source of the route in place, else the one that [`up`] would take.
///
/// Errors: [`Error::PrefixInUse`], [`Error::Route`].
pub(crate) fn own_address(prefix: Prefix) -> Result<Ipv6Addr> {
    let mut netlink = Netlink::open()?;
    let routes = netlink.routes()?;
    refuse_clash(prefix, &routes, netlink.loopback)?;
    let in_place = routes.iter().find(|route| ours(route) == Some(prefix));
    Ok(in_place
        .and_then(preferred_source)
        .unwrap_or_else(|| present_address(prefix)))
}

/// Without a CID the machine is at least itself.
fn present_address(prefix: Prefix) -> Ipv6Addr {
    prefix.address(own_cid().unwrap_or(Cid::LOCAL))
}

/// Takes our routes and addresses away, whatever the prefix was when they were added.
pub(crate) fn down() -> Result<()> {
    let mut netlink = Netlink::open()?;
    for prefix in netlink.routes()?.iter().filter_map(ours) {
        remove(&mut netlink, prefix)?;
    }
    stand_in::remove(&mut netlink)
}

/// Returns what it means that an address of IPv6 cannot be added: whoever lacks the right to hears EPERM.
fn without_ipv6(error: Error) -> Error {
    use nix::libc::{EACCES, EAFNOSUPPORT, EOPNOTSUPP};
    match error {
        Error::Route { source, operation } => match source.raw_os_error() {
            Some(EACCES) => Error::Ipv6Disabled { operation },
            Some(EAFNOSUPPORT | EOPNOTSUPP) => Error::NoIpv6 { operation },
            _ => Error::Route { source, operation },
        },
        other => other,
    }
}

/// Returns the prefix whose route is in place, if it is one of ours.
///
/// Errors: [`Error::Route`].
pub(crate) fn in_place() -> Result<Option<Prefix>> {
    Ok(Netlink::open()?.routes()?.iter().find_map(ours))
}

/// Returns what [`up`] would have to add, in words; none when all is there.
///
/// Errors: [`Error::Route`].
pub(crate) fn missing(prefix: Prefix) -> Result<Option<String>> {
    let mut netlink = Netlink::open()?;
    if !netlink
        .routes()?
        .iter()
        .any(|route| is_local(route, prefix))
    {
        return Ok(Some(format!("the local route of {prefix}")));
    }
    let addresses = netlink.own_addresses()?;
    if !addresses.iter().any(|&address| prefix.contains(address)) {
        return Ok(Some(format!("the address of {prefix} on lo")));
    }
    let is_missing = stand_in::is_missing(&netlink.addresses()?, prefix);
    Ok(is_missing.then(|| format!("{} on lo", stand_in::ADDRESS)))
}

fn is_local(route: &RouteMessage, prefix: Prefix) -> bool {
    route.header.kind == RouteType::Local
        && route.header.destination_prefix_length == 64
        && destination(route) == Some(prefix.network())
}

/// What the kernel has of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The local route is there, whoever added it.
    pub has_route: bool,
    /// The addresses of the prefix on lo.
    pub addresses: Vec<Ipv6Addr>,
    /// What uses the prefix for something else.
    pub clash: Option<String>,
}

/// Looks at the routes and at the addresses of lo; needs no capability.
///
/// Errors: [`Error::Route`].
pub(crate) fn state(prefix: Prefix) -> Result<State> {
    let mut netlink = Netlink::open()?;
    let routes = netlink.routes()?;
    let mut addresses = netlink.own_addresses()?;
    addresses.retain(|&address| prefix.contains(address));
    Ok(State {
        has_route: routes.iter().any(|route| is_local(route, prefix)),
        addresses,
        clash: routes
            .iter()
            .find_map(|route| clash(prefix, route, netlink.loopback)),
    })
}

/// Removes the route of a prefix and its addresses.
fn remove(netlink: &mut Netlink, prefix: Prefix) -> Result<()> {
    let route = RouteNetlinkMessage::DelRoute(route_message(prefix, netlink.loopback));
    ignore_missing(netlink.change(route, 0, &format!("remove the local route of {prefix}")))?;
    remove_addresses(netlink, prefix, None)
}

/// Removes the addresses of the prefix from lo, but the one to keep.
fn remove_addresses(netlink: &mut Netlink, prefix: Prefix, keep: Option<Ipv6Addr>) -> Result<()> {
    for address in netlink.own_addresses()? {
        if prefix.contains(address) && Some(address) != keep {
            let removal =
                RouteNetlinkMessage::DelAddress(address_message(address, netlink.loopback));
            ignore_missing(netlink.change(removal, 0, &format!("remove {address} from lo")))?;
        }
    }
    Ok(())
}

/// Reads the prefix of a route that we have added.
fn ours(route: &RouteMessage) -> Option<Prefix> {
    let is_ours = route.header.protocol == PROTOCOL && route.header.kind == RouteType::Local;
    Prefix::containing(destination(route).filter(|_| is_ours)?)
}

fn destination(route: &RouteMessage) -> Option<Ipv6Addr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
            _ => None,
        })
}

fn preferred_source(route: &RouteMessage) -> Option<Ipv6Addr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => Some(*address),
            _ => None,
        })
}

fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(Error::Route { source, .. }) if is_missing(&source) => Ok(()),
        other => other,
    }
}

fn is_missing(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, ENOENT, ESRCH};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | ENOENT | ESRCH))
}

fn refuse_clash(prefix: Prefix, routes: &[RouteMessage], loopback: u32) -> Result<()> {
    match routes
        .iter()
        .find_map(|route| clash(prefix, route, loopback))
    {
        Some(by) => Err(Error::PrefixInUse { prefix, by }),
        None => Ok(()),
    }
}

/// Describes a route that uses the prefix for something else; routes through lo are ours.
fn clash(prefix: Prefix, route: &RouteMessage, loopback: u32) -> Option<String> {
    let length = route.header.destination_prefix_length;
    let find =
        |wanted: fn(&RouteAttribute) -> Option<u32>| route.attributes.iter().find_map(wanted);
    let interface = find(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    if interface == Some(loopback) || length < SITE_LENGTH {
        return None;
    }
    let destination = destination(route)?;
    let mask = u128::MAX << (128 - u32::from(length.min(64)));
    let overlaps = (u128::from(destination) ^ u128::from(prefix.network())) & mask == 0;
    overlaps.then(|| format!("route {destination}/{length}"))
}

fn route_message(prefix: Prefix, loopback: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = 64;
    message.header.table = TABLE_LOCAL;
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Local;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet6(prefix.network())),
        RouteAttribute::Oif(loopback),
        RouteAttribute::Table(TABLE_LOCAL.into()),
    ];
    message
}

fn address_message(address: Ipv6Addr, loopback: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 128;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.header.scope = AddressScope::Universe;
    message.header.index = loopback;
    message.attributes = vec![AddressAttribute::Address(address.into())];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const LO: u32 = 1;

    fn route(destination: &str, length: u8, interface: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = length;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet6(destination.parse().unwrap())),
            RouteAttribute::Oif(interface),
        ];
        message
    }

    #[test]
    fn only_routes_of_others_that_overlap_clash() {
        let prefix: Prefix = "fd00:abcd:ef12::/64".parse().unwrap();
        for (destination, length, interface, clashes) in [
            ("fd00:abcd:ef12::", 64, 2, true),
            ("fd00:abcd:ef12::5", 128, 2, true),
            ("fd00:abcd:ef12::", 48, 2, true),
            ("fd00:abcd:ef12::", 64, LO, false),
            ("fd00:abcd:ef12:1::", 64, 2, false),
            ("fd00:abcd:ef13::", 48, 2, false),
            ("fd00::", 8, 2, false),
            ("::", 0, 2, false),
        ] {
            let found = clash(prefix, &route(destination, length, interface), LO);
            assert_eq!(
                found.is_some(),
                clashes,
                "{destination}/{length} dev {interface}"
            );
        }
    }
}
