//! The options of vsock-bridge, each of which is an environment variable as well.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Parser};
use nix::sys::stat::Mode;

use crate::allow_list::{self, AllowList};
use crate::connect::Source;
use crate::error::{Error, Result};
use crate::gateway::rules;
use crate::gateway_rules;
use crate::listen_list::{self, ListenList};
use crate::names::Machine;
use crate::programs::options::{
    Beyond, Machines, TimeLimit, parse_mode, parse_positive, parse_positive_limit, parse_time,
};
use crate::proxy_protocol;
use crate::target_list::TargetList;

/// What is wrong without a target.
pub(crate) const NO_TARGET: &str =
    "`--to` or VSOCK_BRIDGE_TO is missing: where should connections go? e.g. --to [::1]:445";

const AFTER_HELP: &str = "\
Every option can be given as an environment variable, such as VSOCK_BRIDGE_TO
for --to, and so in /etc/vsock-bridge/vsock-bridge@PORT.conf. VSOCK_BRIDGE_LOG
takes a log filter, such as debug.

Targets: [::1]:445  127.0.0.1:445  name:445  [::1]:mapped  /run/x.sock  @name
         vsock:2:445  vsock:web:445  vsock:mapped  vsock:mapped:445
         unix:/run/x.sock  vsock-mux:/run/vm.vsock:445  gateway  inbound
Listen:  vsock::445 (any CID)  vsock:local:445  [::1]:445  127.0.0.1:445
         /run/x.sock  @name
Times:   500ms  5s  5 (the same)  10min  1h 30min  infinity

vsock-bridge takes its sockets from systemd, or with --listen it listens by
itself; see vsock-bridge(8).";

