//! The body of vsock-connect: one connection, handed to the caller or relayed to stdin and stdout.
//!
//! How targets of any program are reached is in [`crate::connect`].

use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::allow_list::AllowedCids;
use crate::clock::Moment;
use crate::connect::{Caller, Dialer, Source, Target};
use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::fdpass;
use crate::gate::Gate;
use crate::handover::Store;
use crate::managers::Manager;
use crate::names::Machine;
use crate::peer::Peer;
use crate::prefix::Prefix;
use crate::programs::options::{Beyond, Machines, parse_positive, parse_time};
use crate::relay::{Ending, Limits, Loop, LoopSettings};
use crate::stream::{Stream, Tuning};
use crate::sys;
use crate::this_machine;
use crate::vsock::VsockPort;

/// The port of ssh, for which this program is mostly called.
const DEFAULT_PORT: u16 = 22;

const AFTER_HELP: &str = "\
HOST is a CID or name (3, host, web), the same as vsock/3, vsock%3 or 3.vsock, an address of the prefix
(P::3), machine/NAME (systemd-machined), libvirt/NAME, unix/PATH, vsock-mux/PATH, or a target with its port:
vsock:3:22, [::1]:22, vsock-mux:/run/vm.vsock:22.

As ProxyCommand of ssh:  vsock-connect --fdpass %h %p   with ProxyUseFdpass yes
By hand:                 vsock-connect 3 80 </dev/null

Exit status: 0 after a complete connection, 255 when it failed, 2 on a usage error.";

/// Connects to a port of a virtual machine, or of any vsock or unix address.
#[derive(Debug, Parser)]
#[command(name = "vsock-connect", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Arguments {
    /// The machine, or a whole address
    host: String,
    /// Its port [default: 22]
    port: Option<String>,
    /// Pass the connected socket over stdout where it is taken (ProxyUseFdpass of ssh), else relay
    #[arg(long)]
    fdpass: bool,
    /// Try again for that long until the machine answers
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    wait: Duration,
    /// How long one attempt may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive)]
    connect_timeout: Duration,
    /// The machines.
    #[command(flatten)]
    machines: Machines,
    /// What is behind vsock, and behind what stands for it.
    #[command(flatten)]
    beyond: Beyond,
    /// Log more; twice for every event
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,
}

/// Connects, then hands the socket over or relays until both directions have ended.
pub fn run(arguments: Arguments) -> Result<()> {
    let names = arguments.machines.names.as_ref();
    let target = target(&arguments)?;
    let target = Target::resolve(target, names)?;
    let tuning = Tuning {
        keepalive: Some(Duration::from_secs(60)),
        vsock_buffer_bytes: 1 << 20,
        vsock_packets: (arguments.beyond).packets(target.is_vsock(), log::Level::Debug),
    };
    let dialer = Dialer {
        target,
        source: Source::Kernel,
        prefix: None,
        timeout: arguments.connect_timeout,
        retry: arguments.wait,
        tuning,
        mux_answer: arguments.beyond.mux_answer,
        proxy_protocol: None,
    };
    let stream = dialer
        .dial(&Peer::Stdio, None, Caller::default(), Moment::now())?
        .wait_connected(&dialer)?;
    log::debug!("connected to {}", dialer.target.endpoint);
    let (input, output) = (std::io::stdin(), std::io::stdout());
    if arguments.fdpass {
        if fdpass::is_wanted(input.as_fd(), output.as_fd()) {
            return fdpass::hand_over(output.as_fd(), stream);
        }
        log::debug!("nobody takes a descriptor from stdout; relaying");
    }
    relay(stream, dialer)
}

fn relay(target: Stream, dialer: Dialer) -> Result<()> {
    let stdio = sys::take_stdio().and_then(|(input, output)| Stream::stdio(input, output));
    let stdio = stdio.map_err(Error::system("use stdin and stdout; are both open?"))?;
    let gate = Gate::new(AllowedCids::any(), 1, 1, None);
    let settings = LoopSettings {
        limits: Limits::default(),
        exit_idle: None,
        drain: Duration::ZERO,
        busy_poll: true,
        crash_proof: false,
    };
    let name = dialer.target.endpoint.to_string();
    let store = Store::private().map_err(Error::system("get memory for buffers"))?;
    let mut event_loop = Loop::new(Vec::new(), dialer, gate, store, settings)?;
    event_loop.relay(stdio, Peer::Stdio, target);
    match event_loop.run()?.last {
        Some(Ending::Complete) => Ok(()),
        Some(ending) => Err(Error::Ended(format!("to {name} {ending}"))),
        None => Ok(()),
    }
}

/// Reads HOST and PORT; the manager of a machine is asked for its CID.
fn target(arguments: &Arguments) -> Result<Endpoint> {
    let (host, port) = (&*arguments.host, arguments.port.as_deref());
    for separator in ['/', '%'] {
        let Some((word, name)) = host.split_once(separator) else {
            continue;
        };
        if let Some(manager) = Manager::of(word) {
            let port = parse_port(port)?;
            let cid = manager.cid(name, arguments.connect_timeout)?;
            return Ok(Endpoint::of_machine(Machine::Cid(cid), port));
        }
    }
    address(host, port, arguments.machines.prefix)
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
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return mapped(address, port, prefix);
    }
    if !host.contains([':', '/', '@']) {
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

fn mapped(address: Ipv6Addr, port: Option<&str>, given: Option<Prefix>) -> Result<Endpoint> {
    let (prefix, _) = this_machine::prefix(given, Path::new("/"))?;
    let cid = prefix.cid(address).ok_or_else(|| {
        Error::invalid(
            "host",
            &address.to_string(),
            format!("not the address of a machine in {prefix}"),
        )
    })?;
    Ok(Endpoint::of_machine(Machine::Cid(cid), parse_port(port)?))
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

    fn read(host: &str, port: Option<&str>) -> Result<String> {
        let endpoint = address(host, port, Some("fd00:1::/64".parse().unwrap()))?;
        let target = Target::resolve(endpoint, Some(&"web=3".parse().unwrap()))?;
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
