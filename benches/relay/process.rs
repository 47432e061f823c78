//! Starts one relay as systemd would, and ends it with everything that it started. Only groups made here are signalled.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::error::{Doing, Result};
use crate::store::Store;

/// How long a relay without connections may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);
const END_POLL: Duration = Duration::from_millis(5);

/// The shell names its own process as the receiver and then becomes the relay: LISTEN_PID must be the relay's own, and
/// the listener must be descriptor 3 (sd_listen_fds(3)).
const AS_ACTIVATED: &str =
    r#"export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=bench; exec "$@" 3<&0 </dev/null"#;

/// What one process of a relay is told. With a listener, that is handed over.
#[derive(Debug)]
pub struct Hop {
    pub arguments: Vec<String>,
    pub listener: Option<OwnedFd>,
}

/// A running relay.
#[derive(Debug)]
pub struct RelayProcess {
    /// All in the group of the first.
    children: Vec<Child>,
    /// Goes after them.
    store: Store,
}

impl RelayProcess {
    /// Starts `program` for each hop, which may put descriptors into the store; with a user it runs as that one.
    pub fn start(
        program: &Path,
        hops: Vec<Hop>,
        user: Option<u32>,
        store: Store,
        log: &File,
    ) -> Result<Self> {
        let mut process = Self {
            children: Vec::new(),
            store,
        };
        for hop in hops {
            let log = log.try_clone().doing(|| "open the log again".into())?;
            process.add(program, hop, user, log)?;
        }
        Ok(process)
    }

    fn add(&mut self, program: &Path, hop: Hop, user: Option<u32>, log: File) -> Result<()> {
        // The relay must not outlive the bench, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        match hop.listener {
            Some(listener) => {
                command
                    .args(["sh", "-c", AS_ACTIVATED, "sh"])
                    .stdin(listener);
            }
            None => {
                command.stdin(Stdio::null());
            }
        }
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.arg(program).args(hop.arguments);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NOTIFY_SOCKET", self.store.path());
        let group = self.children.first().map_or(0, |first| first.id() as i32);
        command
            .process_group(group)
            .stdout(Stdio::null())
            .stderr(log);
        let child = command
            .spawn()
            .doing(|| format!("start {}", program.display()))?;
        self.children.push(child);
        Ok(())
    }

    /// The process group, which is also the first process.
    pub fn group(&self) -> Pid {
        pid(&self.children[0])
    }

    /// True once one of its processes has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.children.iter().any(has_ended)
    }
}

impl Drop for RelayProcess {
    /// The first process stays a zombie until all others of its group have got the last signal, so that the number
    /// cannot have become somebody else's.
    fn drop(&mut self) {
        if self.children.is_empty() {
            return;
        }
        let _ = killpg(self.group(), Signal::SIGTERM);
        let deadline = Instant::now() + END_LIMIT;
        while !self.children.iter().all(has_ended) && Instant::now() < deadline {
            std::thread::sleep(END_POLL);
        }
        let _ = killpg(self.group(), Signal::SIGKILL);
        for child in self.children.iter_mut().rev() {
            let _ = child.wait();
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

fn has_ended(child: &Child) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(
        waitid(Id::Pid(pid(child)), flags),
        Ok(WaitStatus::StillAlive)
    )
}
