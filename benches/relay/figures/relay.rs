//! The names of the relays that are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::Kind;

/// Who is compared.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Relay {
    /// No relay: peers connect to the target.
    Direct,
    /// systemd-socket-proxyd
    Proxyd,
    /// That of Debian's next release.
    #[serde(rename = "proxyd-next")]
    ProxydNext,
    /// vsock-bridge
    Ours,
    /// socat with fork: a process for each connection.
    Socat,
    /// HAProxy in TCP mode with splicing.
    Haproxy,
    /// nginx's stream module.
    Nginx,
    /// Two of ours, one behind the other.
    Two,
    /// The same with the gateway as the second: the first asks it for a machine.
    Gateway,
    /// Ours with --crash-proof=no.
    Unkept,
    /// No relay, and vsock in the place of TCP.
    #[serde(rename = "direct-vsock")]
    DirectVsock,
    /// From TCP over vsock to TCP by two of ours: set-up B.
    Chain,
    /// The same by two socats.
    #[serde(rename = "socat-chain")]
    SocatChain,
}

impl Relay {
    /// Whether connections pass two relays, or it is what those are held against: they have a table of their own.
    pub fn is_chain(self) -> bool {
        self == Self::DirectVsock || self.between().is_some()
    }

    /// What is between the two relays that connections pass.
    pub fn between(self) -> Option<Kind> {
        match self {
            Self::Two | Self::Gateway => Some(Kind::Unix),
            Self::Chain | Self::SocatChain => Some(Kind::Vsock),
            _ => None,
        }
    }

    /// Whether it is built here.
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Ours | Self::Two | Self::Gateway | Self::Unkept | Self::Chain
        )
    }

    /// Its name in full.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "no relay",
            Self::Proxyd => "systemd-socket-proxyd",
            Self::ProxydNext => "systemd-socket-proxyd, next release",
            Self::Ours => "vsock-bridge",
            Self::Socat => "socat",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Two => "two vsock-bridges",
            Self::Gateway => "vsock-bridge and its gateway",
            Self::Unkept => "vsock-bridge, not crash-proof",
            Self::DirectVsock => "vsock without a relay",
            Self::Chain => "two vsock-bridges over vsock",
            Self::SocatChain => "two socats over vsock",
        }
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Proxyd => "proxyd",
            Self::ProxydNext => "proxyd-next",
            Self::Ours => "ours",
            Self::Socat => "socat",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Two => "two",
            Self::Gateway => "gateway",
            Self::Unkept => "unkept",
            Self::DirectVsock => "direct-vsock",
            Self::Chain => "chain",
            Self::SocatChain => "socat-chain",
        })
    }
}
