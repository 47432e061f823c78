//! Files of others that we write into: read whole, and replaced only if that changes them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::libc;

use crate::error::{Error, Result};
use crate::replace::replace;

/// Replaces the file if that changes it.
pub(super) fn put(path: &Path, old: &[u8], new: &[u8]) -> Result<()> {
    if old == new {
        log::info!("{} needs no change", path.display());
        return Ok(());
    }
    replace(path, new).map_err(|source| match source.raw_os_error() {
        // To write into the file as it is could leave half of it.
        Some(libc::EBUSY) => Error::Mounted {
            path: path.to_owned(),
        },
        _ => Error::file("write", path)(source),
    })?;
    log::info!("{} is written", path.display());
    Ok(())
}

/// Reads a file of any size; one that does not exist is empty.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}
