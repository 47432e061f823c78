//! The header that tells a target who connected: PROXY protocol, versions 1 and 2.
//!
//! Receivers know no vsock (haproxy, doc/proxy-protocol.txt), so a vsock peer is told as its mapped address, and in
//! version 2 also as it is, in a TLV of a type that is left to applications (section 2.2.8). A vsock port that does
//! not fit into 16 bits is told as 0, which both versions allow, and in full in the TLV alone. A peer without an address
//! is told as unknown.

pub(crate) mod read;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::peer::Peer;
use crate::prefix::Prefix;
use crate::vsock::VsockAddr;

/// Begins every header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the receiver is to believe its own socket.
const LOCAL: u8 = 0x20;
/// Version 2, and the addresses are those of the peer.
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// The type of the TLV with the vsock address of the peer, e.g. `vsock:3:1024`.
pub(crate) const VSOCK_TLV: u8 = 0xe5;

/// Which header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary, with the vsock address.
    V2,
    /// Binary, with nothing behind the addresses, for receivers that know no TLV.
    V2Plain,
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Version> {
        match text {
            "v1" => Ok(Version::V1),
            "v2" => Ok(Version::V2),
            "v2-plain" => Ok(Version::V2Plain),
            _ => {
                let hint = "expected v1, v2 or v2-plain";
                Err(Error::invalid("PROXY protocol", text, hint))
            }
        }
    }
}

/// Returns the header of a connection of `peer` to `local`.
pub fn header(
    version: Version,
    peer: &Peer,
    local: Option<&Endpoint>,
    prefix: Option<Prefix>,
) -> Vec<u8> {
    let addresses = addresses(peer, local, prefix);
    match version {
        Version::V1 => line(addresses).into_bytes(),
        Version::V2 => binary(addresses, vsock_address(peer)),
        Version::V2Plain => binary(addresses, None),
    }
}

/// Returns the header by which a gateway says which machine it brings, and to which port: in version 2, with the TLV.
pub(crate) fn of_machine(from: &VsockAddr, to: SocketAddr, prefix: Prefix) -> Vec<u8> {
    let addresses = mapped(from, prefix).map(|from| (from, to));
    binary(addresses, Some(from))
}

/// Returns where the connection comes from and where it went, in one family.
fn addresses(
    peer: &Peer,
    local: Option<&Endpoint>,
    prefix: Option<Prefix>,
) -> Option<(SocketAddr, SocketAddr)> {
    match (peer, local?) {
        (Peer::Vsock(from), Endpoint::Vsock(to)) => {
            Some((mapped(from, prefix?)?, mapped(to, prefix?)?))
        }
        (Peer::Tcp(ip, port), Endpoint::Tcp(to)) if ip.is_ipv6() == to.is_ipv6() => {
            Some((SocketAddr::new(*ip, *port), *to))
        }
        _ => None,
    }
}

fn mapped(addr: &VsockAddr, prefix: Prefix) -> Option<SocketAddr> {
    let port = u16::try_from(addr.port.number()).unwrap_or(0);
    Some(SocketAddr::new(prefix.address(addr.cid?).into(), port))
}

fn line(addresses: Option<(SocketAddr, SocketAddr)>) -> String {
    let Some((from, to)) = addresses else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let family = if from.is_ipv6() { "TCP6" } else { "TCP4" };
    let ports = (from.port(), to.port());
    let (from, to) = (from.ip(), to.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1)
}

fn vsock_address(peer: &Peer) -> Option<&VsockAddr> {
    match peer {
        Peer::Vsock(addr) => Some(addr),
        _ => None,
    }
}

