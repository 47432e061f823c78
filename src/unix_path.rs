//! Unix sockets at paths: of any length, and made where nobody listens any more.
//!
//! sockaddr_un takes 107 bytes, and the file system takes more. A path that does not fit is opened without access (O_PATH,
//! open(2)) and named by its descriptor, as `/proc/self/fd/N`. A path that fits needs no /proc.

use std::fs::{self, Metadata};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::poll::poll;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use nix::sys::stat::{Mode, umask};

use crate::sys;

/// What ProtectHome= hides from a service (systemd.exec(5)).
pub(crate) const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// What PrivateTmp= replaces.
pub(crate) const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// How often another bridge is waited for that replaces a socket in the same folder, which takes it a few system calls.
const LOCK_ATTEMPTS: usize = 200;
/// For how long each time.
const LOCK_PAUSE_MS: u8 = 10;

/// Returns whether both paths lead to one file.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path| fs::symlink_metadata(path).map(|file| identity(&file)).ok();
    file(one).is_some_and(|found| file(other) == Some(found))
}

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

/// A socket at a path that this process has made. Dropped, it removes the file, unless that is somebody else's by then.
#[derive(Debug)]
pub(crate) struct Made {
    path: PathBuf,
    file: (u64, u64),
}

impl Drop for Made {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.file) {
            // Whoever may not remove it leaves what the next start replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a socket to a path, with these permissions from its first moment on; what another process has left behind there is
/// replaced.
///
/// Errors: those of [`bind`]; `EADDRINUSE` where a process has the path, `EEXIST` where there is something else than a socket.
pub(crate) fn make(socket: BorrowedFd<'_>, path: &Path, mode: Mode) -> Result<Made, Errno> {
    let bind_once = || {
        // Of the whole process, whose other threads make no files.
        let before = umask(Mode::all() & !mode);
        let bound = bind(socket, path);
        umask(before);
        bound
    };
    match bind_once() {
        Err(Errno::EADDRINUSE) => {
            clear(path)?;
            bind_once()?;
        }
        bound => bound?,
    }
    let file = fs::symlink_metadata(path).map_err(errno)?;
    Ok(Made {
        path: path.to_owned(),
        file: identity(&file),
    })
}

/// Removes a socket that no process has any more; all bridges do so one after the other in a folder, or a slower one would
/// remove what a faster one has just made.
fn clear(path: &Path) -> Result<(), Errno> {
    let _lock = lock(path.parent().ok_or(Errno::EINVAL)?)?;
    match fs::symlink_metadata(path).map_err(errno) {
        // Its process has removed it just now.
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
        Ok(file) if !file.file_type().is_socket() => Err(Errno::EEXIST),
        Ok(_) if is_bound(path) => Err(Errno::EADDRINUSE),
        Ok(_) => fs::remove_file(path).map_err(errno),
    }
}

/// Takes the lock of a folder. Everybody who may read it can take that, too, so it is waited for only so long.
fn lock(folder: &Path) -> Result<Flock<OwnedFd>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = open(folder, flags, Mode::empty())?;
    for _ in 0..LOCK_ATTEMPTS {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) => folder = unlocked,
            Err((_, errno)) => return Err(errno),
        }
        poll(&mut [], LOCK_PAUSE_MS)?;
    }
    Err(Errno::EADDRINUSE)
}

/// Returns whether a process has the socket, as far as this one may know: else it is taken for one that does.
///
/// A datagram is no stream, so whoever listens there has nobody to accept: the kernel says EPROTOTYPE of a stream that is
/// bound, whether it listens yet or not, and ECONNREFUSED of a file that is left (unix_find_bsd, net/unix/af_unix.c).
fn is_bound(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asked = socket(AddressFamily::Unix, SockType::Datagram, flags, None)
        .and_then(|datagram| connect(datagram.as_fd(), path));
    asked != Err(Errno::ECONNREFUSED)
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
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
