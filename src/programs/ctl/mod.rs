//! The body of vsockctl, the administrator's view: one subcommand, one function that gives the text to print.

mod bridge;
mod bridges;
pub(crate) mod check;
mod forward;
mod gateway_rules;
pub(crate) mod hosts;
mod list;
mod machines;
pub(crate) mod metrics;
pub mod output;
mod overview;
mod picture;
mod publish;
mod records;
mod rules;
mod sockets;
mod table;
mod text_file;
mod wanted;
mod watch;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use nix::unistd::geteuid;

use crate::config_file;
use crate::configured;
use crate::error::{Error, Result};
use crate::known::Known;
use crate::managers::Manager;
use crate::names::{Machine, Names};
use crate::prefix::{self, Prefix};
use crate::programs::options::{Machines, machine_of_address};
use crate::route;
use crate::this_machine;
use crate::unusable::Unusable;
use crate::vsock::Cid;

/// Shows and prepares the addresses of virtual machines.
#[derive(Debug, Parser)]
#[command(name = "vsockctl", version, max_term_width = 100)]
pub struct Arguments {
    /// What to do [default: list]
    #[command(subcommand)]
    command: Option<Command>,
    /// The machines.
    #[command(flatten)]
    machines: Machines,
    /// Log more; twice for everything.
    ///
    /// Given once, details are logged; given twice, all that there are.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Log less; twice for errors only.
    ///
    /// Given once, warnings and errors are logged, given twice, errors alone. Lines of `check` that are OK are left
    /// out.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub quiet: u8,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the address of a machine.
    Addr {
        /// CID, name or address: 3, host, local, web, 3.vsock, vsock/3
        machine: String,
    },
    /// Print the CID of a machine.
    Cid {
        /// Address, name or CID: fd00:abcd:ef12::3, web, host, 3.vsock, vsock/3
        machine: String,
    },
    /// Show, choose or activate the prefix.
    Prefix {
        /// What to do with it [default: show]
        #[command(subcommand)]
        command: Option<PrefixCommand>,
    },
    /// Print or write names of machines.
    ///
    /// Prints the names as lines for /etc/hosts or as records of systemd-resolved, or writes them there.
    Hosts(hosts::Arguments),
    /// Print, load or remove the nftables rules, or print those of the gateway.
    ///
    /// The rules of nftables bring connections to vsock-bridge-any.socket, and let nobody come or answer as another machine.
    Rules {
        /// Load the rules instead of printing them.
        ///
        /// They take the place of those that were loaded before, in one step. Needs nft, and root or CAP_NET_ADMIN.
        #[arg(long, conflicts_with = "unload")]
        load: bool,
        /// Remove the rules.
        ///
        /// Without rules nothing is done. Needs nft, and root or CAP_NET_ADMIN.
        #[arg(long)]
        unload: bool,
        /// Print the rules of the gateway instead.
        ///
        /// Each with its file and line, as they would hold for one that starts now.
        #[arg(long, conflicts_with_all = ["load", "unload"])]
        gateway: bool,
        /// Only rules for this machine.
        ///
        /// Only rules of the gateway that are for this machine: a CID, a name, or local.
        #[arg(long, value_name = "MACHINE", requires = "gateway")]
        who: Option<Machine>,
        /// Only rules that lead there, such as db:5432.
        ///
        /// Only rules of the gateway that lead to this place. With --who, the one that the gateway takes; none is a failure.
        #[arg(long, value_name = "PLACE", requires = "gateway")]
        to: Option<String>,
        /// Another file with rules of the gateway.
        ///
        /// The file with the rules. [default: /etc/vsock-bridge/gateway.conf and gateway.conf.d/*.conf]
        #[arg(long, env = crate::gateway_rules::VARIABLE, value_name = "FILE")]
        rules: Option<PathBuf>,
    },
    /// Print what must be true, and whether it is.
    ///
    /// Prints a line for each thing that must be true: OK, WARN or FAIL, what is the case, and the command that fixes
    /// it.
    Check(check::Arguments),
    /// Show the bridges and their open connections.
    ///
    /// Shows the bridges of this machine, or those named, and the open connections of each. Needs root.
    List(list::Arguments),
    /// Print the numbers of all bridges for Prometheus.
    ///
    /// Prints how many connections each bridge has and had, what became of them and how many bytes they carried. Needs
    /// root.
    Metrics(metrics::Arguments),
    /// Bring a port or socket of one side to the other.
    ///
    /// Listens until it is ended, and brings each connection to the target, as the user who runs it.
    Forward(forward::Arguments),
    /// Show the machines that have a name.
    ///
    /// Shows each name with its CID, whether the machine runs, and who knows the name: the configuration,
    /// systemd-machined or libvirt.
    Machines(machines::Arguments),
}

