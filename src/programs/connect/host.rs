//! HOST and PORT of vsock-connect: every form of a machine, and whole addresses.

use std::time::Duration;

use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::managers::Manager;
use crate::names::{Machine, SUFFIX};
use crate::prefix::Prefix;
use crate::programs::options::machine_of_address;
use crate::vsock::{VsockPort, decimal};

/// The port of ssh, for which vsock-connect is mostly called.
const DEFAULT_PORT: u16 = 22;

/// Reads HOST and PORT; the manager of a machine is asked for its CID, for no longer than `limit`.
pub(super) fn target(
    host: &str,
    port: Option<&str>,
    prefix: Option<Prefix>,
    limit: Duration,
) -> Result<Endpoint> {
    if let Some(hint) = form_of_others(host) {
        return Err(Error::invalid("host", host, hint));
    }
    for separator in ['/', '%'] {
        let Some((word, name)) = host.split_once(separator) else {
            continue;
        };
        if let Some(manager) = Manager::of(word) {
            let port = parse_port(port)?;
            let cid = manager.cid(name, limit)?;
            return Ok(Endpoint::of_machine(Machine::Cid(cid), port));
        }
    }
    address(host, port, prefix)
}

/// Returns what to write in place of a host as ssh, nc, libvirt-ssh-proxy and systemd-ssh-proxy(1) have it.
fn form_of_others(host: &str) -> Option<String> {
    if matches!(host, ".host" | "machine/.host" | "machine%.host") {
        return Some(
            "write unix/run/ssh-unix-local/socket for the sshd of this machine".to_owned(),
        );
    }
    if let Some((word, name)) = host.split_once(['/', '%']) {
        if ["qemu", "qemu:system", "qemu:session"].contains(&word) {
            return Some(format!("write libvirt/{name}"));
        }
        let with_port = name.split_once(':').filter(|_| word == "vsock");
        if let Some((name, port)) = with_port.filter(|(_, port)| port.parse::<VsockPort>().is_ok())
        {
            return Some(format!(
                "write `vsock-connect vsock/{name} {port}`; for ssh, `ssh -p {port} vsock/{name}`"
            ));
        }
    }
    let is_word = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !text.is_empty() && text.chars().all(is_part)
    };
    if let Some((user, rest)) = host.split_once('@').filter(|(user, _)| is_word(user)) {
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) if port.parse::<VsockPort>().is_ok() => (name, Some(port)),
            _ => (rest, None),
        };
        let form = match (port, name.parse::<Machine>()) {
            (Some(port), Ok(_)) => format!("`vsock-connect {name} {port}`"),
            _ => rest.to_owned(),
        };
        let known = match name.parse::<Machine>() {
            Ok(_) if !name.ends_with(SUFFIX) => format!("vsock/{name}"),
            Err(_) if !name.contains(['/', '%']) => {
                return Some(format!("write {form}; the user is for ssh"));
            }
            _ => name.to_owned(),
        };
        let port = port.map_or(String::new(), |port| format!("-p {port} "));
        return Some(format!(
            "write {form}; the user is for ssh, as in `ssh {port}{user}@{known}`"
        ));
    }
    let (machine, port) = host.split_once(':')?;
    let is_address = decimal::<u32>(machine).is_some() && port.parse::<VsockPort>().is_ok();
    is_address.then(|| format!("write `vsock-connect {machine} {port}`, or vsock:{host}"))
}

/// Reads a host of any other form with its port, or an address that brings its own.
pub(crate) fn address(host: &str, port: Option<&str>, prefix: Option<Prefix>) -> Result<Endpoint> {
    for separator in ['/', '%'] {
        match host.split_once(separator) {
            Some(("vsock", cid)) => return machine(cid, port),
            Some(("unix", path)) => return Ok(Endpoint::Unix(UnixName::parse(&absolute(path))?)),
            Some(("vsock-mux", path)) => {
                return Ok(Endpoint::Mux {
                    path: UnixName::parse(&absolute(path))?,
                    port: parse_port(port)?,
                });
            }
            _ => {}
        }
    }
    if let Some(cid) = machine_of_address(host, prefix)? {
        return Ok(Endpoint::of_machine(Machine::Cid(cid), parse_port(port)?));
    }
    // No machine has such a name.
    let is_path = host.ends_with(".sock") || host.ends_with(".socket");
    if !host.contains([':', '/', '@']) && !is_path {
        return machine(host, port);
    }
    if port.is_some() {
        let hint = "the address brings its own port, and PORT is given as well; leave one out";
        return Err(Error::invalid("host", host, hint));
    }
    match host.parse::<Endpoint>()?.into_target()? {
        Endpoint::VsockMapped(_) => {
            let hint = "there is no connection whose destination could be mapped; name the machine";
            Err(Error::invalid("host", host, hint))
        }
        target => Ok(target),
    }
}

fn machine(text: &str, port: Option<&str>) -> Result<Endpoint> {
    Ok(Endpoint::of_machine(text.parse()?, parse_port(port)?))
}

fn parse_port(port: Option<&str>) -> Result<VsockPort> {
    Ok(port.map_or(Ok(DEFAULT_PORT.into()), str::parse)?)
}

