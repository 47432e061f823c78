//! Files of the generator.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a drop-in, and makes its folder.
///
/// Errors: [`Unusable::File`](crate::unusable::Unusable::File).
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let write = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)
    };
    write().map_err(Error::file("write", path))
}