/// What can be done with the prefix.
#[derive(Debug, Subcommand)]
pub(crate) enum PrefixCommand {
    /// Print the prefix in use.
    Show,
    /// Print a new random prefix (RFC 4193).
    Generate {
        /// Write the prefix to vsock-bridge.conf as well.
        ///
        /// It takes the place of the one that is in /etc/vsock-bridge/vsock-bridge.conf, and other lines stay.
        #[arg(long)]
        write: bool,
    },
    /// Add the route and the address of the prefix.
    ///
    /// Adds to lo the local route of the prefix, and the address of this machine in it. Needs root or CAP_NET_ADMIN.
    Up,
    /// Remove the route and the address of the prefix.
    ///
    /// Removes what `prefix up` has added. Needs root or CAP_NET_ADMIN.
    Down,
    /// Ask for the route and the address when they are lost.
    ///
    /// Waits, and writes a file when something else has removed them, for which systemd starts `prefix up`.
    Watch,
}

/// Options of all subcommands that say nothing to some of these; they are taken there, and not in the help.
const IDLE: [(&str, &[&str]); 5] = [
    ("check", &["names"]),
    ("list", &["prefix", "names"]),
    ("machines", &["prefix"]),
    ("metrics", &["prefix", "names"]),
    ("prefix", &["names"]),
];
/// The same of subcommands of `prefix`.
const IDLE_OF_PREFIX: [(&str, &[&str]); 2] = [("generate", &["prefix"]), ("down", &["prefix"])];

/// Returns the command line of the program.
pub fn command() -> clap::Command {
    let command = Arguments::command();
    let shared: Vec<clap::Arg> = command.get_arguments().cloned().collect();
    let hide = |command: clap::Command, idle: &[(&str, &[&str])]| {
        idle.iter().fold(command, |command, (name, options)| {
            let is_idle = |argument: &&clap::Arg| options.contains(&argument.get_id().as_str());
            let hidden = shared.iter().filter(is_idle).cloned();
            let hidden: Vec<_> = hidden.map(|argument| argument.hide(true)).collect();
            command.mut_subcommand(name, |command| command.args(hidden))
        })
    };
    let command = command.mut_subcommand("prefix", |prefix| hide(prefix, &IDLE_OF_PREFIX));
    hide(command, &IDLE)
}

/// Carries out the subcommand; gives the status to exit with.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    carry_out(arguments).map_err(as_root)
}

/// Says what to do about a file that is root's.
fn as_root(error: Error) -> Error {
    match error {
        Error::Unusable(Unusable::File {
            operation,
            path,
            source,
        }) if source.kind() == ErrorKind::PermissionDenied && is_of_root(&path) => Error::NotRoot {
            operation,
            path,
            source,
        },
        other => other,
    }
}

/// Returns whether somebody else than root is refused there because of that.
fn is_of_root(path: &Path) -> bool {
    !geteuid().is_root()
        && (path.starts_with("/etc") || path.starts_with("/run"))
        && !path.starts_with("/run/user")
}

