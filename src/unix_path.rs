//! Unix sockets at paths of any length: sockaddr_un takes 107 bytes, and the file system takes more.
//!
//! A path that does not fit is opened without access (O_PATH, open(2)) and named by its descriptor, as
//! `/proc/self/fd/N`. A path that fits needs no /proc.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::UnixAddr;
use nix::sys::stat::Mode;

use crate::sys;

/// What ProtectHome= hides from a service (systemd.exec(5)).
pub(crate) const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// What PrivateTmp= replaces.
pub(crate) const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Returns whether a path is in one of the folders, or is one.
pub(crate) fn is_below(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Connects to the socket at a path.
///
/// Errors: those of connect(2) and open(2); `ENAMETOOLONG` for a path over 107 bytes where /proc is missing.
pub(crate) fn connect(socket: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    match UnixAddr::new(path) {
        Err(Errno::ENAMETOOLONG) => {}
        address => return sys::connect(socket, &address?),
    }
    // The socket itself: the way to it may change meanwhile, and a name of any length will do.
    let place = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::connect(socket, &UnixAddr::new(&by_descriptor(&place))?).map_err(without_proc)
}

/// Makes a socket at a path, where nothing may be yet.
///
/// Errors: those of bind(2) and open(2); `ENAMETOOLONG` for a path over 107 bytes where /proc is missing, or whose last
/// name has more than about 80 bytes.
pub fn bind(socket: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    match UnixAddr::new(path) {
        Err(Errno::ENAMETOOLONG) => {}
        address => return sys::bind(socket, &address?),
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL);
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    let short = by_descriptor(&folder).join(name);
    sys::bind(socket, &UnixAddr::new(&short)?).map_err(without_proc)
}

fn by_descriptor(place: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", place.as_raw_fd()).into()
}

/// What has just been opened is there, so that it is /proc which is not.
fn without_proc(errno: Errno) -> Errno {
    match errno {
        Errno::ENOENT => Errno::ENAMETOOLONG,
        errno => errno,
    }
}
