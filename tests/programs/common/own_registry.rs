//! A folder that stands for /run/vsock-bridge, for a bridge that needs names of machines.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::bridge::Bridge;
use super::{own_folder, skipped};

/// What is /run/vsock-bridge to a bridge: empty at first.
pub struct Registry(TempDir);

impl Registry {
    pub fn new() -> Registry {
        Registry(own_folder())
    }

    /// None where nothing can be mounted.
    pub fn given_to(&self, bridge: Bridge) -> Option<Bridge> {
        let Some(bridge) = bridge.with_hidden(&["/run"]) else {
            skipped("nothing can be mounted here");
            return None;
        };
        let own = self.0.path().display();
        let mount = format!("mkdir /run/vsock-bridge && mount --bind '{own}' /run/vsock-bridge");
        Some(bridge.shell(&mount))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("names.d").join(name)
    }

    /// Writes a file in one step.
    pub fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path("")).unwrap();
        fs::write(self.path(".new"), text).unwrap();
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }
}
