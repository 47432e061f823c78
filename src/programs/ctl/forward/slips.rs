//! What is typed where an address of `vsockctl forward` is expected, and looks like one of other programs or of the other end: each
//! is told a form that is right.

use std::str::FromStr;

use super::places::{Listen, Target, is_number, is_port, port_of_machine};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::names::Machine;
use crate::vsock::decimal;

/// Ports of URLs that name none.
const SCHEMES: [(&str, &str); 3] = [("http", "80"), ("https", "443"), ("ssh", "22")];
/// Words of the grammar and of vsock-connect, which are no machines.
const WORDS: [&str; 5] = ["vsock", "vsock-mux", "unix", "machine", "libvirt"];

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Listen, Error> {
        Listen::read(text).map_err(|error| match of_listen(text) {
            Some(hint) => Error::invalid("address to listen on", text, hint),
            None => error,
        })
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target, Error> {
        Target::read(text).map_err(|error| match of_target(text) {
            Some(hint) => Error::invalid("target", text, hint),
            None => error,
        })
    }
}

/// Returns the right form of what is no address to listen on.
pub(super) fn of_listen(text: &str) -> Option<String> {
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
    if text.starts_with('/') && text.contains(char::is_whitespace) {
        return Some("expected a path without spaces, such as /run/x.sock".to_owned());
    }
    if let Some(port) = loopback(text) {
        return Some(format!("write {port}, which is [::1] and 127.0.0.1"));
    }
    of_ssh(text)
        .or_else(|| of_docker(text))
        .or_else(|| target_first(text))
}

/// `localhost:8080`, `tcp:8080`, `8080/tcp`: a port of this machine.
fn loopback(text: &str) -> Option<&str> {
    let port = text
        .strip_prefix("localhost:")
        .or(text.strip_prefix("tcp:"))
        .or(text.strip_suffix("/tcp"));
    port.filter(|port| is_port(port))
}

/// `8080:web:80`, `127.0.0.1:8080:web:80`, as of `ssh -L`: both ends in one word.
fn of_ssh(text: &str) -> Option<String> {
    // No more than both ends have.
    text.match_indices(':').take(16).find_map(|(at, _)| {
        let (listen, target) = (&text[..at], &text[at + 1..]);
        let listen = loopback(listen).unwrap_or(listen);
        let is_both = Listen::read(listen).is_ok() && Target::read(target).is_ok();
        is_both.then(|| format!("write {listen} {target}, in two words"))
    })
}

/// `8080:80`, as of `docker run -p`.
fn of_docker(text: &str) -> Option<String> {
    let (port, other) = text.split_once(':')?;
    (is_port(port) && is_port(other)).then(|| {
        format!(
            "write {port} 3:{other}, in two words, to bring port {port} to port {other} of machine 3; a vsock port is \
             written vsock::{other}"
        )
    })
}

/// `web:80` or `web`.
fn target_first(text: &str) -> Option<String> {
    let target = match port_of_machine(text) {
        Some((_, port)) if is_port(port) => text.to_owned(),
        None if is_name(text) => format!("{text}:80"),
        _ => return None,
    };
    Some(format!(
        "where to listen is the first word, and where connections go the second; expected e.g. 8080 {target}"
    ))
}

fn is_name(text: &str) -> bool {
    text.parse::<Endpoint>().is_err() && text.parse::<Machine>().is_ok()
}

/// Returns the right form of what is no target.
fn of_target(text: &str) -> Option<String> {
    let bare = text.strip_prefix(':').unwrap_or(text);
    if is_number(bare) {
        let port = if is_port(bare) { bare } else { "80" };
        return Some(format!(
            "write 3:{port} for port {port} of machine 3, or [::1]:{port} for one of this machine"
        ));
    }
    if let Some(rest) = text.strip_prefix("unix:").filter(|rest| is_number(rest)) {
        return Some(format!(
            "a unix socket has a path, such as /run/x.sock; port {rest} of machine 3 is written 3:{rest}"
        ));
    }
    if text == "localhost" {
        return Some("write [::1]:80 for port 80 of this machine".to_owned());
    }
    if is_name(text) {
        return Some(format!("the port is missing; expected e.g. {text}:80"));
    }
    match port_of_machine(text) {
        Some((machine, port)) => of_port(machine, port),
        None => of_no_machine(text).or_else(|| rewritten(text)),
    }
}

fn of_port(machine: &str, port: &str) -> Option<String> {
    match (machine, is_port(port)) {
        ("localhost", _) => Some(format!(
            "localhost is this machine: write [::1]:{port} or 127.0.0.1:{port}, where the server listens"
        )),
        (_, true) => None,
        (_, false) => Some(format!(
            "the port must be a number from 1 to 65535; others of vsock are written vsock:{machine}:{port}"
        )),
    }
}

