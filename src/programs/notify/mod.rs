//! The body of vsock-notify: what a machine says of itself reaches the service manager as the word of the machine's unit.
//!
//! The service manager believes only processes of the unit (NotifyAccess=, systemd.exec(5)), so this program is one of them. It
//! listens, and then splits in two: one process becomes the monitor, whose process id is that of the unit; the other listens
//! for as long as that one runs.

mod address;
mod hearing;
mod telling;
mod words;

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use clap::{ArgAction, Parser};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, getppid};

use crate::allow_list::{AllowList, AllowedCids};
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::known::Known;
use crate::listen;
use crate::names::Names;
use crate::notify;
use crate::programs::options::parse_mode;
use crate::programs::replace;
use crate::stream::Listener;
use crate::sys;

use address::Address;
use hearing::Hearing;
use words::Words;

const AFTER_HELP: &str = "\
ADDRESS is where the vmm.notify_socket credential of the machine leads to:
vsock-stream::9003 or vsock-seqpacket::9003 for vsock-stream:2:9003 or
vsock-seqpacket:2:9003, and /run/vm.vsock_9003 for hybrid vsock.

In a unit with Type=notify and NotifyAccess=all:
    ExecStart=vsock-notify --listen vsock-stream::9003 --allow-cid 3
        qemu-system-x86_64 -device vhost-vsock-pci,guest-cid=3 -smbios
        type=11,value=io.systemd.credential:vmm.notify_socket=vsock-stream:2:9003

The exit status is that of COMMAND, 1 when it cannot be run or the address is
taken, and 2 on a usage error.";

/// Runs the monitor of a virtual machine; its unit is ready when the machine says so.
#[derive(Debug, Parser)]
#[command(name = "vsock-notify", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Arguments {
    /// Where the machine tells what it does.
    ///
    /// The machine's vmm.notify_socket credential leads to this address. The forms are listed below.
    #[arg(long, value_name = "ADDRESS")]
    listen: Address,
    /// The machine, by its CID or name.
    ///
    /// Nobody else is believed over vsock. A list such as 3,web is possible; local is this machine itself.
    #[arg(long, value_name = "LIST")]
    allow_cid: Option<AllowList>,
    /// Be ready with a target of the guest: ssh-access.target.
    ///
    /// The unit is ready when the guest's systemd has reached this target of its own, and not when all has started.
    #[arg(long, value_name = "TARGET", value_parser = parse_target)]
    ready_when: Option<String>,
    /// Permissions of a unix socket.
    ///
    /// A unix socket is made with these permissions, in octal. The monitor has to be able to write to it.
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = parse_mode)]
    listen_mode: Mode,
    /// Log more; twice for everything.
    ///
    /// Given once, each message of the machine is logged. Given twice, what is left out of it as well.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less; twice for errors only.
    ///
    /// Given once, warnings and errors are logged. Given twice, errors alone.
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,
    /// The monitor and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What one of the two processes has to do.
#[derive(Debug)]
pub struct Part(Role);

#[derive(Debug)]
enum Role {
    /// To become the monitor.
    Monitor(Vec<OsString>),
    /// To listen while the monitor runs.
    Listener(Box<Hearing>),
    /// Nothing: the monitor has ended already.
    Nothing,
}

/// Listens, and splits the process. Returns in both, which have the same descriptors.
///
/// Must be called before the first thread is made.
///
/// Errors: a monitor that cannot be run; [`Error::Usage`] where it is not said which machine may speak; [`Error::Listen`]; a
/// kernel that makes no process.
pub fn split(arguments: Arguments) -> Result<Part> {
    replace::expect_program("COMMAND", &arguments.command)?;
    let allowed = allowed(arguments.allow_cid.as_ref(), &arguments.listen)?;
    let mode = arguments.listen_mode;
    let word = arguments.listen.word();
    let Address { endpoint, kind } = arguments.listen;
    let listener = listen::open_one(endpoint, (kind, word), mode)?;
    let words = Words::new(arguments.ready_when);
    let monitor = nix::unistd::getpid();
    match sys::fork().map_err(Error::system("split the process in two"))? {
        ForkResult::Parent { .. } => {
            leave_to_other(listener);
            Ok(Part(Role::Monitor(arguments.command)))
        }
        ForkResult::Child => {
            if !is_bound_to(monitor)? {
                return Ok(Part(Role::Nothing));
            }
            let gate = Gate::new(allowed, usize::MAX, usize::MAX, None);
            let hearing = Hearing::new(listener, gate, words);
            Ok(Part(Role::Listener(Box::new(hearing))))
        }
    }
}

