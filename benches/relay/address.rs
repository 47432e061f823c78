//! Where peers connect and targets listen: `[::1]:PORT`, `/path.sock`, `vsock:CID:PORT`. No I/O.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// CID of the machine itself, answered by the vsock loopback transport.
pub const VSOCK_LOCAL_CID: u32 = 1;

/// Kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv6 loopback.
    Tcp6,
    /// Unix stream socket with a path.
    Unix,
    /// Vsock loopback.
    Vsock,
}

impl Kind {
    /// A new address of this kind; `port` makes it unique.
    pub fn address(self, port: u16, folder: &Path) -> Address {
        match self {
            Self::Tcp6 => Address::Tcp6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)),
            Self::Unix => Address::Unix(folder.join(format!("{port}.sock"))),
            Self::Vsock => Address::Vsock {
                cid: VSOCK_LOCAL_CID,
                port: u32::from(port),
            },
        }
    }

    /// As people write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Tcp6 => "TCP",
            Self::Unix => "unix socket",
            Self::Vsock => "vsock",
        }
    }
}

/// The kinds on both sides of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// How peers come in.
    pub inbound: Kind,
    /// How the target is reached.
    pub outbound: Kind,
}

impl Family {
    /// A pair of kinds.
    pub const fn new(inbound: Kind, outbound: Kind) -> Self {
        Self { inbound, outbound }
    }
}

/// The families that every machine has.
pub const ORDINARY: &str = "tcp6-tcp6,tcp6-unix,unix-tcp6,unix-unix";

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp6 => "tcp6",
            Self::Unix => "unix",
            Self::Vsock => "vsock",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp6" => Ok(Self::Tcp6),
            "unix" => Ok(Self::Unix),
            "vsock" => Ok(Self::Vsock),
            _ => Err(format!("'{text}' is none of tcp6, unix, vsock")),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.inbound, self.outbound)
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (inbound, outbound) = text
            .split_once('-')
            .ok_or_else(|| format!("'{text}' is not of the form tcp6-unix"))?;
        Ok(Self {
            inbound: inbound.parse()?,
            outbound: outbound.parse()?,
        })
    }
}

/// One address, printed as vsock-bridge takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `[::1]:PORT`
    Tcp6(SocketAddrV6),
    /// `/path.sock`
    Unix(PathBuf),
    /// `vsock:CID:PORT`
    Vsock {
        /// Which machine.
        cid: u32,
        /// Which port there.
        port: u32,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp6(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}
