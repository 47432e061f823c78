//! The name of a unix socket.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::invalid::Invalid;

/// Bytes of a path, or of an abstract name, that fit into an address (sun_path without a NUL).
pub const ADDRESS_BYTES_MAX: usize = 107;
/// Bytes of a path that the kernel opens (PATH_MAX without its NUL).
const PATH_BYTES_MAX: usize = 4095;
/// Bytes of one name in it (NAME_MAX).
const NAME_BYTES_MAX: usize = 255;

/// The name of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixName {
    /// An absolute path.
    Path(PathBuf),
    /// An abstract name of 1 to 107 bytes, without the leading NUL that the kernel adds.
    Abstract(String),
    /// A socket without a name, as made by socketpair(2); has no text form to read.
    Unnamed,
}

impl UnixName {
    /// Reads `/path` or `@name`; nothing else is the name of a unix socket.
    pub fn parse(text: &str) -> Result<UnixName, Invalid> {
        let fail = |hint: &str| Err(Invalid::new("unix socket", text, hint));
        if text.contains('\0') {
            return fail("contains a NUL byte");
        }
        match text.as_bytes() {
            [b'@'] => fail("the abstract name is empty"),
            [b'@', name @ ..] if name.len() > ADDRESS_BYTES_MAX => {
                fail("longer than the 107 bytes that the kernel allows an abstract name")
            }
            [b'@', ..] => Ok(UnixName::Abstract(text[1..].to_owned())),
            [b'/', ..] if text.len() > PATH_BYTES_MAX => {
                fail("longer than the 4095 bytes that the kernel allows a path")
            }
            [b'/', ..] if text.split('/').any(|name| name.len() > NAME_BYTES_MAX) => {
                fail("a name in it is longer than the 255 bytes that the kernel allows")
            }
            [b'/', _, ..] => Ok(UnixName::Path(Path::new(text).to_owned())),
            _ => fail("expected an absolute path or @name"),
        }
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixName::Path(path) => path.display().fmt(f),
            UnixName::Abstract(name) => write!(f, "@{name}"),
            UnixName::Unnamed => write!(f, "(unnamed unix socket)"),
        }
    }
}
