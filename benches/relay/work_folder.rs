//! A folder of this process alone for sockets, configuration files and logs, removed at the end.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};

/// Everybody may come in: some relays run as an ordinary user and make their own sockets here.
const MODE: u32 = 0o1777;

/// The folder.
#[derive(Debug)]
pub struct WorkFolder(PathBuf);

impl WorkFolder {
    /// Makes it; the path is short because a unix socket's path has 107 bytes.
    pub fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("vsock-bridge-bench.{}", std::process::id()));
        fs::create_dir(&path).doing(|| format!("create {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(MODE))
            .doing(|| format!("open {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Copies our program here: a build during the run must not change what is measured, and an ordinary user may not
    /// reach the build folder. Without a program the place where it would be.
    pub fn copy_program(&self, program: &Path) -> Result<PathBuf> {
        let copy = self.0.join("vsock-bridge");
        if program.exists() {
            fs::copy(program, &copy).doing(|| format!("copy {}", program.display()))?;
        }
        Ok(copy)
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // What cannot be removed is in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
