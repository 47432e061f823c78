//! The relays that are compared, and how each is told what to do. Ours gets its defaults; the others are set as their
//! friends would set them, so that no figure is won by a bad configuration.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::address::{Address, Family, Kind};
use crate::configs;
use crate::error::{Doing, Result};
use crate::figures::relay::Relay;

/// Connections that a relay must be able to hold: what two descriptors for each allow under a common hard limit of 20 000.
pub const MAX_CONNECTIONS: u32 = 9_400;

/// The sockets at both ends of a chain with a unix socket between its bridges.
const CHAIN: Family = Family::new(Kind::Tcp6, Kind::Unix);
/// Those of set-up B: vsock is between its relays.
const OVER_VSOCK: Family = Family::new(Kind::Tcp6, Kind::Tcp6);
/// The target as a machine of the gateway.
const TARGET_NAME: &str = "target";
const TARGET_PORT: u32 = 1024;

const PROXYD: [&str; 2] = [
    "/lib/systemd/systemd-socket-proxyd",
    "/usr/lib/systemd/systemd-socket-proxyd",
];
/// The variable that names the one of Debian's next release.
const PROXYD_NEXT: &str = "BENCH_PROXYD_NEXT";
const SOCAT: &str = "/usr/bin/socat";
const HAPROXY: &str = "/usr/sbin/haproxy";
const NGINX: &str = "/usr/sbin/nginx";

/// Where a relay's listener comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Handed over as systemd does.
    Activated,
    /// It makes it itself.
    Itself,
}

impl Relay {
    /// Where its listener comes from; `None` for no relay at all.
    pub fn listening(self) -> Option<Listening> {
        match self {
            Self::Direct | Self::DirectVsock => None,
            Self::Ours
            | Self::Two
            | Self::Gateway
            | Self::Unkept
            | Self::Chain
            | Self::Proxyd
            | Self::ProxydNext => Some(Listening::Activated),
            Self::Socat | Self::SocatChain | Self::Haproxy | Self::Nginx => Some(Listening::Itself),
        }
    }

    /// Whether it speaks both sides.
    pub fn supports(self, family: Family) -> bool {
        match self {
            Self::Direct | Self::Ours | Self::Unkept | Self::Socat => true,
            Self::Proxyd | Self::ProxydNext => family.outbound != Kind::Vsock,
            // As from a guest to a machine with hybrid vsock, by way of the host.
            Self::Two | Self::Gateway => family == CHAIN,
            Self::DirectVsock | Self::Chain | Self::SocatChain => family == OVER_VSOCK,
            Self::Haproxy | Self::Nginx => {
                family.inbound != Kind::Vsock && family.outbound != Kind::Vsock
            }
        }
    }

    /// Whether it is asked to hold so many idle connections: a process for each would take the machine's memory.
    pub fn can_hold(self, connections: u32) -> bool {
        !matches!(self, Self::Socat | Self::SocatChain) || connections <= 1000
    }

    /// Its program; `ours` is where ours was built.
    pub fn program(self, ours: &Path) -> Option<PathBuf> {
        match self {
            Self::Direct | Self::DirectVsock => None,
            Self::Ours | Self::Two | Self::Gateway | Self::Unkept | Self::Chain => {
                Some(ours.to_path_buf())
            }
            Self::Proxyd => PROXYD
                .iter()
                .map(PathBuf::from)
                .find(|path| path.exists())
                .or(Some(PROXYD[0].into())),
            Self::ProxydNext => Some(env::var_os(PROXYD_NEXT).map_or_else(
                || format!("program of ${PROXYD_NEXT}").into(),
                PathBuf::from,
            )),
            Self::Socat | Self::SocatChain => Some(SOCAT.into()),
            Self::Haproxy => Some(HAPROXY.into()),
            Self::Nginx => Some(NGINX.into()),
        }
    }

