//! Both ends of what is forwarded, as they are typed: the addresses of a bridge, and the short forms of ssh(1).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::listen_list::ListenList;
use crate::names::Machine;
use crate::vsock::decimal;

/// Where it listens.
///
/// Text form: a port such as `8080`, which is that of `::1` and `127.0.0.1`, or one address of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Vec<Endpoint>);

impl Listen {
    /// Reads a text that is right.
    pub(super) fn read(text: &str) -> Result<Listen> {
        if let Some(port) = decimal::<u16>(text).filter(|&port| port != 0) {
            let loopback = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
            let both = loopback.map(|address| Endpoint::Tcp(SocketAddr::new(address, port)));
            return Ok(Listen(both.into()));
        }
        match text.parse::<ListenList>()?.addresses() {
            [one] => Ok(Listen(vec![one.clone()])),
            _ => {
                let hint = "one address is forwarded; run it once for each";
                Err(Error::invalid("address to listen on", text, hint))
            }
        }
    }
}

/// Where connections go.
///
/// Text form: a port of a machine such as `web:80`, `3:80` or `host:80`, or a target of `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target(pub(super) Endpoint);

impl Target {
    /// Reads a text that is right.
    pub(super) fn read(text: &str) -> Result<Target> {
        let fail = |hint| Err(Error::invalid("target", text, hint));
        if let Some((machine, port)) = port_of_machine(text) {
            return match machine != "localhost" && is_port(port) {
                true => Ok(Target(Endpoint::of_machine(
                    machine.parse()?,
                    port.parse()?,
                ))),
                false => fail("expected a port of a machine, e.g. web:80"),
            };
        }
        match text.parse::<Endpoint>()?.into_target()? {
            Endpoint::VsockMapped(_) | Endpoint::TcpMapped(_) => {
                fail("name one target; `mapped` is for bridges")
            }
            // A resolver is not asked for words of the grammar.
            Endpoint::TcpName { name, .. } if ["any", "mapped"].contains(&&*name) => {
                fail("name one machine, e.g. web:80")
            }
            endpoint => Ok(Target(endpoint)),
        }
    }
}

/// Splits `web:80`; a name with a dot that is no machine's, such as `example.org:80`, is one of TCP.
pub(super) fn port_of_machine(text: &str) -> Option<(&str, &str)> {
    let (machine, port) = text.split_once(':')?;
    let is_word = ["vsock", "vsock-mux", "unix"].contains(&machine) && !port.is_empty();
    let is_machine = is_number(port) && !is_word && machine.parse::<Machine>().is_ok();
    is_machine.then_some((machine, port))
}

pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn is_port(text: &str) -> bool {
    decimal::<u16>(text).is_some_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_of_this_machine() {
        let read = |text: &str| {
            let Listen(addresses) = text.parse().unwrap();
            let texts: Vec<String> = addresses.iter().map(Endpoint::to_string).collect();
            texts.join(" ")
        };
        for (text, addresses) in [
            ("8080", "[::1]:8080 127.0.0.1:8080"),
            ("vsock::8080", "vsock::8080"),
            ("[::]:8080", "[::]:8080"),
            ("/run/x.sock", "/run/x.sock"),
        ] {
            assert_eq!(read(text), addresses, "{text}");
        }
        for text in [
            "0",
            "65536",
            "",
            "web:80",
            "vsock:8080",
            "a b",
            "vsock::1 vsock::2",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_port_of_a_machine_is_one_over_vsock() {
        for (text, target) in [
            ("3:80", "vsock:3:80"),
            ("host:80", "vsock:2:80"),
            ("web:80", "vsock:web:80"),
            ("web.vsock:80", "vsock:web:80"),
            ("vsock:3:80", "vsock:3:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("example.org:80", "example.org:80"),
            ("/run/x.sock", "/run/x.sock"),
            ("vsock-mux:/run/vm.vsock:80", "vsock-mux:/run/vm.vsock:80"),
        ] {
            let Target(read) = text.parse().unwrap();
            assert_eq!(read.to_string(), target, "{text}");
        }
        for text in [
            "80",
            "",
            "web:",
            "web:x",
            "vsock:80",
            "vsock::80",
            "vsock:mapped",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
