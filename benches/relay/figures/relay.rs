//! The names of the relays that are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

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
}

impl Relay {
    /// Whether connections pass two bridges: those are held against each other alone.
    pub fn is_chain(self) -> bool {
        matches!(self, Self::Two | Self::Gateway)
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
        })
    }
}