fn carry_out(arguments: Arguments) -> Result<ExitCode> {
    let prefix = || this_machine::prefix(arguments.machines.prefix, Path::new("/"));
    let command = arguments
        .command
        .unwrap_or(Command::List(list::Arguments::default()));
    let text = match command {
        Command::Addr { machine } => {
            let cid = self::machine(&machine, &arguments.machines)?;
            Ok(format!("{}\n", prefix()?.0.address(cid)))
        }
        Command::Cid { machine } => {
            let cid = self::machine(&machine, &arguments.machines)?;
            Ok(format!("{cid}\n"))
        }
        Command::Prefix {
            command: Some(PrefixCommand::Generate { write }),
        } => generate(write),
        Command::Prefix {
            command: None | Some(PrefixCommand::Show),
        } => {
            let (prefix, origin) = prefix()?;
            log::info!("{origin}");
            Ok(format!("{prefix}\n"))
        }
        Command::Prefix {
            command: Some(PrefixCommand::Up),
        } => {
            let (prefix, origin) = prefix()?;
            log::info!("adding the local route of {prefix}, {origin}");
            route::up(prefix).map(|()| String::new())
        }
        Command::Prefix {
            command: Some(PrefixCommand::Down),
        } => route::down().map(|()| String::new()),
        Command::Prefix {
            command: Some(PrefixCommand::Watch),
        } => watch::run(prefix()?.0).map(|()| String::new()),
        Command::Hosts(what) => hosts::run(&what, || {
            let names = match &arguments.machines.names {
                Some(given) => given.names()?.clone(),
                None => Names::read()?,
            };
            Ok((prefix()?.0, names))
        }),
        Command::Rules {
            gateway: true,
            who,
            to,
            rules,
            ..
        } => {
            let asked = gateway_rules::Asked {
                file: rules,
                who,
                to,
            };
            gateway_rules::run(asked, arguments.machines.names.as_ref())
        }
        Command::Rules { unload: true, .. } => rules::unload().map(|()| String::new()),
        Command::Rules { load: true, .. } => rules::load(prefix()?.0).map(|()| String::new()),
        Command::Rules { .. } => rules::current(prefix()?.0),
        Command::Check(how) => {
            let is_quiet = arguments.quiet > 0;
            check::run(&how, is_quiet, arguments.machines.prefix).map(|()| String::new())
        }
        Command::List(arguments) => list::run(&arguments).map(|()| String::new()),
        Command::Metrics(arguments) => metrics::run(&arguments).map(|()| String::new()),
        // It has a status of its own, and no text.
        Command::Forward(what) => return forward::run(what, arguments.machines),
        Command::Machines(how) => {
            machines::run(&how, arguments.machines.names.as_ref()).map(|()| String::new())
        }
    };
    // Whoever does not read to the end has seen enough.
    output::print(&text?).map(|_| ExitCode::SUCCESS)
}

/// Reads a machine in every form that names one for vsock-connect.
fn machine(text: &str, machines: &Machines) -> Result<Cid> {
    let mut text = text;
    if let Some((word, name)) = text.split_once(['/', '%']) {
        if let Some(manager) = Manager::of(word) {
            return manager.cid(name, machines::ANSWER_TIME);
        }
        if word == "vsock" {
            text = name;
        }
    }
    match machine_of_address(text, machines.prefix)? {
        Some(cid) => Ok(cid),
        None => Ok(Known::settled(machines.names.as_ref()).cid(&text.parse::<Machine>()?)?),
    }
}

/// Makes a prefix of 40 random bits, as RFC 4193 section 3.2 wants it.
fn generate(write: bool) -> Result<String> {
    let device = Path::new("/dev/urandom");
    let mut random = [0; 5];
    File::open(device)
        .and_then(|mut device| device.read_exact(&mut random))
        .map_err(Error::file("read", device))?;
    let prefix = Prefix::from_random(random);
    if write {
        let path = config_file::PATH;
        configured::set(Path::new(path), prefix::VARIABLE, &prefix.to_string())?;
        let then = match check::units::has_systemd() {
            true => "`systemctl daemon-reload` and a restart of the units",
            false => "`vsockctl prefix up` and a restart of the bridges",
        };
        log::info!("written to {path}; it takes effect after {then}");
    }
    Ok(format!("{prefix}\n"))
}
