//! Where a machine is reached.

use std::fmt;

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

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Cid(cid) => write!(f, "CID {cid}"),
            Location::Hybrid(socket) => socket.fmt(f),
        }
    }
}
