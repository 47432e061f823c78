//! Hears of it when somebody takes the route or an address away (rtnetlink(7)); needs no capability.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::destination;
use crate::error::{Error, Result};
use crate::prefix::Prefix;

/// Routes and addresses of IPv6, addresses of IPv4.
const GROUPS: i32 = libc::RTMGRP_IPV6_ROUTE | libc::RTMGRP_IPV6_IFADDR | libc::RTMGRP_IPV4_IFADDR;

/// A socket that the kernel tells of changes.
pub(crate) struct Watch {
    socket: Socket,
    prefix: Prefix,
}

impl Watch {
    /// Hears of all that happens from now on. Errors: [`Error::Route`], here and below.
    pub(crate) fn open(prefix: Prefix) -> Result<Watch> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, GROUPS as u32))?;
            socket.set_non_blocking(true)?;
            Ok(Watch { socket, prefix })
        };
        open().map_err(failure)
    }

    /// Waits until something has changed that may matter, or until the time is over.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> Result<()> {
        let limit = limit.map_or(PollTimeout::NONE, |limit| {
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
        });
        loop {
            let mut wait = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut wait, limit).map_err(|errno| failure(errno.into()))?;
            if ready == 0 || self.take().map_err(failure)? {
                return Ok(());
            }
        }
    }

    /// Takes what has come; true if something of it may matter.
    fn take(&self) -> io::Result<bool> {
        let mut matters = false;
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => matters |= matters_in(&datagram, self.prefix),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(matters),
                // More has happened than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => matters = true,
                Err(error) => return Err(error),
            }
        }
    }
}

fn failure(source: io::Error) -> Error {
    Error::Route {
        operation: "watch the routes".into(),
        source,
    }
}

/// Routes come and go by the thousand where a router has all of the Internet; looking at ours lists them all.
fn matters_in(mut datagram: &[u8], prefix: Prefix) -> bool {
    while !datagram.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            return true;
        };
        let matters = match &message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
                destination(route).is_some_and(|address| prefix.contains(address))
            }
            // lo may have come back.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(_)) => false,
            NetlinkPayload::InnerMessage(_) => true,
            _ => false,
        };
        if matters {
            return true;
        }
        let length = (message.header.length as usize)
            .next_multiple_of(4)
            .clamp(4, datagram.len());
        datagram = &datagram[length..];
    }
    false
}
