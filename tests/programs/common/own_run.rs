//! A folder that stands for /run/vsock-bridge, for the programs that are started with it.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::bridge::{Bridge, DROP_RIGHTS};
use super::own_folder;
use super::program::{command, finish};

/// Empty at first. There is nothing else in /run, and so no systemd.
pub struct OwnRun(TempDir);

impl OwnRun {
    /// None when nothing can be mounted here.
    pub fn new() -> Option<OwnRun> {
        let run = OwnRun(own_folder());
        (finish(run.command("true")).code == 0).then_some(run)
    }

    /// Makes the folder of a service.
    pub fn service(&self, name: &str) -> PathBuf {
        let folder = self.0.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// Returns a bridge the folder of a service, as RuntimeDirectory= does.
    pub fn serve(&self, name: &str, bridge: Bridge) -> Bridge {
        bridge.variable("RUNTIME_DIRECTORY", self.service(name))
    }

    /// Names the control socket of a bridge, as the bridge does.
    pub fn control(&self, name: &str) -> PathBuf {
        self.0.path().join(name).join("control")
    }

    /// Begins a command that sees the folder in its place.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.wrapped("", program)
    }

    /// Begins one for which permissions of files hold, even if it is root's.
    pub fn command_without_rights(&self, program: impl AsRef<OsStr>) -> Command {
        self.wrapped(DROP_RIGHTS, program)
    }

    fn wrapped(&self, wrapper: &str, program: impl AsRef<OsStr>) -> Command {
        let mut unshare = command("unshare");
        let own = self.0.path().display();
        let script = format!(
            "mount -t tmpfs none /run && mkdir /run/vsock-bridge && \
             mount --bind '{own}' /run/vsock-bridge && exec {wrapper} \"$0\" \"$@\""
        );
        unshare.args(["--map-root-user", "--mount", "sh", "-c", &script]);
        unshare.arg(program);
        unshare
    }
}