/// `unix/run/x` is `/run/x`, as for systemd-ssh-proxy(1); a second slash does no harm.
fn absolute(path: &str) -> String {
    match path.starts_with(['/', '@']) {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::Target;
    use crate::known::Known;
    use crate::registry::Registry;

    /// With one name, and no registry.
    fn resolve(endpoint: Endpoint) -> Result<Target> {
        let (given, registry) = ("web=3".parse().unwrap(), Registry::default());
        Target::resolve(endpoint, &Known::with(Some(&given), &registry))
    }

    fn read(host: &str, port: Option<&str>) -> Result<String> {
        let endpoint = address(host, port, Some("fd00:1::/64".parse().unwrap()))?;
        let target = resolve(endpoint)?;
        Ok(target.endpoint.to_string())
    }

    #[test]
    fn every_form_of_a_machine_is_the_same() {
        for host in [
            "3",
            "vsock/3",
            "vsock%3",
            "3.vsock",
            "vsock/3.vsock",
            "web",
            "Web.vsock",
            "vsock/web",
            "vsock%web.vsock",
            "fd00:1::3",
            "[fd00:1::3]",
        ] {
            assert_eq!(read(host, None).unwrap(), "vsock:3:22", "{host}");
            assert_eq!(read(host, Some("445")).unwrap(), "vsock:3:445", "{host}");
        }
        assert_eq!(read("vsock:web:22", None).unwrap(), "vsock:3:22");
        assert_eq!(read("host.vsock", None).unwrap(), "vsock:2:22");
        assert_eq!(read("vsock/host", None).unwrap(), "vsock:2:22");
    }

    #[test]
    fn paths_are_absolute_with_or_without_their_slash() {
        assert_eq!(read("unix/run/x.sock", Some("22")).unwrap(), "/run/x.sock");
        assert_eq!(read("unix:/run/x.sock", None).unwrap(), "/run/x.sock");
        assert_eq!(read("unix//run/x.sock", None).unwrap(), "/run/x.sock");
        assert_eq!(
            read("vsock-mux/run/vm.vsock", Some("22")).unwrap(),
            "vsock-mux:/run/vm.vsock:22"
        );
        assert_eq!(
            read("vsock-mux%/run/vm.vsock", None).unwrap(),
            "vsock-mux:/run/vm.vsock:22"
        );
    }

    #[test]
    fn whole_addresses_bring_their_port() {
        for text in [
            "vsock:3:445",
            "vsock:1:22",
            "[::1]:22",
            "127.0.0.1:22",
            "vsock-mux:/run/vm.vsock:22",
            "/run/x.sock",
            "@x",
        ] {
            assert_eq!(read(text, None).unwrap(), text);
            assert!(read(text, Some("22")).is_err(), "{text} with a port");
        }
    }

    #[test]
    fn a_host_of_other_programs_is_told_its_form_here() {
        for (host, form) in [
            ("3:22", "`vsock-connect 3 22`"),
            (
                "user@3",
                "write 3; the user is for ssh, as in `ssh user@vsock/3`",
            ),
            ("user@web.vsock", "`ssh user@web.vsock`"),
            (
                "user@host:2222",
                "write `vsock-connect host 2222`; the user is for ssh, as in `ssh -p 2222 user@vsock/host`",
            ),
            (
                "user@127.0.0.1:22",
                "write 127.0.0.1:22; the user is for ssh",
            ),
            ("user@libvirt/web", "`ssh user@libvirt/web`"),
            (
                "vsock/3:2222",
                "write `vsock-connect vsock/3 2222`; for ssh, `ssh -p 2222 vsock/3`",
            ),
            ("qemu/web", "write libvirt/web"),
            ("qemu%web", "write libvirt/web"),
            ("qemu:system/web", "write libvirt/web"),
            (".host", "write unix/run/ssh-unix-local/socket"),
            ("machine/.host", "write unix/run/ssh-unix-local/socket"),
            ("web:22", "write vsock:web:22 "),
            ("host:22", "write vsock:host:22 "),
            ("tcp:localhost:22", "write localhost:22"),
            ("a.sock", "from the root on, such as /run/a.sock"),
            ("./a", "from the root on, such as /run/a"),
        ] {
            let error = target(host, None, None, Duration::ZERO)
                .and_then(resolve)
                .unwrap_err();
            assert!(error.is_usage() && error.report().contains(form), "{error}");
        }
        for host in ["@name", "/run/a@b", "vsock-mux:/run/a@b:22", "unix/run/a@b"] {
            assert_eq!(form_of_others(host), None, "{host}");
        }
    }

    #[test]
    fn what_names_no_machine_is_refused() {
        for host in [
            "",
            "0",
            "-1",
            "+3",
            " 3",
            "03",
            "4294967295",
            "4294967296",
            "vsock/",
            "vsock/0",
            "vsock%",
            "vsock/x y",
            "unix/",
            "fd00:2::3",
            "P::3",
            "[P::3]",
            "fd00:1::",
            "fd00:1::1:0:3",
            "::1",
            "3.example",
            "db",
            "vsock:db:22",
            "vsock:3",
            "vsock::22",
            "vsock:mapped",
            "vsock:mapped:22",
            "vsock:mapped:x",
            "vsock-mux/",
            "3\n",
            "$(reboot)",
        ] {
            assert!(read(host, None).is_err(), "{host:?}");
        }
        for port in ["", "x", "-1", "4294967295", "22 ", "022"] {
            assert!(read("3", Some(port)).is_err(), "{port:?}");
        }
    }
}