/// Relays connections between sockets passed by systemd, or its own, and a target.
#[derive(Debug, Parser)]
#[command(name = "vsock-bridge", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Arguments {
    /// Where connections go.
    ///
    /// The target of all connections, such as vsock:2:445 or /run/app.sock, or one for each machine, such as "3=/run/a.sock
    /// web=/run/b.sock". The forms are listed below.
    #[arg(long, env = "VSOCK_BRIDGE_TO", value_name = "TARGET")]
    pub(crate) to: Option<TargetList>,
    /// Where to listen without systemd, such as vsock::445.
    ///
    /// Without systemd, the program listens on these addresses by itself. Several are separated by spaces, or the
    /// option is given several times.
    #[arg(long, env = listen_list::VARIABLE, value_name = "ADDRESS")]
    pub(crate) listen: Vec<ListenList>,
    /// Permissions of the unix sockets of --listen.
    ///
    /// Unix sockets of --listen are made with these permissions, in octal.
    #[arg(long, env = "VSOCK_BRIDGE_LISTEN_MODE", value_name = "MODE", default_value = "0666", value_parser = parse_mode)]
    pub(crate) listen_mode: Mode,
    /// Source address of outgoing connections.
    ///
    /// none lets the kernel choose, mapped is P::CID of the peer, and an IP address of this machine is used as it is.
    /// [default: mapped from vsock to loopback IPv6, else none]
    #[arg(long, env = "VSOCK_BRIDGE_SOURCE", value_name = "SOURCE")]
    pub(crate) source: Option<SourceArgument>,
    /// Tell the target who connected: v1, v2 or v2-plain.
    ///
    /// A header of the PROXY protocol in front of the first byte tells the target who connected. v2 has the CID and the
    /// port of the peer as well, v2-plain has not.
    #[arg(long, env = "VSOCK_BRIDGE_PROXY_PROTOCOL", value_name = "VERSION")]
    pub(crate) proxy_protocol: Option<proxy_protocol::Version>,
    /// The machines.
    #[command(flatten)]
    pub(crate) machines: Machines,
    /// Machines that may connect over vsock.
    ///
    /// any is every other machine, and a list such as 3,7,100-200,host,web is the machines in it. This machine itself
    /// comes in only by local, as in any,local. Who is not allowed is closed before the target hears of it.
    #[arg(
        long,
        env = allow_list::VARIABLE,
        value_name = "LIST",
        default_value = allow_list::DEFAULT
    )]
    pub(crate) allow_cid: AllowList,
    /// Connections in all.
    ///
    /// No more connections are open at once: further peers are closed. infinity is as many as there are descriptors
    /// for.
    #[arg(long, env = "VSOCK_BRIDGE_MAX_CONNECTIONS", value_name = "N", default_value = "4096", value_parser = parse_limit)]
    pub(crate) max_connections: usize,
    /// Connections of one CID, IP address or user.
    ///
    /// No more connections of one CID, IP address or user are open at once: further ones are closed.
    #[arg(long, env = "VSOCK_BRIDGE_MAX_CONNECTIONS_PER_PEER", value_name = "N", default_value = "1024", value_parser = parse_limit)]
    pub(crate) max_connections_per_peer: usize,
    /// How long the target may take to accept.
    ///
    /// A peer whose target has not accepted after that time is closed.
    #[arg(long, env = "VSOCK_BRIDGE_CONNECT_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = parse_positive)]
    pub(crate) connect_timeout: Duration,
    /// How long a target that refuses is tried again.
    ///
    /// A target that refuses is tried again for that time before its peer is closed.
    #[arg(long, env = "VSOCK_BRIDGE_CONNECT_RETRY", value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    pub(crate) connect_retry: Duration,
    /// Who may go where through the gateway.
    ///
    /// The file with the rules of --to gateway, see vsock-bridge-gateway.conf(5).
    /// [default: /etc/vsock-bridge/gateway.conf and gateway.conf.d/*.conf]
    #[arg(long, env = gateway_rules::VARIABLE, value_name = "FILE")]
    pub(crate) rules: Option<PathBuf>,
    /// Who the peers of a unix listener are to the gateway.
    ///
    /// The machine behind the socket of a hybrid vsock, by which --to gateway knows whose rules hold.
    #[arg(long, env = "VSOCK_BRIDGE_MACHINE", value_name = "MACHINE")]
    pub(crate) machine: Option<Machine>,
    /// Have machines see who comes: yes or no.
    ///
    /// With yes, --to gateway reaches machines by their vsock-bridge-inbound.socket, whose services see which machine it
    /// is; else where a rule ends in as-peer.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_AS_PEER",
        value_name = "BOOL",
        default_value = "no",
        value_parser = parse_switch,
        action = ArgAction::Set
    )]
    pub(crate) as_peer: bool,
    /// What is behind vsock, and behind what stands for it.
    #[command(flatten)]
    pub(crate) beyond: Beyond,
    /// Close after that time without a byte.
    ///
    /// A connection in which no byte moves for that time, in either direction, is closed.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_IDLE_TIMEOUT",
        value_name = "TIME",
        default_value = "infinity",
        value_parser = parse_positive_limit
    )]
    pub(crate) idle_timeout: TimeLimit,
    /// Close half-closed ones after that time.
    ///
    /// A connection in which one direction has ended and no byte moves in the other for that time is closed. Some
    /// virtual machine monitors do not carry half-close, and need this.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_HALF_CLOSE_TIMEOUT",
        value_name = "TIME",
        default_value = "infinity",
        value_parser = parse_positive_limit
    )]
    pub(crate) half_close_timeout: TimeLimit,
    /// Leave after that time without a connection.
    ///
    /// The program ends after that time without a connection, and systemd starts it again for the next one.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_EXIT_IDLE_TIME",
        value_name = "TIME",
        default_value = "infinity"
    )]
    pub(crate) exit_idle_time: TimeLimit,
    /// How long connections may go on after SIGTERM.
    ///
    /// After SIGTERM open connections may finish for that time, and those that are left are reset.
    #[arg(long, env = "VSOCK_BRIDGE_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub(crate) drain_timeout: Duration,
    /// Idle time before TCP keepalive probes.
    ///
    /// TCP connections are probed after that time without a byte, so that a dead peer is noticed. 0 or infinity sends
    /// no probes.
    #[arg(long, env = "VSOCK_BRIDGE_KEEPALIVE", value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub(crate) keepalive: Duration,
    /// Receive buffer of vsock sockets.
    ///
    /// Each vsock socket holds up to that much that has arrived and was not yet read, from 4KiB to 64MiB.
    #[arg(long, env = "VSOCK_BRIDGE_VSOCK_BUFFER", value_name = "SIZE", default_value = "1MiB", value_parser = parse_buffer)]
    pub(crate) vsock_buffer: u64,
    /// Look for events before sleeping: yes or no.
    ///
    /// With yes the program looks for the next event for a moment before it sleeps, where that shortens round trips.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_BUSY_POLL",
        value_name = "BOOL",
        default_value = "yes",
        value_parser = parse_switch,
        action = ArgAction::Set
    )]
    pub(crate) busy_poll: bool,
    /// Keep connections over a crash: yes or no.
    ///
    /// With yes neither a crash nor a restart ends open connections, with no only a restart does not.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_CRASH_PROOF",
        value_name = "BOOL",
        default_value = "yes",
        value_parser = parse_switch,
        action = ArgAction::Set
    )]
    pub(crate) crash_proof: bool,
    /// It is there for as long as somebody's terminal is.
    #[arg(skip)]
    pub(crate) is_typed: bool,
    /// Say what is wrong with the settings, and exit.
    ///
    /// Each setting that is wrong is a line. The exit status is 0 if there is none, else 2. With a unit, such as
    /// vsock-bridge@445, what it sets with Environment= and in its files is read as well.
    #[arg(long, value_name = "UNIT", num_args = 0..=1, default_missing_value = "")]
    pub(crate) check: Option<String>,
    /// Log more; twice for everything.
    ///
    /// Given once, each connection is logged from accept to end; given twice, each event of its sockets as well.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less; twice for errors only.
    ///
    /// Given once, warnings and errors are logged, given twice, errors alone.
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,
}

