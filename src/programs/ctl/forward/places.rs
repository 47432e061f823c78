//! Both ends of what is forwarded, as they are typed: the addresses of a bridge, and the short forms of ssh(1).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

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

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Listen> {
        if let Some(port) = decimal::<u16>(text).filter(|&port| port != 0) {
            let loopback = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
            let both = loopback.map(|address| Endpoint::Tcp(SocketAddr::new(address, port)));
            return Ok(Listen(both.into()));
        }
        if let Some(hint) = slip_of_listen(text) {
            return Err(Error::invalid("address to listen on", text, hint));
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

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target> {
        if let Some(hint) = slip_of_target(text) {
            return Err(Error::invalid("target", text, hint));
        }
        if let Some((machine, port)) = port_of_machine(text) {
            return Ok(Target(Endpoint::of_machine(
                machine.parse()?,
                port.parse()?,
            )));
        }
        let endpoint = text.parse::<Endpoint>()?.into_target()?;
        match endpoint {
            Endpoint::VsockMapped(_) | Endpoint::TcpMapped(_) => {
                let hint = "name one target; `mapped` is for bridges";
                Err(Error::invalid("target", text, hint))
            }
            _ => Ok(Target(endpoint)),
        }
    }
}

/// Splits `web:80`; a name with a dot that is no machine's, such as `example.org:80`, is one of TCP.
fn port_of_machine(text: &str) -> Option<(&str, &str)> {
    let (machine, port) = text.split_once(':')?;
    let is_word = ["vsock", "vsock-mux", "unix"].contains(&machine) && !port.is_empty();
    let is_machine = is_number(port) && !is_word && machine.parse::<Machine>().is_ok();
    is_machine.then_some((machine, port))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_port(text: &str) -> bool {
    decimal::<u16>(text).is_some_and(|port| port != 0)
}

/// Returns the right form of what is no address, and looks like one that other programs take.
fn slip_of_listen(text: &str) -> Option<String> {
    if is_number(text) {
        let of_vsock = match decimal::<u32>(text) {
            Some(1..) => format!("; a vsock port is written vsock::{text}"),
            _ => String::new(),
        };
        return Some(format!("a TCP port is from 1 to 65535{of_vsock}"));
    }
    if text.contains([',', '-']) && text.split([',', '-']).all(is_number) {
        return Some("one port is forwarded; run it once for each".to_owned());
    }
    let (port, target) = text.split_once(':')?;
    // As of ssh -L.
    (is_port(port) && target.parse::<Target>().is_ok())
        .then(|| format!("write {port} {target}, in two words"))
}

fn slip_of_target(text: &str) -> Option<String> {
    if is_number(text) {
        return Some(format!(
            "write 3:{text} for port {text} of machine 3, or [::1]:{text} for one of this machine"
        ));
    }
    if let Some((machine, port)) = port_of_machine(text) {
        return match (machine, is_port(port)) {
            ("localhost", _) => Some(format!(
                "localhost is this machine: write [::1]:{port} or 127.0.0.1:{port}, where the server listens"
            )),
            (_, true) => None,
            (_, false) => Some(format!(
                "the port must be a number from 1 to 65535; others of vsock are written vsock:{machine}:{port}"
            )),
        };
    }
    let is_name = text.parse::<Endpoint>().is_err() && text.parse::<Machine>().is_ok();
    is_name.then(|| format!("the port is missing; expected e.g. {text}:80"))
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
    fn a_slip_is_told_what_is_right() {
        for (text, words) in [
            ("0", "a TCP port is from 1 to 65535"),
            (
                "70000",
                "a TCP port is from 1 to 65535; a vsock port is written vsock::70000",
            ),
            ("8080-8090", "run it once for each"),
            ("8080,8081", "run it once for each"),
            ("8080:web:80", "write 8080 web:80, in two words"),
            ("8080:[::1]:80", "write 8080 [::1]:80, in two words"),
        ] {
            let line = text.parse::<Listen>().unwrap_err().to_string();
            let end = format!("\"{text}\" is not a valid address to listen on: ");
            assert!(line.starts_with(&end) && line.ends_with(words), "{line}");
        }
        for (text, words) in [
            ("80", "write 3:80 for port 80 of machine 3, or [::1]:80"),
            ("localhost:80", "write [::1]:80 or 127.0.0.1:80"),
            ("web:99999", "others of vsock are written vsock:web:99999"),
            ("web:0", "the port must be a number from 1 to 65535"),
            ("3:70000", "the port must be a number from 1 to 65535"),
            ("web", "the port is missing; expected e.g. web:80"),
            ("host", "the port is missing; expected e.g. host:80"),
        ] {
            let line = text.parse::<Target>().unwrap_err().to_string();
            let begin = format!("\"{text}\" is not a valid target: ");
            assert!(line.starts_with(&begin) && line.contains(words), "{line}");
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
