//! Who listens on this machine, read from /proc/net: nobody is connected to for it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::endpoint::UnixName;

/// TCP_LISTEN (include/net/tcp_states.h), as /proc/net/tcp writes it.
const TCP_LISTEN: &str = "0A";
/// __SO_ACCEPTCON (include/linux/net.h), in /proc/net/unix.
const ACCEPTS: u32 = 0x10000;

/// One listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpListener {
    /// Where.
    pub address: SocketAddr,
    /// Its inode, to find out whose it is.
    pub inode: u64,
}

/// All listening sockets.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners {
    /// TCP over IPv6 and IPv4.
    pub tcp: Vec<TcpListener>,
    /// Unix sockets: `/path` or `@name`.
    pub unix: Vec<String>,
}

/// Reads the tables; one that is missing is empty.
pub(super) fn gather() -> Listeners {
    let read =
        |name: &str| fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
    let mut tcp = parse_tcp(&read("tcp6"));
    tcp.extend(parse_tcp(&read("tcp")));
    Listeners {
        tcp,
        unix: parse_unix(&read("unix")),
    }
}

impl Listeners {
    /// Returns whether a connection to the address would be accepted by somebody.
    pub(super) fn serve(&self, address: SocketAddr) -> bool {
        self.on_port(address.port())
            .any(|listener| covers(listener.address.ip(), address.ip()))
    }

    /// Returns whether the unix socket accepts connections.
    pub(super) fn serve_unix(&self, name: &UnixName) -> bool {
        self.unix.iter().any(|bound| *bound == name.to_string())
    }

    /// Returns the listeners on a port.
    pub(super) fn on_port(&self, port: u16) -> impl Iterator<Item = &TcpListener> {
        self.tcp
            .iter()
            .filter(move |listener| listener.address.port() == port)
    }
}

/// Returns whether a listener on one address is also one on the other. `[::]` may be for IPv6 alone, which is not known
/// from outside.
fn covers(bound: IpAddr, wanted: IpAddr) -> bool {
    match (bound.to_canonical(), wanted.to_canonical()) {
        (IpAddr::V6(bound), _) if bound.is_unspecified() => true,
        (IpAddr::V4(bound), IpAddr::V4(_)) if bound.is_unspecified() => true,
        (bound, wanted) => bound == wanted,
    }
}

/// Names the program that has a socket: `smbd (process 123)`; only root sees those of others.
pub(super) fn owner(inode: u64) -> Option<String> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .find(|entry| has_descriptor(&entry.path(), &link))
        .map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let number = entry.file_name();
            format!("{} (process {})", name.trim_end(), number.to_string_lossy())
        })
}

fn has_descriptor(process: &Path, link: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|to| to.as_os_str() == link))
}

/// Reads /proc/net/tcp or tcp6 (proc(5)), whose lines begin `N: ADDRESS:PORT REMOTE STATE`, all in hexadecimal.
pub(super) fn parse_tcp(table: &str) -> Vec<TcpListener> {
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        (*fields.get(3)? == TCP_LISTEN).then_some(TcpListener {
            address: SocketAddr::new(ip(address)?, port),
            inode,
        })
    };
    table.lines().filter_map(listener).collect()
}

/// The bytes of an address, printed as native numbers of 32 bits.
fn ip(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for start in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match <[u8; 16]>::try_from(&bytes[..]) {
        Ok(octets) => Some(IpAddr::from(octets)),
        Err(_) => <[u8; 4]>::try_from(&bytes[..]).ok().map(IpAddr::from),
    }
}

/// Reads /proc/net/unix, whose lines are `Num RefCount Protocol Flags Type St Inode Path`.
pub(super) fn parse_unix(table: &str) -> Vec<String> {
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        (flags & ACCEPTS != 0).then(|| fields.get(7..).map(|name| name.join(" ")))?
    };
    table.lines().filter_map(listener).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a little-endian machine prints them.
    const TCP6: &str = "  sl  local_address remote_address st\n   \
        0: 6F622DFD000095240000000002000000:01BD 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1 0 100\n   \
        1: 00000000000000000000000000000000:01BD 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 78 1 0 100\n   \
        2: 00000000000000000000000001000000:01BD 00000000000000000000000001000000:1234 01 0:0 00:0 0 0 0 79 1 0 100\n";
    const TCP: &str = "  sl  local_address rem_address   st\n   \
        0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 80 1 0 100\n";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listening_sockets_are_read_and_others_left_out() {
        let found: Vec<_> = parse_tcp(TCP6).iter().map(|l| l.address).collect();
        assert_eq!(
            found,
            [address("[fd2d:626f:2495::2]:445"), address("[::]:445")]
        );
        let [only] = parse_tcp(TCP)[..] else {
            panic!("one")
        };
        assert_eq!((only.address, only.inode), (address("127.0.0.1:8080"), 80));
    }

    #[test]
    fn unix_sockets_that_accept_are_read() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01 1 /run/a b\n\
            0000: 00000002 00000000 00010000 0001 01 2 @name\n\
            0000: 00000003 00000000 00000000 0001 03 3 /run/connected\n\
            0000: 00000002 00000000 00010000 0001 01 4\n";
        let found = parse_unix(table);
        assert!(found.contains(&"/run/a b".to_owned()) && found.contains(&"@name".to_owned()));
        assert!(!found.contains(&"/run/connected".to_owned()));
    }

    #[test]
    fn a_wildcard_serves_every_address_of_its_family() {
        let on = |text| Listeners {
            tcp: vec![TcpListener {
                address: address(text),
                inode: 0,
            }],
            unix: Vec::new(),
        };
        for (bound, wanted, serves) in [
            ("[::]:445", "[::1]:445", true),
            ("[::]:445", "127.0.0.1:445", true),
            ("[::1]:445", "[::1]:445", true),
            ("0.0.0.0:445", "127.0.0.1:445", true),
            ("[::ffff:127.0.0.1]:445", "127.0.0.1:445", true),
            ("0.0.0.0:445", "[::1]:445", false),
            ("127.0.0.1:445", "[::1]:445", false),
            ("[fd00::2]:445", "[::1]:445", false),
            ("[::]:446", "[::1]:445", false),
        ] {
            assert_eq!(
                on(bound).serve(address(wanted)),
                serves,
                "{bound} for {wanted}"
            );
        }
    }
}