impl Arguments {
    /// Returns where the rules of the gateway are written.
    pub(crate) fn rules(&self) -> rules::Source {
        match &self.rules {
            Some(path) => rules::Source::File(path.clone()),
            None => rules::Source::Usual,
        }
    }
}

/// `--source` as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceArgument(pub(crate) Source);

impl FromStr for SourceArgument {
    type Err = Error;

    fn from_str(text: &str) -> Result<SourceArgument> {
        let source = match text {
            "none" => Source::Kernel,
            "mapped" => Source::Mapped,
            _ => Source::Address(text.parse::<IpAddr>().ok().ok_or_else(|| {
                Error::invalid(
                    "source address",
                    text,
                    "expected `none`, `mapped` or an IP address without port",
                )
            })?),
        };
        Ok(SourceArgument(source))
    }
}

/// Reads a number of connections; `infinity` is as many as there are descriptors for.
fn parse_limit(text: &str) -> Result<usize> {
    if text == "infinity" {
        return Ok(usize::MAX);
    }
    let hint = "expected a number from 1 to 1000000, or infinity";
    crate::vsock::decimal(text)
        .filter(|&number| (1..=1_000_000).contains(&number))
        .ok_or_else(|| Error::invalid("limit", text, hint))
}

/// Reads a switch as systemd.syntax(7) has it.
fn parse_switch(text: &str) -> Result<bool> {
    match text {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(Error::invalid("switch", text, "expected yes or no")),
    }
}

fn parse_buffer(text: &str) -> Result<u64> {
    let size = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|bytes| (4096..=64 << 20).contains(bytes))
        .ok_or_else(|| Error::invalid("buffer size", text, "expected 4KiB to 64MiB, e.g. 1MiB"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_is_an_environment_variable_named_like_it() {
        for argument in Arguments::command().get_arguments() {
            let name = argument.get_long().unwrap();
            if ["check", "verbose", "quiet", "help", "version"].contains(&name) {
                continue;
            }
            let variable = format!("VSOCK_BRIDGE_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(
                argument.get_env().unwrap().to_str(),
                Some(variable.as_str())
            );
        }
    }

    #[test]
    fn sizes_and_limits_have_bounds() {
        assert_eq!(parse_buffer("1MiB").unwrap(), 1 << 20);
        assert_eq!(parse_buffer("65536").unwrap(), 65536);
        for text in ["", "0", "1k", "1GiB", "-1MiB", "x"] {
            assert!(parse_buffer(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_limit("4096").unwrap(), 4096);
        assert_eq!(parse_limit("infinity").unwrap(), usize::MAX);
        for text in ["", "0", "-1", "+1", "1000001", "1e3"] {
            assert!(parse_limit(text).is_err(), "{text:?}");
        }
    }
}
