//! A folder that stands for /etc, for the programs that are started with it.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// With a machine id only; without the rest of what the machine has.
pub struct OwnEtc {
    directory: TempDir,
    /// Shell commands that end with `&&`, for what else is to be mounted.
    pub prelude: String,
}

impl OwnEtc {
    /// None when nothing can be mounted here.
    pub fn new() -> Option<OwnEtc> {
        let directory = tempfile::tempdir().unwrap();
        let etc = OwnEtc {
            directory,
            prelude: String::new(),
        };
        etc.write("machine-id", "0123456789abcdef0123456789abcdef\n");
        let works = etc.command("true").status();
        works.is_ok_and(|status| status.success()).then_some(etc)
    }

    /// What is /etc/NAME to the programs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The names of what is in a folder of it.
    pub fn list(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Begins a command that sees the folder as /etc, without the environment of the test.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        // An ordinary user is root among the namespaces of their own.
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let etc = self.directory.path().display();
        let script = format!(
            "mount --bind '{etc}' /etc && {}exec \"$0\" \"$@\"",
            self.prelude
        );
        command.args(["--mount", "sh", "-c", &script]).arg(program);
        command
    }

    /// What starts a bridge that sees the folder as /etc.
    pub fn wrapper(&self) -> String {
        format!(
            "unshare --map-root-user --mount sh -c 'mount --bind \"{}\" /etc && exec \"$0\" \"$@\"'",
            self.directory.path().display()
        )
    }
}
