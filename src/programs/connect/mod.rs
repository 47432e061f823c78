//! The body of vsock-connect: one connection, handed to the caller or relayed to stdin and stdout.
//!
//! How targets of any program are reached is in [`crate::connect`].

pub(crate) mod host;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use clap::{ArgAction, Parser};
use nix::errno::Errno;

use crate::accounting::Ending;
use crate::allow_list::AllowedCids;
use crate::clock::Moment;
use crate::connect::{Caller, Dialer, Target};
use crate::error::{Error, Result};
use crate::fdpass;
use crate::gate::Gate;
use crate::handover::Store;
use crate::known::Known;
use crate::peer::{Destination, Peer, Side};
use crate::programs::options::{Beyond, LONGEST, Machines, parse_positive, parse_time};
use crate::programs::replace;
use crate::relay::Limits;
use crate::serve::{Loop, LoopSettings};
use crate::stream::{Stream, Tuning};
use crate::sys;

const AFTER_HELP: &str = "\
HOST is a CID or name (3, host, web), the same as vsock/3, vsock%3 or 3.vsock,
an address of the prefix (P::3), machine/NAME (systemd-machined), libvirt/NAME,
unix/PATH, vsock-mux/PATH, or a target with its port: vsock:3:22, [::1]:22,
vsock-mux:/run/vm.vsock:22.

As ProxyCommand of ssh, with ProxyUseFdpass yes:
    vsock-connect --fdpass %h %p
By hand:
    vsock-connect 3 80 </dev/null
Without a relay:
    vsock-connect 3 7000 --exec tar -c /srv

The exit status is 0 after a complete connection, 255 when it failed, and 2 on
a usage error.";

/// Connects to a port of a virtual machine, or of any vsock or unix address.
#[derive(Debug, Parser)]
#[command(name = "vsock-connect", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Arguments {
    /// The machine, or a whole address.
    ///
    /// The forms are listed below.
    host: String,
    /// Its port [default: 22].
    port: Option<String>,
    /// As ssh, scp and nc have it; here it is behind the host.
    #[arg(short = 'p', hide = true, value_name = "PORT")]
    port_of_ssh: Option<String>,
    /// Pass the socket over stdout to ssh.
    ///
    /// The connected socket is passed over standard output, as ProxyUseFdpass of ssh wants it. Where nobody takes a
    /// socket from there, bytes are relayed.
    #[arg(long)]
    fdpass: bool,
    /// Run a program with the socket: the rest of the line.
    ///
    /// The rest of the line is a program and its arguments, which takes the place of this one. The connected socket is its
    /// standard input and output, or its descriptor --fd.
    #[arg(
        long,
        value_name = "COMMAND",
        num_args = 1..,
        allow_hyphen_values = true,
        conflicts_with = "fdpass"
    )]
    exec: Vec<OsString>,
    /// Which descriptor of the program the socket is.
    ///
    /// The program of --exec has the socket as this descriptor, from 3 to 1023; its standard input and output are those of
    /// this program.
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "exec",
        value_parser = replace::parse_number
    )]
    fd: Option<i32>,
    /// Try again for that long until the machine answers.
    ///
    /// A machine that does not answer, or refuses, is tried again for that time.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    wait: Duration,
    /// How long one attempt may take.
    ///
    /// An attempt that has no answer after that time has failed.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive)]
    connect_timeout: Duration,
    /// The machines.
    #[command(flatten)]
    machines: Machines,
    /// What is behind vsock, and behind what stands for it.
    #[command(flatten)]
    beyond: Beyond,
    /// Log more; twice for everything.
    ///
    /// Given once, it is logged what is done; given twice, each event of the sockets as well.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less; twice for errors only.
    ///
    /// Given once, warnings and errors are logged, given twice, errors alone.
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,
}

/// Connects, then hands the socket over or relays until both directions have ended.
pub fn run(mut arguments: Arguments) -> Result<()> {
    // As other programs want it before a command.
    if arguments.exec.len() > 1 && arguments.exec[0] == "--" {
        arguments.exec.remove(0);
    }
    let names = arguments.machines.names.as_ref();
    let machines = &arguments.machines;
    let (host, port) = (&*arguments.host, arguments.port.as_deref());
    if let Some(port) = &arguments.port_of_ssh {
        let hint = format!("`-p` is ssh's; write `vsock-connect {host} {port}`");
        return Err(Error::Usage(hint));
    }
    // What is wrong here is no matter of the machine, which need not be disturbed.
    replace::expect_program("--exec", &arguments.exec)?;
    let kept = arguments.fd.map(replace::Kept::new).transpose()?;
    let target = host::target(host, port, machines.prefix, arguments.connect_timeout)?;
    let route = arguments.beyond.route()?;
    let named = target.clone();
    let known = Known::settled(names);
    target.no_present_machine_as_host(&known)?;
    let target = Target::resolve_led(target, &known, &route)?;
    let tuning = Tuning {
        keepalive: Some(Duration::from_secs(60)),
        vsock_buffer_bytes: 1 << 20,
        vsock_packets: (arguments.beyond).packets(target.is_vsock(), log::Level::Debug),
    };
    let mut dialer = Dialer {
        retry: arguments.wait,
        mux_answer: arguments.beyond.mux_answer,
        ..Dialer::to(target, arguments.connect_timeout, tuning)
    };
    let (peer, from) = (Peer::Stdio, Destination::Unnamed);
    let mut attempt = dialer.dial(&peer, from, |_| Caller::default(), Moment::now())?;
    // Somebody else may have the name, or its address, by the time that it answers.
    let renew = || Target::renamed_led(&named, &Known::settled(names), &route);
    let stream = attempt.wait_connected(&mut dialer, renew, |problem| {
        tell_of_wait(problem, arguments.wait);
    })?;
    drop(attempt);
    log::debug!("connected to {}", dialer.targets);
    if let Some((name, rest)) = arguments.exec.split_first() {
        let mut program = Command::new(name);
        program.args(rest);
        return replace::replace(stream, kept, program);
    }
    let (input, output) = (std::io::stdin(), std::io::stdout());
    if arguments.fdpass {
        if fdpass::is_wanted(input.as_fd(), output.as_fd()) {
            return fdpass::hand_over(output.as_fd(), stream);
        }
        log::debug!("nobody takes a descriptor from stdout; relaying");
    }
    relay(stream, dialer)
}

/// Tells whoever looks at a terminal where nothing happens why; a queue that is full for a moment is not waited for long.
fn tell_of_wait(problem: &str, wait: Duration) {
    match wait {
        Duration::ZERO => {}
        LONGEST => log::info!("{problem}; trying again until it answers"),
        _ => {
            let wait = humantime::format_duration(wait);
            log::info!("{problem}; trying again for {wait}");
        }
    }
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
    let name = dialer.targets.to_string();
    let store = Store::private().map_err(Error::system("get memory for buffers"))?;
    let mut event_loop = Loop::new(Vec::new(), dialer, gate, store, settings)?;
    event_loop.relay(stdio, Peer::Stdio, target);
    match event_loop.run()?.last {
        Some(Ending::Complete) | None => Ok(()),
        // Whoever does not read to the end has seen enough, as of vsockctl.
        Some(Ending::Refused(Side::Peer, Errno::EPIPE)) => Ok(()),
        Some(Ending::Refused(Side::Peer, source)) => {
            Err(Error::system("write to standard output")(source))
        }
        Some(Ending::Broken(Side::Peer, source)) => {
            Err(Error::system("read standard input")(source))
        }
        Some(ending) => Err(Error::Ended(format!("to {name} {ending}"))),
    }
}
