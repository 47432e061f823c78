//! One request to the kernel's routing (rtnetlink(7)), and all that answers it. No policy.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::error::{Error, Result};

/// A routing socket, used for one request at a time.
pub(super) struct Netlink {
    socket: Socket,
    /// The index of lo.
    pub loopback: u32,
}

impl Netlink {
    /// Opens it; needs no capability. Errors: [`Error::Route`], here and below.
    pub(super) fn open() -> Result<Netlink> {
        let fail = |source| Error::Route {
            operation: "open a netlink socket".into(),
            source,
        };
        let loopback = nix::net::if_::if_nametoindex("lo").map_err(|errno| fail(errno.into()))?;
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        Ok(Netlink { socket, loopback })
    }

    /// Lists all IPv6 routes of all tables.
    pub(super) fn routes(&mut self) -> Result<Vec<RouteMessage>> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet6;
        let answers = self.request(
            RouteNetlinkMessage::GetRoute(request),
            NLM_F_DUMP,
            "list the routes",
        )?;
        let route = |message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(route).collect())
    }

    /// Lists the addresses of all interfaces.
    pub(super) fn addresses(&mut self) -> Result<Vec<Address>> {
        let answers = self.request(
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            NLM_F_DUMP,
            "list the addresses",
        )?;
        let address = |message| match message {
            RouteNetlinkMessage::NewAddress(message) => Address::of(&message),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Lists the IPv6 addresses of lo.
    pub(super) fn own_addresses(&mut self) -> Result<Vec<Ipv6Addr>> {
        let loopback = self.loopback;
        let address = |address: Address| match address.ip {
            IpAddr::V6(ip) if address.interface == loopback => Some(ip),
            _ => None,
        };
        Ok(self.addresses()?.into_iter().filter_map(address).collect())
    }

    /// Asks for a change; `operation` names it in the error.
    pub(super) fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<()> {
        self.request(message, NLM_F_ACK | flags, operation)
            .map(drop)
    }

    /// Sends one request and reads all that answers it.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, flags)
            .map_err(|source| Error::Route {
                operation: operation.to_owned(),
                source,
            })
    }

    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if take_answers(&datagram, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Reads the messages of one datagram; true after the last of the answer.
fn take_answers(mut datagram: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram)
            .map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            // An error without code is the acknowledgement (netlink(7)).
            NetlinkPayload::Error(_) => return Ok(true),
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            _ => {}
        }
        // Messages begin at multiples of four bytes.
        let length = (message.header.length as usize)
            .next_multiple_of(4)
            .clamp(4, datagram.len());
        datagram = &datagram[length..];
    }
    Ok(false)
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The index of the interface.
    pub interface: u32,
    /// The address itself, not that of the other end of a line.
    pub ip: IpAddr,
    /// The name that IPv4 addresses have.
    pub label: Option<String>,
}

impl Address {
    fn of(message: &AddressMessage) -> Option<Address> {
        let attributes = &message.attributes;
        let local = attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let address = attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        let label = attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Label(label) => Some(label.clone()),
            _ => None,
        });
        Some(Address {
            interface: message.header.index,
            ip: local.or(address)?,
            label,
        })
    }
}
