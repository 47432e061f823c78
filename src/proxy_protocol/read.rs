//! The header of a machine that the gateway brings, as [`of_machine`](super::of_machine) writes it: read before anything is
//! taken from the socket.

use super::{PROXY, SIGNATURE, TCP6, VSOCK_TLV};
use crate::endpoint::Endpoint;
use crate::vsock::{Cid, VsockAddr};

/// Signature, version, family and length.
const START_BYTES: usize = 16;
/// Two addresses and two ports of IPv6.
const ADDRESSES_BYTES: usize = 36;
/// What may be behind the start; what is longer tells more than anybody asks for.
const REST_MAX: usize = 1024;

/// What the bytes so far come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// More must come.
    Incomplete,
    /// All is there.
    Header(Header),
    /// This is no such header, for that reason.
    Wrong(String),
}

/// A whole header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The machine that comes.
    pub from: VsockAddr,
    /// The port that it wants.
    pub port: u16,
    /// Bytes of the header; those behind it are for the port.
    pub length: usize,
}

/// Reads what has come so far.
pub(crate) fn read(bytes: &[u8]) -> Read {
    let wrong = |problem: &str| Read::Wrong(problem.to_owned());
    let start = SIGNATURE.len().min(bytes.len());
    if bytes[..start] != SIGNATURE[..start] {
        return wrong("it has no PROXY header of version 2");
    }
    let Some(&[kind, family, high, low]) = bytes.get(SIGNATURE.len()..START_BYTES) else {
        return Read::Incomplete;
    };
    if (kind, family) != (PROXY, TCP6) {
        return wrong("its PROXY header has no addresses of TCP over IPv6");
    }
    let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
    if !(ADDRESSES_BYTES..=REST_MAX).contains(&rest_bytes) {
        return Read::Wrong(format!("its PROXY header has {rest_bytes} bytes"));
    }
    let length = START_BYTES + rest_bytes;
    let Some(rest) = bytes.get(START_BYTES..length) else {
        return Read::Incomplete;
    };
    let (addresses, tlvs) = rest.split_at(ADDRESSES_BYTES);
    let port = u16::from_be_bytes([addresses[34], addresses[35]]);
    match (machine(tlvs), port) {
        (None, _) => wrong("its PROXY header names no machine in a TLV of type 0xE5"),
        (_, 0) => wrong("its PROXY header names no port"),
        (Some(from), port) => Read::Header(Header { from, port, length }),
    }
}

/// Finds the machine in what is behind the addresses.
fn machine(mut tlvs: &[u8]) -> Option<VsockAddr> {
    loop {
        let (&[kind, high, low], rest) = tlvs.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        if kind == VSOCK_TLV {
            let Ok(Endpoint::Vsock(addr)) = std::str::from_utf8(value).ok()?.parse() else {
                return None;
            };
            // Loopback is this machine itself, whoever says so.
            return (addr.cid > Some(Cid::LOCAL)).then_some(addr);
        }
        tlvs = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::super::of_machine;
    use super::*;

    const BEHIND: &[u8] = b"SELECT 1";

    fn header(from: &str, port: u16) -> Vec<u8> {
        let Ok(Endpoint::Vsock(from)) = from.parse() else {
            panic!("{from}")
        };
        let prefix = "fd00:abcd:ef12::/64".parse().unwrap();
        of_machine(&from, (Ipv6Addr::LOCALHOST, port).into(), prefix)
    }

    #[test]
    fn a_header_that_comes_in_parts_is_the_same() {
        let header = header("vsock:3:4294967294", 5432);
        let bytes = [&header, BEHIND].concat();
        for count in 0..header.len() {
            assert_eq!(read(&bytes[..count]), Read::Incomplete, "{count}");
        }
        for count in header.len()..=bytes.len() {
            let Read::Header(found) = read(&bytes[..count]) else {
                panic!("{count}")
            };
            assert_eq!(found.from.to_string(), "vsock:3:4294967294");
            assert_eq!((found.port, found.length), (5432, header.len()));
        }
    }

    #[test]
    fn what_is_no_header_of_a_machine_is_told() {
        let good = header("vsock:3:1024", 5432);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        let plain = [&good[..14], &[0, 36], &good[16..52], BEHIND].concat();
        let late = [&good[..14], &[0, 37], &good[16..53]].concat();
        for (bytes, words) in [
            (b"SSH-2.0".to_vec(), "no PROXY header"),
            (b"PROXY TCP6 ::1 ::1 1 2\r\n".to_vec(), "no PROXY header"),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "no PROXY header"),
            (with(12, 0x20), "no addresses"),
            (with(12, 0x11), "no addresses"),
            (with(13, 0x11), "no addresses"),
            (with(14, 4), "bytes"),
            (with(15, 35), "35 bytes"),
            (plain, "no machine"),
            (late, "no machine"),
            (with(52, 0xe6), "no machine"),
            (with(54, 99), "no machine"),
            (with(55, 0xff), "no machine"),
            (header("vsock:1:1024", 5432), "no machine"),
            (header("vsock:3:1024", 0), "no port"),
        ] {
            match read(&bytes) {
                Read::Wrong(problem) => assert!(problem.contains(words), "{problem}"),
                other => panic!("{words}: {other:?}"),
            }
        }
    }
}