fn binary(addresses: Option<(SocketAddr, SocketAddr)>, peer: Option<&VsockAddr>) -> Vec<u8> {
    let (command, family) = match addresses {
        None => (LOCAL, UNSPECIFIED),
        Some((from, _)) if from.is_ipv6() => (PROXY, TCP6),
        Some(_) => (PROXY, TCP4),
    };
    let mut body = Vec::new();
    if let Some((from, to)) = addresses {
        for ip in [from.ip(), to.ip()] {
            match ip {
                IpAddr::V4(ip) => body.extend(ip.octets()),
                IpAddr::V6(ip) => body.extend(ip.octets()),
            }
        }
        for port in [from.port(), to.port()] {
            body.extend(port.to_be_bytes());
        }
        if let Some(addr) = peer {
            let value = addr.to_string();
            body.push(VSOCK_TLV);
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(value.bytes());
        }
    }
    let length = (body.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::UnixName;
    use ppp::{HeaderResult, v1, v2};

    fn vsock(text: &str) -> VsockAddr {
        match text.parse() {
            Ok(Endpoint::Vsock(addr)) => addr,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn tcp(text: &str) -> Peer {
        let addr: SocketAddr = text.parse().unwrap();
        Peer::Tcp(addr.ip(), addr.port())
    }

    fn header_of(version: Version, peer: &Peer, local: &str) -> Vec<u8> {
        let prefix = "fd00:abcd:ef12::/64".parse().ok();
        header(version, peer, local.parse().ok().as_ref(), prefix)
    }

    fn text(peer: &Peer, local: &str) -> String {
        String::from_utf8(header_of(Version::V1, peer, local)).unwrap()
    }

    #[test]
    fn a_line_names_both_ends() {
        let guest = Peer::Vsock(vsock("vsock:3:1024"));
        assert_eq!(
            text(&guest, "vsock:2:445"),
            "PROXY TCP6 fd00:abcd:ef12::3 fd00:abcd:ef12::2 1024 445\r\n"
        );
        assert_eq!(
            text(&tcp("[::1]:5000"), "[::1]:445"),
            "PROXY TCP6 ::1 ::1 5000 445\r\n"
        );
        assert_eq!(
            text(&tcp("127.0.0.1:5000"), "127.0.0.2:445"),
            "PROXY TCP4 127.0.0.1 127.0.0.2 5000 445\r\n"
        );
    }

    #[test]
    fn a_peer_without_an_address_is_unknown() {
        let unix = Endpoint::Unix(UnixName::Unnamed);
        for peer in [Peer::Unix(Some(1000)), Peer::Unix(None), Peer::Stdio] {
            for local in [None, Some(&unix)] {
                let line = header(Version::V1, &peer, local, None);
                assert_eq!(line, b"PROXY UNKNOWN\r\n");
                let bytes = header(Version::V2, &peer, local, None);
                assert_eq!(bytes, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
                let decoded = v2::Header::try_from(&bytes[..]).unwrap();
                assert_eq!(decoded.command, v2::Command::Local);
            }
        }
    }

    #[test]
    fn an_independent_decoder_reads_what_the_header_tells() {
        for (peer, local, from, to) in [
            (
                Peer::Vsock(vsock("vsock:3:1024")),
                "vsock:2:445",
                "[fd00:abcd:ef12::3]:1024",
                "[fd00:abcd:ef12::2]:445",
            ),
            (
                Peer::Vsock(vsock("vsock:4294967294:65535")),
                "vsock:1:0",
                "[fd00:abcd:ef12::ffff:fffe]:65535",
                "[fd00:abcd:ef12::1]:0",
            ),
            (
                tcp("[2001:db8::1]:1"),
                "[fd00::2]:65535",
                "[2001:db8::1]:1",
                "[fd00::2]:65535",
            ),
            (
                tcp("10.1.2.3:40000"),
                "127.0.0.1:22",
                "10.1.2.3:40000",
                "127.0.0.1:22",
            ),
        ] {
            let expected = (from.parse().unwrap(), to.parse().unwrap());
            for version in [Version::V1, Version::V2, Version::V2Plain] {
                let bytes = header_of(version, &peer, local);
                assert_eq!(decode(&bytes), expected, "{version:?} of {peer}");
            }
        }
    }

    /// Reads a header of either version, which must be all of the bytes.
    fn decode(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
        match HeaderResult::parse(bytes) {
            HeaderResult::V1(Ok(header)) => {
                assert_eq!(header.header.len(), bytes.len());
                match header.addresses {
                    v1::Addresses::Tcp4(a) => (
                        (a.source_address, a.source_port).into(),
                        (a.destination_address, a.destination_port).into(),
                    ),
                    v1::Addresses::Tcp6(a) => (
                        (a.source_address, a.source_port).into(),
                        (a.destination_address, a.destination_port).into(),
                    ),
                    v1::Addresses::Unknown => panic!("unknown"),
                }
            }
            HeaderResult::V2(Ok(header)) => {
                assert_eq!(header.len(), bytes.len());
                assert_eq!(header.command, v2::Command::Proxy);
                assert_eq!(header.protocol, v2::Protocol::Stream);
                match header.addresses {
                    v2::Addresses::IPv4(a) => (
                        (a.source_address, a.source_port).into(),
                        (a.destination_address, a.destination_port).into(),
                    ),
                    v2::Addresses::IPv6(a) => (
                        (a.source_address, a.source_port).into(),
                        (a.destination_address, a.destination_port).into(),
                    ),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_tlv_has_cid_and_port_in_full() {
        let guest = Peer::Vsock(vsock("vsock:4294967294:4294967294"));
        let bytes = header_of(Version::V2, &guest, "vsock:2:445");
        let decoded = v2::Header::try_from(&bytes[..]).unwrap();
        let tlvs: Vec<_> = decoded.tlvs().map(|tlv| tlv.unwrap()).collect();
        let [tlv] = &tlvs[..] else { panic!("{tlvs:?}") };
        assert_eq!(
            (tlv.kind, &*tlv.value),
            (0xe5, &b"vsock:4294967294:4294967294"[..])
        );
        assert_eq!(decode(&bytes).0.port(), 0);
        assert!(text(&guest, "vsock:2:445").ends_with("::ffff:fffe fd00:abcd:ef12::2 0 445\r\n"));
    }

    /// As strict receivers read it, which want one of the two lengths and nothing behind.
    #[test]
    fn a_plain_header_is_as_long_as_its_addresses() {
        let guest = Peer::Vsock(vsock("vsock:3:4294967294"));
        for (peer, local, length) in [
            (&guest, "vsock:2:445", 36u16),
            (&tcp("[::1]:1"), "[::1]:2", 36),
            (&tcp("127.0.0.1:1"), "127.0.0.1:2", 12),
        ] {
            let bytes = header_of(Version::V2Plain, peer, local);
            assert_eq!(bytes[14..16], length.to_be_bytes());
            assert_eq!(bytes.len(), 16 + usize::from(length));
        }
    }

    #[test]
    fn a_tcp_peer_has_no_tlv() {
        let bytes = header_of(Version::V2, &tcp("[::1]:1"), "[::1]:2");
        let decoded = v2::Header::try_from(&bytes[..]).unwrap();
        assert_eq!(decoded.tlvs().count(), 0);
    }
}
