//! Where a peer of the gateway asks to be taken: host and port as SOCKS and HTTP write them, read as an address.
//!
//! No name is looked up here, and nothing is left to a resolver's guess: what only looks like an address is refused.

use std::net::{IpAddr, SocketAddr};

use crate::endpoint::{Endpoint, is_host_name};
use crate::invalid::Invalid;
use crate::names::{Machine, SUFFIX};
use crate::vsock::decimal;

/// Bytes of a host that are shown where it is told what is wrong with it.
const SHOWN_BYTES: usize = 80;

/// Reads `HOST:PORT`, with an IPv6 address in brackets (authority-form, RFC 9112, section 3.2.3).
pub fn authority(text: &str) -> Result<Endpoint, Invalid> {
    let fail = |hint: &str| Err(Invalid::new("destination", shown(text), hint));
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => return fail("the port is missing; expected HOST:PORT"),
    };
    let Some(port) = decimal::<u16>(port) else {
        return fail("the port must be a number from 1 to 65535");
    };
    match in_brackets(host) {
        Some(inside) => destination(inside, port),
        None if host.starts_with('[') => {
            fail("only an IPv6 address stands in brackets, e.g. [2001:db8::1]:443")
        }
        None if host.contains(':') => {
            fail("write the IPv6 address in brackets, e.g. [2001:db8::1]:443")
        }
        None => destination(host, port),
    }
}

/// Returns the IPv6 address that stands in brackets, if that is what the host is.
pub fn in_brackets(host: &str) -> Option<&str> {
    let inside = host.strip_prefix('[')?.strip_suffix(']')?;
    inside.contains(':').then_some(inside)
}

/// Reads a host, without brackets: `3.vsock`, `db.vsock`, an IP address, or a name that a resolver knows.
pub fn destination(host: &str, port: u16) -> Result<Endpoint, Invalid> {
    let fail = |hint: &str| Err(Invalid::new("destination", shown(host), hint));
    if port == 0 {
        return fail("the port must be a number from 1 to 65535");
    }
    if host.contains('%') {
        return fail("zone ids are not supported");
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Endpoint::Tcp(SocketAddr::new(ip.to_canonical(), port)));
    }
    if !host.is_ascii() {
        return fail("a name outside ASCII is written in its xn-- form");
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name.ends_with(SUFFIX) {
        return machine(host, &name, port);
    }
    match is_name(&name) {
        true => Ok(Endpoint::TcpName { name, port }),
        false => fail("neither an IP address nor the name of a host"),
    }
}

/// Returns whether a text in lower case, with no dot at its end, is the name of a host and cannot be meant as an address.
pub(crate) fn is_name(text: &str) -> bool {
    // Resolvers take 127.1, 0x7f.1 and 2130706433 for addresses (inet_aton(3)), which no rule names.
    let last = text.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    is_host_name(text) && !text.ends_with('.') && !is_number
}

fn machine(host: &str, name: &str, port: u16) -> Result<Endpoint, Invalid> {
    match name.parse::<Machine>() {
        Ok(machine) => Ok(Endpoint::of_machine(machine, port.into())),
        Err(_) => {
            let hint = "expected CID.vsock, NAME.vsock or host.vsock";
            Err(Invalid::new("destination", shown(host), hint))
        }
    }
}

/// Cuts what was sent by somebody else to what fits into a line.
fn shown(text: &str) -> &str {
    let ends = (0..=text.len().min(SHOWN_BYTES)).rev();
    ends.filter_map(|end| text.get(..end))
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_destination_is_an_address() {
        for (text, printed) in [
            ("3.vsock:5432", "vsock:3:5432"),
            ("DB.vsock.:5432", "vsock:db:5432"),
            ("host.vsock:53", "vsock:2:53"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("Mirror.Example.NET.:443", "mirror.example.net:443"),
            ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
            ("a_b.example:65535", "a_b.example:65535"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(authority(text).unwrap().to_string(), printed, "{text}");
        }
        let bare = destination("2001:db8::1", 80).unwrap();
        assert_eq!(bare.to_string(), "[2001:db8::1]:80");
    }

    #[test]
    fn what_is_no_destination_is_told() {
        for (text, words) in [
            ("example.net", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("example.net:", "from 1 to 65535"),
            ("example.net:0", "from 1 to 65535"),
            ("example.net:70000", "from 1 to 65535"),
            ("example.net:+80", "from 1 to 65535"),
            ("example.net:080", "from 1 to 65535"),
            ("::1:80", "in brackets"),
            ("[example.net]:80", "only an IPv6 address"),
            ("[::1:80", "only an IPv6 address"),
            ("[fe80::1%eth0]:80", "zone ids"),
            ("user@example.net:80", "nor the name"),
            ("exa mple.net:80", "nor the name"),
            ("example..net:80", "nor the name"),
            ("example.net..:80", "nor the name"),
            (".:80", "nor the name"),
            (":80", "nor the name"),
            ("-a.example:80", "nor the name"),
            ("127.1:80", "nor the name"),
            ("0x7f.1:80", "nor the name"),
            ("a.0x7f:80", "nor the name"),
            ("127.0.0.1.:80", "nor the name"),
            ("2130706433:80", "nor the name"),
            ("0177.0.0.1:80", "nor the name"),
            ("bücher.example:80", "xn--"),
            ("a\0b.example:80", "nor the name"),
            ("a.b.vsock:80", "expected CID.vsock"),
            ("0.vsock:80", "expected CID.vsock"),
            (".vsock:80", "expected CID.vsock"),
        ] {
            let error = authority(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let long = format!("{}.example", "a".repeat(64));
        assert!(destination(&long, 80).is_err());
        let long = ["abcdefg"; 32].join(".");
        let error = destination(&long, 80).unwrap_err();
        assert!(error.text.len() <= SHOWN_BYTES, "{error}");
        let error = destination(&"é".repeat(200), 80).unwrap_err();
        assert!(error.text.len() <= SHOWN_BYTES, "{error}");
    }
}
