//! Every address form, read and printed by one grammar; the two are inverse.
//!
//! No I/O and no name resolution: a name stays a name here, whether of a host or of a machine.

mod other_forms;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::invalid::Invalid;
use crate::names::Machine;
use crate::vsock::{VsockAddr, VsockPort, decimal};

pub use crate::unix_name::{ADDRESS_BYTES_MAX, UnixName};

const LINK_LOCAL: &str = "link-local addresses, which mean nothing without an interface such as %eth0, are not supported: \
     give another address of the machine, such as [::1]:445";
const MANY_MACHINES: &str = "connections go to one machine, not to a multicast or broadcast address; expected e.g. [::1]:445";

/// An address of any family that a bridge can listen on or connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `[::1]:445`, `127.0.0.1:445`
    Tcp(SocketAddr),
    /// `name:445`
    TcpName {
        /// The name, not resolved.
        name: String,
        /// The port.
        port: u16,
    },
    /// `[::1]:mapped`, `127.0.0.1:mapped`: the port that the listener names, such as 445 for `/run/vm.vsock_445`
    TcpMapped(IpAddr),
    /// `vsock:2:445`; `vsock::445` on a listener
    Vsock(VsockAddr),
    /// `vsock:web:445`
    VsockName {
        /// The name of a machine, in lower case and not looked up.
        name: String,
        /// The port.
        port: VsockPort,
    },
    /// `vsock:mapped`, `vsock:mapped:445`: CID, and port if none is given, of the address that the peer connected to
    VsockMapped(Option<VsockPort>),
    /// `/run/x.sock`, `@name`, each also with `unix:` before it
    Unix(UnixName),
    /// `gateway`: each peer says where it wants to go
    Gateway,
    /// `inbound`: the gateway of the host says which machine it brings, and to which port of this one
    Inbound,
    /// `vsock-mux:/run/vm.vsock:445`: hybrid vsock of Firecracker, Cloud Hypervisor and vhost-device-vsock
    Mux {
        /// The VMM's socket.
        path: UnixName,
        /// The port inside the VM.
        port: VsockPort,
    },
}

impl Endpoint {
    /// Returns the vsock port of a machine.
    pub fn of_machine(machine: Machine, port: VsockPort) -> Endpoint {
        match machine {
            Machine::Cid(cid) => Endpoint::Vsock(VsockAddr {
                cid: Some(cid),
                port,
            }),
            Machine::Name(name) => Endpoint::VsockName { name, port },
        }
    }

    /// Checks that one can connect to it; `vsock::445` is a place to listen only.
    pub fn into_target(self) -> Result<Endpoint, Invalid> {
        match self {
            Endpoint::Vsock(VsockAddr { cid: None, port }) => Err(Invalid::new(
                "target",
                &self.to_string(),
                format!("a target needs a CID: vsock:CID:{port}, e.g. vsock:host:{port}"),
            )),
            _ => Ok(self),
        }
    }

    /// Gives a mapped TCP address the ports that the listeners name. Returns each with the one of the listener that it is
    /// for, or none where it is for all of them; every other address is.
    pub fn at_ports_of(
        self,
        listeners: &[Endpoint],
    ) -> Result<Vec<(Option<u16>, Endpoint)>, Invalid> {
        let Endpoint::TcpMapped(ip) = self else {
            return Ok(vec![(None, self)]);
        };
        let fail = |hint: String| Invalid::new("target", &self.to_string(), hint);
        let named = |listener: &Endpoint| {
            listener.named_port().ok_or_else(|| {
                fail(format!(
                    "{listener} names no port; expected a path that ends in _PORT, such as /run/vm.vsock_445"
                ))
            })
        };
        let ports: BTreeSet<u16> = listeners.iter().map(named).collect::<Result<_, _>>()?;
        let at = |port: u16| Endpoint::Tcp(SocketAddr::new(ip, port));
        match Vec::from_iter(ports)[..] {
            [] => Err(fail("there is no listener that names a port".to_owned())),
            [port] => Ok(vec![(None, at(port))]),
            ref ports => Ok(ports.iter().map(|&port| (Some(port), at(port))).collect()),
        }
    }

