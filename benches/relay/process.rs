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

/// A running relay.
#[derive(Debug)]
pub struct RelayProcess {
    child: Child,
    /// Goes after it.
    _store: Store,
}

impl RelayProcess {
    /// Starts `program`, which may put descriptors into the store. With a listener it is handed over; with a user it runs as
    /// that one.
    pub fn start(
        program: &Path,
        arguments: &[String],
        listener: Option<OwnedFd>,
        user: Option<u32>,
        store: Store,
        log: File,
    ) -> Result<Self> {
        // The relay must not outlive the bench, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        match listener {
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
        command.arg(program).args(arguments);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NOTIFY_SOCKET", store.path());
        command.process_group(0).stdout(Stdio::null()).stderr(log);
        let child = command
            .spawn()
            .doing(|| format!("start {}", program.display()))?;
        Ok(Self {
            child,
            _store: store,
        })
    }

    /// The process group, which is also the first process.
    pub fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// True once it has ended by itself.
    pub fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(
            waitid(Id::Pid(self.group()), flags),
            Ok(WaitStatus::StillAlive)
        )
    }
}

impl Drop for RelayProcess {
    /// The first process stays a zombie until all others of its group have got the last signal, so that the number
    /// cannot have become somebody else's.
    fn drop(&mut self) {
        let _ = killpg(self.group(), Signal::SIGTERM);
        let deadline = Instant::now() + END_LIMIT;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(END_POLL);
        }
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