/// Reads who may speak; over a unix socket whoever may write to it.
fn allowed(list: Option<&AllowList>, address: &Address) -> Result<AllowedCids> {
    let fail = |problem: &str| Err(Error::Usage(problem.to_owned()));
    match (list, address.is_vsock()) {
        (Some(list), true) => match list.resolve(&Known::settled(None))? {
            allowed if allowed.is_any() => fail(
                "`--allow-cid any` would have every machine say that this one is ready: name the one, e.g. `--allow-cid 3`",
            ),
            allowed => Ok(allowed),
        },
        (None, true) => fail("say which machine may speak at that address, e.g. `--allow-cid 3`"),
        (Some(_), false) => fail(
            "`--allow-cid` is for vsock: at a unix socket whoever may write to it is heard, see `--listen-mode`",
        ),
        (None, false) => Ok(AllowedCids::any()),
    }
}

/// Reads the name of a target, which is all that a guest tells of its units.
fn parse_target(text: &str) -> Result<String> {
    match text.strip_suffix(".target") {
        Some(name) if !name.is_empty() && !text.contains(['/', ' ']) => Ok(text.to_owned()),
        _ => {
            let hint = "expected one of the guest's systemd, such as ssh-access.target";
            Err(Error::invalid("target", text, hint))
        }
    }
}

/// Closes a listener when the monitor begins, and leaves the file of its socket, which the other process listens at.
fn leave_to_other(listener: Listener) {
    std::mem::forget(listener);
}

/// Has this process end with the monitor. Returns whether that still runs.
fn is_bound_to(monitor: Pid) -> Result<bool> {
    set_pdeathsig(Signal::SIGTERM).map_err(Error::system("end with the monitor"))?;
    Ok(getppid() == monitor)
}

/// Plays a part, or tells why there is none.
///
/// Errors: those of [`split`] and [`Part::play`].
pub fn run(part: Result<Part>) -> Result<()> {
    let is_monitor = matches!(part, Ok(Part(Role::Monitor(_))));
    if !is_monitor {
        // There was no log when the names were read; what is wrong with them now is the error.
        let _ = Names::read();
    }
    part?.play()
}

impl Part {
    /// Becomes the monitor, or listens until that ends; returns when it fails, or when there is nothing to do.
    fn play(self) -> Result<()> {
        let never: Infallible = match self.0 {
            Role::Monitor(command) => become_monitor(&command)?,
            Role::Listener(hearing) => hear(*hearing)?,
            Role::Nothing => return Ok(()),
        };
        match never {}
    }
}

/// The monitor gets no NOTIFY_SOCKET: when the unit is ready is for the machine to say.
fn become_monitor(command: &[OsString]) -> Result<Infallible> {
    let (name, arguments) = command
        .split_first()
        .ok_or_else(|| Error::Usage("the monitor is missing".to_owned()))?;
    let mut monitor = Command::new(name);
    monitor.args(arguments).env_remove(notify::VARIABLE);
    Err(Error::file("run", Path::new(name))(monitor.exec()))
}

fn hear(hearing: Hearing) -> Result<Infallible> {
    if !notify::is_heard() {
        log::warn!(
            "{} is not set, so nobody hears that the machine is ready: its unit needs Type=notify and NotifyAccess=all",
            notify::VARIABLE
        );
    }
    hearing.run()
}