    /// Returns the TCP port that stands in the address: its port, or what is behind the last `_` of a path.
    pub fn named_port(&self) -> Option<u16> {
        let port = match self {
            Endpoint::Tcp(addr) => Some(addr.port()),
            Endpoint::Vsock(addr) => u16::try_from(addr.port.number()).ok(),
            Endpoint::Unix(UnixName::Path(path)) => decimal(path.to_str()?.rsplit_once('_')?.1),
            _ => None,
        };
        port.filter(|&port| port != 0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(addr) => addr.fmt(f),
            Endpoint::TcpName { name, port } => write!(f, "{name}:{port}"),
            Endpoint::TcpMapped(IpAddr::V4(ip)) => write!(f, "{ip}:mapped"),
            Endpoint::TcpMapped(IpAddr::V6(ip)) => write!(f, "[{ip}]:mapped"),
            Endpoint::Vsock(addr) => addr.fmt(f),
            Endpoint::VsockName { name, port } => write!(f, "vsock:{name}:{port}"),
            Endpoint::VsockMapped(None) => write!(f, "vsock:mapped"),
            Endpoint::VsockMapped(Some(port)) => write!(f, "vsock:mapped:{port}"),
            Endpoint::Gateway => write!(f, "gateway"),
            Endpoint::Inbound => write!(f, "inbound"),
            Endpoint::Unix(name) => name.fmt(f),
            Endpoint::Mux { path, port } => write!(f, "vsock-mux:{path}:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Endpoint, Invalid> {
        let printed = |text: &str| read(text).ok().map(|endpoint| endpoint.to_string());
        read(text).map_err(|error| match other_forms::hint(text, &printed) {
            Some(hint) => Invalid::new("address", text, hint),
            None => error,
        })
    }
}

fn read(text: &str) -> Result<Endpoint, Invalid> {
    if text.starts_with(['/', '@']) {
        return UnixName::parse(text).map(Endpoint::Unix);
    }
    match text.split_once(':') {
        None if text == "gateway" => Ok(Endpoint::Gateway),
        None if text == "inbound" => Ok(Endpoint::Inbound),
        Some(("vsock", rest)) => vsock(text, rest),
        Some(("vsock-mux", rest)) => mux(text, rest),
        Some(("unix", rest)) => unix(rest),
        _ => tcp(text),
    }
}

/// Reads what is behind `unix:`; as a URL has it, `//` may come first.
fn unix(rest: &str) -> Result<Endpoint, Invalid> {
    let path = rest.strip_prefix("//").filter(|path| path.starts_with('/'));
    UnixName::parse(path.unwrap_or(rest)).map(Endpoint::Unix)
}

fn vsock(text: &str, rest: &str) -> Result<Endpoint, Invalid> {
    let fail = |hint: String| Err(Invalid::new("address", text, hint));
    match rest.split_once(':') {
        None if rest == "mapped" => Ok(Endpoint::VsockMapped(None)),
        None if decimal::<u32>(rest).is_some() => fail(format!(
            "CID or port is missing: vsock:CID:PORT, e.g. vsock:host:{rest}"
        )),
        None => fail("expected vsock:CID:PORT, e.g. vsock:2:445".to_owned()),
        Some(("mapped", port)) => Ok(Endpoint::VsockMapped(Some(port.parse()?))),
        Some(("", port)) => Ok(Endpoint::Vsock(VsockAddr {
            cid: None,
            port: port.parse()?,
        })),
        Some((machine, port)) => {
            let (machine, port) = (machine.parse()?, port.parse()?);
            Ok(Endpoint::of_machine(machine, port))
        }
    }
}

fn mux(text: &str, rest: &str) -> Result<Endpoint, Invalid> {
    let Some((path, port)) = rest.rsplit_once(':') else {
        let hint = "expected vsock-mux:PATH:PORT, e.g. vsock-mux:/run/vm.vsock:22";
        return Err(Invalid::new("address", text, hint));
    };
    Ok(Endpoint::Mux {
        path: UnixName::parse(path)?,
        port: port.parse()?,
    })
}

fn tcp(text: &str) -> Result<Endpoint, Invalid> {
    let fail = |hint: &str| Err(Invalid::new("address", text, hint));
    if decimal::<u64>(text).is_some() {
        return fail(
            "a bare number is neither CID nor port here; expected e.g. vsock:2:445 or [::1]:445",
        );
    }
    if text.parse::<Ipv6Addr>().is_ok()
        || text.bytes().filter(|&b| b == b':').count() > 1 && !text.starts_with('[')
    {
        return fail("write the IPv6 address in brackets and the port behind: [::1]:445");
    }
    if text.contains('%') {
        return fail(LINK_LOCAL);
    }
    let Some((host, port)) = text
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
    else {
        return fail("the port is missing; expected e.g. [::1]:445, 127.0.0.1:445 or name:445");
    };
    let address = format!("{host}:0").parse::<SocketAddr>();
    let ip = address.ok().map(|address| address.ip());
    if let Some(hint) = ip.and_then(of_no_machine) {
        return fail(hint);
    }
    if let ("mapped", Some(ip)) = (port, ip) {
        return Ok(Endpoint::TcpMapped(ip));
    }
    let Some(port) = decimal::<u16>(port).filter(|&port| port != 0) else {
        return fail("the port must be a number from 1 to 65535");
    };
    if let Some(ip) = ip {
        return Ok(Endpoint::Tcp(SocketAddr::new(ip, port)));
    }
    if !is_host_name(host) {
        return fail(
            "neither an IP address nor a host name; expected e.g. [::1]:445, 127.0.0.1:445 or name:445",
        );
    }
    Ok(Endpoint::TcpName {
        name: host.to_owned(),
        port,
    })
}

/// Says what is wrong with an address that is not one machine's, as the kernel would only say `Invalid argument`.
fn of_no_machine(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(LINK_LOCAL),
        IpAddr::V4(ip) if ip.is_broadcast() => Some(MANY_MACHINES),
        ip if ip.is_multicast() => Some(MANY_MACHINES),
        _ => None,
    }
}

/// Letters, digits, `-`, `_` and `.` (RFC 1123 and what is met in practice), with at least one letter.
pub(crate) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && text
            .strip_suffix('.')
            .unwrap_or(text)
            .split('.')
            .all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_endpoint_are_inverse() {
        for text in [
            "[::1]:445",
            "127.0.0.1:445",
            "name:445",
            "host-1.example.:22",
            "[::1]:mapped",
            "127.0.0.1:mapped",
            "vsock:2:445",
            "vsock::445",
            "vsock:4294967294:0",
            "vsock:web:445",
            "vsock:mapped",
            "vsock:mapped:445",
            "gateway",
            "/run/x.sock",
            "@name",
            "@with:colon",
            "vsock-mux:/run/vm.vsock:445",
            "vsock-mux:/run/a:b:445",
            "vsock-mux:@vm:22",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn each_place_has_one_form_that_is_printed() {
        for (text, printed) in [
            ("unix:/run/x.sock", "/run/x.sock"),
            ("unix:///run/x.sock", "/run/x.sock"),
            ("unix:@name", "@name"),
            ("vsock:host:445", "vsock:2:445"),
            ("vsock:local:22", "vsock:1:22"),
            ("vsock:3.vsock:22", "vsock:3:22"),
            ("vsock:Web.vsock:22", "vsock:web:22"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for text in [
            "",
            "445",
            ":445",
            "::1",
            "::1:445",
            "[::1]",
            "[::1]:",
            "[::1]:0",
            "[::1]:65536",
            "[::1]:445x",
            "[::1]:+445",
            "[fe80::1%eth0]:445",
            "fe80::1%eth0",
            "[fe80::1]:445",
            "[febf::1]:mapped",
            "[ff02::1]:445",
            "224.0.0.1:445",
            "255.255.255.255:mapped",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0:445",
            "1.2.3.4.5:1",
            "name",
            "name:",
            "name:http",
            "name:mapped",
            "::1:mapped",
            "[::1]:Mapped",
            "127.0.0:mapped",
            ":mapped",
            "-name:445",
            "na me:445",
            "name:445 ",
            " name:445",
            "a..b:445",
            "1234:445",
            "vsock",
            "vsock:",
            "vsock:4711",
            "vsock:2",
            "vsock:2:",
            "vsock:2:445:1",
            "vsock:2:x",
            "vsock:x y:445",
            "vsock:3.example:445",
            "vsock:any:445",
            "vsock:3-7:445",
            "vsock:0:445",
            "vsock:4294967295:445",
            "vsock:2:4294967295",
            "vsock:-1:445",
            "vsock:02:445",
            "vsock:mapped:",
            "vsock:mapped:x",
            "vsock://2:445",
            "vsock-mux:",
            "vsock-mux:/run/x",
            "vsock-mux:/run/x:",
            "vsock-mux:run/x:22",
            "vsock-mux:/run/x:-1",
            "/",
            "@",
            "run/x.sock",
            "./x",
            "~/x.sock",
            "unix:",
            "unix:x",
            "unix:@",
            "unix:445",
            "UNIX:/x",
            "unix:/a\0b",
            "/a\0b",
        ] {
            assert!(
                text.parse::<Endpoint>().is_err(),
                "{text:?} gave {:?}",
                text.parse::<Endpoint>()
            );
        }
    }

    #[test]
    fn unix_names_fit_the_kernel() {
        let path = |len: usize| "/x".repeat(2048)[..len].to_owned();
        for length in [107, 108, 4095] {
            assert!(path(length).parse::<Endpoint>().is_ok(), "{length}");
        }
        assert!(path(4096).parse::<Endpoint>().is_err());
        let name = |len: usize| format!("/run/{}/x", "x".repeat(len));
        assert!(name(255).parse::<Endpoint>().is_ok());
        assert!(name(256).parse::<Endpoint>().is_err());
        assert!(format!("@{}", "x".repeat(107)).parse::<Endpoint>().is_ok());
        assert!(format!("@{}", "x".repeat(108)).parse::<Endpoint>().is_err());
    }

    #[test]
    fn a_mapped_port_is_that_of_the_listeners() {
        let ports_of = |listeners: &[&str]| {
            let listeners: Vec<Endpoint> = listeners.iter().map(|l| l.parse().unwrap()).collect();
            let target = "[::1]:mapped".parse::<Endpoint>().unwrap();
            let at = |(port, target): (Option<u16>, Endpoint)| (port, target.to_string());
            let ports = target.at_ports_of(&listeners)?;
            Ok::<_, Invalid>(ports.into_iter().map(at).collect::<Vec<_>>())
        };
        for listeners in [
            &["/run/vm.vsock_445"][..],
            &["/run/a_b_445", "/run/vm_445/x_445"],
            &["[fd00::2]:445", "vsock::445", "vsock:2:445"],
        ] {
            let one = vec![(None, "[::1]:445".to_owned())];
            assert_eq!(ports_of(listeners).unwrap(), one, "{listeners:?}");
        }
        let several = [22, 445].map(|port| (Some(port), format!("[::1]:{port}")));
        let listeners = ["vsock::445", "/run/vm.vsock_22", "[fd00::2]:445"];
        assert_eq!(ports_of(&listeners).unwrap(), several);
        for listeners in [
            &[][..],
            &["/run/vm.vsock"],
            &["/run/vm.vsock_"],
            &["/run/vm.vsock_0"],
            &["/run/vm.vsock_0445"],
            &["/run/vm.vsock_445x"],
            &["/run/vm.vsock_65536"],
            &["/run/vm_445/socket"],
            &["@vm_445"],
            &["vsock::65536"],
            &["/run/vm.vsock_445", "/run/vm.vsock"],
        ] {
            assert!(ports_of(listeners).is_err(), "{listeners:?}");
        }
        let other: Endpoint = "[::1]:22".parse().unwrap();
        assert_eq!(other.clone().at_ports_of(&[]).unwrap(), [(None, other)]);
    }

    #[test]
    fn any_cid_is_no_target() {
        assert!(
            "vsock::445"
                .parse::<Endpoint>()
                .unwrap()
                .into_target()
                .is_err()
        );
        assert!(
            "vsock:2:445"
                .parse::<Endpoint>()
                .unwrap()
                .into_target()
                .is_ok()
        );
    }
}