/// `0:80`, `any:80`.
fn of_no_machine(text: &str) -> Option<String> {
    let (machine, port) = text.split_once(':').filter(|(_, port)| is_port(port))?;
    let is_none = is_number(machine) || ["any", "mapped", "*"].contains(&machine);
    is_none.then(|| {
        format!("{machine} is no machine: name one by its CID, from 1 to 4294967294, or its name, e.g. 3:{port}")
    })
}

/// `http://web/`, `web/80`, `web:80/tcp`, `80:web`: all that is needed is there.
fn rewritten(text: &str) -> Option<String> {
    let of_url = || {
        let (scheme, rest) = text.split_once("://")?;
        let host = rest.split('/').next()?;
        let port = SCHEMES.iter().find(|(name, _)| *name == scheme)?.1;
        Some([host.to_owned(), format!("{host}:{port}")])
    };
    let of_slash = || {
        let (machine, port) = text.split_once('/')?;
        (!WORDS.contains(&machine)).then(|| format!("{machine}:{port}"))
    };
    let of_other_order = || {
        let (port, machine) = text.split_once(':')?;
        is_name(machine).then(|| format!("{machine}:{port}"))
    };
    let mut forms = Vec::from_iter(of_url().into_iter().flatten());
    forms.extend(text.strip_suffix("/tcp").map(str::to_owned));
    forms.extend(of_slash());
    forms.extend(of_other_order());
    let is_target = |form: &&String| Target::read(form).is_ok();
    let form = forms.iter().find(is_target)?;
    Some(format!("write {form}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands behind `write` or `e.g.` is taken.
    fn expect_taken(line: &str, has_listen: bool) {
        let Some((_, form)) = line.split_once("write ").or(line.split_once("e.g. ")) else {
            return;
        };
        let is_end = |letter: char| " ,;".contains(letter);
        let mut words = form.split(is_end).filter(|word| !word.is_empty());
        if has_listen {
            let listen = words.next().unwrap();
            assert!(listen.parse::<Listen>().is_ok(), "{line}");
        }
        if !has_listen || line.contains("two words") || line.contains("e.g.") {
            let target = words.next().unwrap();
            assert!(target.parse::<Target>().is_ok(), "{line}");
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
            ("8080:/run/x.sock", "write 8080 /run/x.sock, in two words"),
            (
                "127.0.0.1:8080:web:80",
                "write 127.0.0.1:8080 web:80, in two words",
            ),
            ("[::1]:8080:3:80", "write [::1]:8080 3:80, in two words"),
            ("localhost:8080:web:80", "write 8080 web:80, in two words"),
            ("localhost:8080", "write 8080, which is"),
            ("tcp:8080", "write 8080, which is"),
            ("8080/tcp", "write 8080, which is"),
            (
                "8080:80",
                "write 8080 3:80, in two words, to bring port 8080",
            ),
            ("3:8080", "a vsock port is written vsock::8080"),
            (
                "web:80",
                "is the first word, and where connections go the second; expected e.g. 8080 web:80",
            ),
            ("host:80", "expected e.g. 8080 host:80"),
            ("web", "expected e.g. 8080 web:80"),
            ("/run/a b.sock", "expected a path without spaces"),
        ] {
            let line = text.parse::<Listen>().unwrap_err().to_string();
            let end = format!("\"{text}\" is not a valid address to listen on: ");
            assert!(line.starts_with(&end) && line.contains(words), "{line}");
            expect_taken(&line, true);
        }
        for (text, words) in [
            ("80", "write 3:80 for port 80 of machine 3, or [::1]:80"),
            (":80", "write 3:80 for port 80 of machine 3, or [::1]:80"),
            ("70000", "write 3:80 for port 80 of machine 3"),
            ("localhost:80", "write [::1]:80 or 127.0.0.1:80"),
            ("localhost", "write [::1]:80"),
            ("web:99999", "others of vsock are written vsock:web:99999"),
            ("web:0", "the port must be a number from 1 to 65535"),
            ("3:70000", "the port must be a number from 1 to 65535"),
            ("web", "the port is missing; expected e.g. web:80"),
            ("host", "the port is missing; expected e.g. host:80"),
            (
                "0:80",
                "0 is no machine: name one by its CID, from 1 to 4294967294, or its name, e.g. 3:80",
            ),
            ("4294967295:80", "is no machine"),
            ("03:80", "03 is no machine"),
            ("any:80", "any is no machine"),
            (
                "unix:80",
                "a unix socket has a path, such as /run/x.sock; port 80 of machine 3 is written 3:80",
            ),
            ("http://web/", "write web:80"),
            ("https://web", "write web:443"),
            ("http://3:8000/x", "write 3:8000"),
            ("web/80", "write web:80"),
            ("web:80/tcp", "write web:80"),
            ("80:web", "write web:80"),
        ] {
            let line = text.parse::<Target>().unwrap_err().to_string();
            let begin = format!("\"{text}\" is not a valid target: ");
            assert!(line.starts_with(&begin) && line.contains(words), "{line}");
            expect_taken(&line, false);
        }
    }
}