    /// The option that prints its version.
    pub fn version_option(self) -> &'static str {
        match self {
            Self::Socat | Self::SocatChain => "-V",
            Self::Haproxy | Self::Nginx => "-v",
            Self::Direct
            | Self::DirectVsock
            | Self::Ours
            | Self::Two
            | Self::Gateway
            | Self::Unkept
            | Self::Chain
            | Self::Proxyd
            | Self::ProxydNext => "--version",
        }
    }

    /// Its arguments; configuration files go to `folder`.
    pub fn arguments(
        self,
        inbound: &Address,
        outbound: &Address,
        folder: &Path,
    ) -> Result<Vec<String>> {
        Ok(match self {
            Self::Direct | Self::DirectVsock => Vec::new(),
            // The second is told of hybrid vsock, as the gateway is.
            Self::Ours | Self::Two | Self::Chain => ours(&[format!("--to={outbound}")]),
            Self::Unkept => ours(&[format!("--to={outbound}"), "--crash-proof=no".into()]),
            Self::Gateway => ours(&[
                format!("--to=vsock:{TARGET_NAME}:{TARGET_PORT}"),
                format!("--via={outbound}"),
            ]),
            Self::Proxyd | Self::ProxydNext => vec![
                format!("--connections-max={MAX_CONNECTIONS}"),
                without_brackets(outbound),
            ],
            Self::Socat | Self::SocatChain => {
                vec![socat_listener(inbound), socat_target(outbound)]
            }
            Self::Haproxy => vec![
                "-f".into(),
                configs::write_haproxy(inbound, outbound, folder)?,
            ],
            Self::Nginx => {
                let file = configs::write_nginx(inbound, outbound, folder)?;
                vec![
                    "-p".into(),
                    folder.display().to_string(),
                    "-c".into(),
                    file,
                    "-e".into(),
                    "stderr".into(),
                ]
            }
        })
    }
}

/// What the second relay of a chain is told, which the first reaches at `between`.
pub fn far_arguments(
    relay: Relay,
    between: &Address,
    target: &Address,
    folder: &Path,
) -> Result<Vec<String>> {
    match relay {
        Relay::Two => return Ok(ours(&[format!("--to=vsock-mux:{target}:{TARGET_PORT}")])),
        Relay::Chain => return Relay::Ours.arguments(between, target, folder),
        Relay::SocatChain => return Relay::Socat.arguments(between, target, folder),
        _ => (),
    }
    let rules = folder.join("gateway.conf");
    fs::write(&rules, format!("peer {TARGET_NAME}:{TARGET_PORT}\n"))
        .doing(|| format!("write {}", rules.display()))?;
    Ok(ours(&[
        "--to=gateway".to_owned(),
        "--machine=peer".to_owned(),
        format!("--names=peer=3 {TARGET_NAME}={target}"),
        format!("--rules={}", rules.display()),
    ]))
}

/// Ours, with its limits out of the way.
fn ours(arguments: &[String]) -> Vec<String> {
    let common = [
        format!("--max-connections={MAX_CONNECTIONS}"),
        format!("--max-connections-per-peer={MAX_CONNECTIONS}"),
        // Over vsock loopback, the load comes from this machine itself.
        "--allow-cid=any,local".to_owned(),
    ];
    [arguments, &common].concat()
}

/// socket-proxyd splits at the last colon and hands the rest to getaddrinfo, which knows no brackets (v252).
fn without_brackets(address: &Address) -> String {
    match address {
        Address::Tcp6(address) => format!("{}:{}", address.ip(), address.port()),
        other => other.to_string(),
    }
}

/// The backlog is socat's only limit here: its own five are too few for anybody's load.
fn socat_listener(address: &Address) -> String {
    match address {
        Address::Tcp6(a) => format!(
            "TCP6-LISTEN:{},bind=[{}],fork,reuseaddr,backlog=4096",
            a.port(),
            a.ip()
        ),
        Address::Unix(path) => format!("UNIX-LISTEN:{},fork,mode=777,backlog=4096", path.display()),
        Address::Vsock { port, .. } => format!("VSOCK-LISTEN:{port},fork,backlog=4096"),
    }
}

fn socat_target(address: &Address) -> String {
    match address {
        Address::Tcp6(address) => format!("TCP6:{address}"),
        Address::Unix(path) => format!("UNIX-CONNECT:{}", path.display()),
        Address::Vsock { cid, port } => format!("VSOCK-CONNECT:{cid}:{port}"),
    }
}
