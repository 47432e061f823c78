//! SOCKS5 as the gateway speaks it (RFC 1928): no authentication, CONNECT alone, the three forms of address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::step::{Form, Request, Step};
use crate::asked;
use crate::endpoint::Endpoint;
use crate::error::Error;

/// The first byte of all that is said.
pub(super) const VERSION: u8 = 5;
/// The first byte of SOCKS4.
pub(super) const OLD_VERSION: u8 = 4;
/// The method without authentication, and none that is known.
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
/// CONNECT.
const CONNECT: u8 = 1;

/// What became of a request (RFC 1928, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Connected = 0,
    Failed = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    UnknownCommand = 7,
    UnknownAddress = 8,
}

/// Returns the reply; the address in it is that of nobody, as most have it.
pub(super) fn reply(code: Code) -> Vec<u8> {
    vec![VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// Returns the code for a target that could not be reached.
pub(super) fn code(error: &Error) -> Code {
    use nix::errno::Errno;
    match error {
        Error::Connect { source, .. } => match source {
            // On vsock that is a port on which nobody listens.
            Errno::ECONNREFUSED | Errno::ECONNRESET => Code::Refused,
            Errno::ENETUNREACH => Code::NetworkUnreachable,
            Errno::EHOSTUNREACH | Errno::ETIMEDOUT | Errno::ENODEV => Code::HostUnreachable,
            _ => Code::Failed,
        },
        Error::ConnectTimeout { .. } | Error::Resolve { .. } | Error::Lookup { .. } => {
            Code::HostUnreachable
        }
        _ => Code::Failed,
    }
}

/// Reads a greeting, and the request behind it.
pub(super) fn read(bytes: &[u8], has_greeted: bool) -> Step {
    let Some(&count) = bytes.get(1) else {
        return Step::Incomplete;
    };
    let length = 2 + usize::from(count);
    let Some(methods) = bytes.get(2..length) else {
        return Step::Incomplete;
    };
    if !methods.contains(&NO_AUTHENTICATION) {
        return Step::Wrong {
            reply: vec![VERSION, NO_METHOD],
            problem:
                "SOCKS5 without the method of no authentication: who a machine is, its CID tells"
                    .to_owned(),
        };
    }
    match has_greeted {
        false => Step::Greeting,
        true => request(&bytes[length..], length),
    }
}

/// Refuses SOCKS4, in its own words.
pub(super) fn old_version() -> Step {
    Step::Wrong {
        // Request rejected or failed.
        reply: vec![0, 91, 0, 0, 0, 0, 0, 0],
        problem: "SOCKS4 is not spoken here, but SOCKS5 and HTTP CONNECT".to_owned(),
    }
}

/// Reads a request; `before` is the length of the greeting.
fn request(bytes: &[u8], before: usize) -> Step {
    let wrong = |code: Code, problem: String| Step::Wrong {
        reply: reply(code),
        problem,
    };
    let Some(&[version, command, reserved, kind]) = bytes.first_chunk() else {
        return match bytes.first() {
            None | Some(&VERSION) => Step::Incomplete,
            Some(_) => wrong(Code::Failed, NO_REQUEST.to_owned()),
        };
    };
    if version != VERSION || reserved != 0 {
        return wrong(Code::Failed, NO_REQUEST.to_owned());
    }
    if command != CONNECT {
        let problem = format!("command {command} of SOCKS5; CONNECT alone is served, which is 1");
        return wrong(Code::UnknownCommand, problem);
    }
    match address(kind, &bytes[4..]) {
        Err(problem) => wrong(Code::UnknownAddress, problem),
        Ok(None) => Step::Incomplete,
        Ok(Some((Err(problem), _))) => wrong(Code::Failed, problem),
        Ok(Some((Ok(asked), length))) => Step::Asked(Request {
            form: Form::Socks,
            asked,
            length: before + 4 + length,
        }),
    }
}

const NO_REQUEST: &str = "a greeting of SOCKS5 and no request behind it";

/// What an address with its port comes to, and their bytes.
type Address = (Result<Endpoint, String>, usize);

/// Reads an address and the port behind it; none while they are not complete.
///
/// Errors: a kind of address that there is not.
fn address(kind: u8, bytes: &[u8]) -> Result<Option<Address>, String> {
    let (length, start) = match kind {
        1 => (4, 0),
        3 => match bytes.first() {
            Some(&length) => (length.into(), 1),
            None => return Ok(None),
        },
        4 => (16, 0),
        _ => {
            return Err(format!(
                "address type {kind} of SOCKS5; there are 1, 3 and 4"
            ));
        }
    };
    let end = start + length;
    let (Some(host), Some(&[high, low])) = (bytes.get(start..end), bytes.get(end..end + 2)) else {
        return Ok(None);
    };
    let port = u16::from_be_bytes([high, low]);
    let text = match kind {
        3 => match std::str::from_utf8(host) {
            // As reqwest and hyper have sent IPv6 addresses: in brackets, as in a URL.
            Ok(text) => asked::in_brackets(text).unwrap_or(text).to_owned(),
            Err(_) => {
                return Ok(Some((
                    Err("the name of the host is no text".to_owned()),
                    end + 2,
                )));
            }
        },
        _ => ip(host).to_string(),
    };
    let asked = asked::destination(&text, port).map_err(|error| error.to_string());
    Ok(Some((asked, end + 2)))
}

fn ip(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => Ipv4Addr::from(bytes).into(),
        Err(_) => {
            let mut all = [0; 16];
            all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            Ipv6Addr::from(all).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &[u8] = b"\x05\x01\x00";

    fn after_greeting(request: &[u8]) -> Step {
        read(&[GREETING, request].concat(), true)
    }

    fn named(name: &[u8], port: u16) -> Vec<u8> {
        let head = [5, 1, 0, 3, name.len() as u8];
        [&head, name, &port.to_be_bytes()].concat()
    }

    #[test]
    fn each_form_of_address_is_read_and_what_is_behind_it_left() {
        let ipv6 = [
            &b"\x05\x01\x00\x04"[..],
            &Ipv6Addr::LOCALHOST.octets(),
            &[0, 80],
        ]
        .concat();
        for (request, asked) in [
            (
                b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50".to_vec(),
                "192.0.2.1:80",
            ),
            (ipv6, "[::1]:80"),
            (named(b"example.net", 443), "example.net:443"),
            (named(b"db.vsock", 5432), "vsock:db:5432"),
            (named(b"127.0.0.1", 1), "127.0.0.1:1"),
            (named(b"::ffff:10.0.0.1", 1), "10.0.0.1:1"),
            (named(b"[::1]", 80), "[::1]:80"),
        ] {
            let with_more = [&request[..], b"more"].concat();
            let Step::Asked(found) = after_greeting(&with_more) else {
                panic!("{asked}")
            };
            assert_eq!(found.asked.to_string(), asked);
            assert_eq!(found.length, GREETING.len() + request.len());
            for end in 0..request.len() {
                assert_eq!(
                    after_greeting(&request[..end]),
                    Step::Incomplete,
                    "{asked} {end}"
                );
            }
        }
    }

    #[test]
    fn the_greeting_is_answered_first() {
        for (bytes, step) in [
            (&b"\x05"[..], Step::Incomplete),
            (b"\x05\x02\x02", Step::Incomplete),
            (b"\x05\x02\x02\x00", Step::Greeting),
            (b"\x05\x01\x00\x05\x01\x00\x01", Step::Greeting),
        ] {
            assert_eq!(read(bytes, false), step);
        }
        for bytes in [&b"\x05\x00"[..], b"\x05\x01\x02", b"\x05\x01\xff"] {
            let Step::Wrong { reply, .. } = read(bytes, false) else {
                panic!("{bytes:?}")
            };
            assert_eq!(reply, [5, 0xff]);
        }
    }

    #[test]
    fn what_is_wrong_has_its_code() {
        let long = [b'a'; 255];
        for (request, code, words) in [
            (&b"\x05\x02\x00\x01"[..], Code::UnknownCommand, "command 2"),
            (b"\x05\x03\x00\x01", Code::UnknownCommand, "command 3"),
            (b"\x05\x01\x00\x02", Code::UnknownAddress, "address type 2"),
            (b"\x05\x01\x01\x01", Code::Failed, "no request"),
            (b"GET ", Code::Failed, "no request"),
            (b"\x04", Code::Failed, "no request"),
            (&named(b"example.net", 0), Code::Failed, "1 to 65535"),
            (&named(b"", 80), Code::Failed, "nor the name"),
            (&named(&long, 80), Code::Failed, "nor the name"),
            (&named(b"a\0b.example", 80), Code::Failed, "nor the name"),
            (&named(b"[a.example]", 80), Code::Failed, "nor the name"),
            (&named(b"[::1", 80), Code::Failed, "nor the name"),
            (&named(b"\xff\xfe", 80), Code::Failed, "no text"),
            (
                &named("bücher.example".as_bytes(), 80),
                Code::Failed,
                "xn--",
            ),
            (&named(b"0x7f.1", 80), Code::Failed, "nor the name"),
            (&named(b"fe80::1%eth0", 80), Code::Failed, "zone ids"),
        ] {
            let Step::Wrong { reply, problem } = after_greeting(request) else {
                panic!("{request:?}")
            };
            assert_eq!(reply, super::reply(code), "{request:?}");
            assert!(problem.contains(words), "{problem}");
        }
        assert!(matches!(old_version(), Step::Wrong { reply, .. } if reply[1] == 91));
    }
}
