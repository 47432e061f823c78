//! Starts vsock-bridge as systemd does: descriptors from 3 on, LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::resource::{Resource, getrlimit};

use super::place::Place;
use super::program::{Finished, Program, command, finish, ours, with_own_settings};

/// What LISTEN_PID is set to.
#[derive(Debug)]
enum ListenPid {
    Own,
    Missing,
    Text(String),
}

/// Leaves root no right to pass over the permissions of files.
pub const DROP_RIGHTS: &str =
    "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all";

/// Returns whether the shell can do it here.
pub fn works(script: &str) -> bool {
    let mut shell = command("sh");
    shell.arg("-c").arg(script);
    finish(shell).code == 0
}

/// How many connections a bridge can promise where that is fewer than it does by itself, and has a line in its log.
fn connections_possible() -> Option<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let possible = hard.saturating_sub(128) / 2;
    (possible < 4096).then_some(possible)
}

#[derive(Debug)]
pub struct Bridge {
    program: &'static str,
    descriptors: Vec<OwnedFd>,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, Option<OsString>)>,
    pid: ListenPid,
    /// Shell commands before the program starts.
    prelude: String,
    /// A program that starts it in its place.
    wrapper: String,
    is_unshared: bool,
}

impl Bridge {
    /// A bridge to a target, that gets no socket yet.
    pub fn to(target: &str) -> Bridge {
        Bridge::bare().arguments(&["--to", target])
    }

    /// A bridge without target.
    pub fn bare() -> Bridge {
        Bridge {
            program: "vsock-bridge",
            descriptors: Vec::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
            pid: ListenPid::Own,
            prelude: String::new(),
            wrapper: String::new(),
            is_unshared: false,
        }
    }

    /// Another program of ours, which gets its sockets in the same way.
    pub fn program(name: &'static str) -> Bridge {
        Bridge {
            program: name,
            ..Bridge::bare()
        }
    }

    /// Passes a listening socket; the place keeps it, too.
    pub fn listener(self, place: &Place) -> Bridge {
        self.descriptor(place.descriptor())
    }

    /// Passes any descriptor.
    pub fn descriptor(mut self, descriptor: impl Into<OwnedFd>) -> Bridge {
        self.descriptors.push(descriptor.into());
        self
    }

    pub fn arguments<S: AsRef<OsStr>>(mut self, arguments: &[S]) -> Bridge {
        self.arguments
            .extend(arguments.iter().map(|a| a.as_ref().to_owned()));
        self
    }

    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Bridge {
        self.variables
            .push((name.into(), Some(value.as_ref().to_owned())));
        self
    }

    pub fn without_variable(mut self, name: &str) -> Bridge {
        self.variables.push((name.into(), None));
        self
    }

    pub fn without_pid(mut self) -> Bridge {
        self.pid = ListenPid::Missing;
        self
    }

    pub fn pid(mut self, text: &str) -> Bridge {
        self.pid = ListenPid::Text(text.to_owned());
        self
    }

    /// Has the shell that becomes the program run a command before.
    pub fn shell(mut self, command: &str) -> Bridge {
        self.prelude += &format!("{command} && ");
        self
    }

    /// Limits the descriptors that it may open, for good.
    pub fn open_files(self, limit: u32) -> Bridge {
        self.shell(&format!("ulimit -n {limit}"))
    }

    /// Has permissions of files hold for root, too; none when that cannot be done.
    pub fn without_root_rights(mut self) -> Option<Bridge> {
        if nix::unistd::geteuid().is_root() {
            self.wrapper = DROP_RIGHTS.to_owned();
        }
        works(&format!("{} true", self.wrapper)).then_some(self)
    }

    /// Has another program start it.
    pub fn wrapped(mut self, wrapper: String) -> Bridge {
        self.wrapper = wrapper;
        self
    }

    /// Hides directories behind empty ones; none when that cannot be done.
    pub fn with_hidden(mut self, directories: &[&str]) -> Option<Bridge> {
        for directory in directories {
            self.prelude += &format!("mount -t tmpfs none {directory} && ");
        }
        self.is_unshared = true;
        works(&format!(
            "unshare --map-root-user --mount sh -c '{}true'",
            self.prelude
        ))
        .then_some(self)
    }

    pub fn start(self) -> Program {
        Program::start(self.command())
    }

    /// Starts it with a stderr that is for the caller to read, or for nobody.
    pub fn start_unheard(self, stderr: File) -> Program {
        Program::start_unheard(self.command(), stderr)
    }

    /// Runs one that ends by itself.
    pub fn finish(self) -> Finished {
        finish(self.command())
    }

    fn command(self) -> Command {
        let mut shell = match self.is_unshared {
            true => command("unshare"),
            false => command("sh"),
        };
        if self.is_unshared {
            shell.args(["--map-root-user", "--mount", "sh"]);
        }
        shell.arg("-c").arg(self.script());
        shell.arg(ours(self.program)).args(&self.arguments);
        with_own_settings(&mut shell).env("LISTEN_FDS", self.descriptors.len().to_string());
        if let Some(limit) = connections_possible().filter(|_| self.program == "vsock-bridge") {
            shell.env("VSOCK_BRIDGE_MAX_CONNECTIONS", limit.to_string());
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let ListenPid::Text(text) = &self.pid {
            shell.env("LISTEN_PID", text);
        }
        let mappings = self.descriptors.into_iter().zip(3..);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        shell.fd_mappings(mappings.collect()).unwrap();
        shell
    }

    /// Only the process itself knows its number, which the shell keeps when it becomes the program.
    fn script(&self) -> String {
        let pid = match self.pid {
            ListenPid::Own => "LISTEN_PID=$$ && export LISTEN_PID && ",
            _ => "",
        };
        let is_watched = self
            .variables
            .iter()
            .any(|(name, _)| name == "WATCHDOG_USEC");
        let watchdog = if is_watched {
            "WATCHDOG_PID=$$ && export WATCHDOG_PID && "
        } else {
            ""
        };
        let (prelude, wrapper) = (&self.prelude, &self.wrapper);
        format!(r#"{prelude}{pid}{watchdog}exec {wrapper} "$0" "$@""#)
    }
}

/// How often the threads of that name have woken up, if there are any.
pub fn wakeups(bridge: &Program, name: &str) -> Option<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", bridge.pid())).unwrap();
    let count = |task: std::path::PathBuf| {
        let comm = std::fs::read_to_string(task.join("comm")).ok()?;
        let status = std::fs::read_to_string(task.join("status")).ok()?;
        let mut lines = status.lines();
        let switches = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        (comm.trim_end() == name).then(|| switches.trim().parse::<u64>().unwrap())
    };
    tasks
        .filter_map(|task| count(task.unwrap().path()))
        .reduce(|sum, more| sum + more)
}
