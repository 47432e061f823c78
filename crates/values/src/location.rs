//! Where a machine is reached.

use std::fmt;
use std::str::FromStr;

use crate::invalid::Invalid;
use crate::unix_name::UnixName;
use crate::vsock::Cid;

/// Where a machine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Over vsock.
    Cid(Cid),
    /// Over hybrid vsock: the socket of its VMM.
    Hybrid(UnixName),
}

impl FromStr for Location {
    type Err = Invalid;

    /// Reads `3`, or the path of a socket without white space, which separates names and begins a comment.
    fn from_str(text: &str) -> Result<Location, Invalid> {
        if !text.starts_with('/') {
            return text.parse().map(Location::Cid);
        }
        if text.contains(char::is_whitespace) {
            let hint = "expected a path without spaces; a comment has a line of its own";
            return Err(Invalid::new("unix socket", text, hint));
        }
        UnixName::parse(text).map(Location::Hybrid)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Cid(cid) => write!(f, "CID {cid}"),
            Location::Hybrid(socket) => socket.fmt(f),
        }
    }
}
