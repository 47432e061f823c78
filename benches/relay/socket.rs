//! Makes sockets of all kinds alike: listen, connect, accept. Every descriptor is non-blocking and close-on-exec, and
//! TCP sends without delay, so that a late byte is the relay's doing.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, SockaddrLike, UnixAddr, VsockAddr,
    bind, connect, listen, socket,
};
use socket2::SockRef;

use crate::address::{Address, Kind};
use crate::error::{Doing, Result};

/// Connections that may wait for a relay; systemd's default, which the kernel cuts to its own limit.
const BACKLOG: i32 = 4096;

/// How long a connect to a full backlog may block.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Below the ports that the kernel gives to outgoing connections, so that those never take a listener's port.
const FIRST_PORT: u16 = 12_000;
const LAST_PORT: u16 = 32_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// Counts up through the ports, from a place that differs between processes.
fn next_port() -> u16 {
    let span = LAST_PORT - FIRST_PORT;
    let offset = (std::process::id() % u32::from(span)) as u16;
    FIRST_PORT + (NEXT_PORT.fetch_add(1, Ordering::Relaxed) + offset) % span
}

fn raw_address(address: &Address) -> io::Result<Box<dyn SockaddrLike>> {
    Ok(match address {
        Address::Tcp6(address) => Box::new(SockaddrIn6::from(*address)),
        Address::Unix(path) => Box::new(UnixAddr::new(path)?),
        Address::Vsock { cid, port } => Box::new(VsockAddr::new(*cid, *port)),
    })
}

fn new_socket(address: &Address) -> nix::Result<OwnedFd> {
    let family = match address {
        Address::Tcp6(_) => AddressFamily::Inet6,
        Address::Unix(_) => AddressFamily::Unix,
        Address::Vsock { .. } => AddressFamily::Vsock,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}

/// Listens on a new address of the kind. Every run has its own, so that no run meets the remains of another.
pub fn listen_somewhere(kind: Kind, folder: &Path) -> Result<(OwnedFd, Address)> {
    loop {
        let address = kind.address(next_port(), folder);
        match listen_on(&address) {
            Err(source) if source.raw_os_error() == Some(libc::EADDRINUSE) => continue,
            listener => return Ok((listener.doing(|| format!("listen on {address}"))?, address)),
        }
    }
}

/// Finds an address that a relay can listen on itself.
pub fn free_address(kind: Kind, folder: &Path) -> Result<Address> {
    let (listener, address) = listen_somewhere(kind, folder)?;
    drop(listener);
    if let Address::Unix(path) = &address {
        std::fs::remove_file(path).doing(|| format!("remove {}", path.display()))?;
    }
    Ok(address)
}

fn listen_on(address: &Address) -> io::Result<OwnedFd> {
    let listener = new_socket(address)?;
    match address {
        // A fixed CID can only be bound once its transport is there.
        Address::Vsock { port, .. } => {
            let any_cid = VsockAddr::new(libc::VMADDR_CID_ANY, *port);
            bind(listener.as_raw_fd(), &any_cid)?;
        }
        other => bind(listener.as_raw_fd(), &*raw_address(other)?)?,
    }
    if let Address::Unix(path) = address {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

/// Makes a connection or starts to; it is usable once it is writable.
pub fn connect_to(address: &Address) -> io::Result<File> {
    let stream = new_socket(address)?;
    match address {
        // A unix connect cannot be waited for: with a full backlog it fails at once or blocks.
        Address::Unix(_) => connect_blocking(&stream, address)?,
        Address::Tcp6(_) | Address::Vsock { .. } => {
            match connect(stream.as_raw_fd(), &*raw_address(address)?) {
                Err(Errno::EINPROGRESS) | Ok(()) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    without_delay(&stream);
    Ok(File::from(stream))
}

fn connect_blocking(stream: &OwnedFd, address: &Address) -> io::Result<()> {
    let options = SockRef::from(stream);
    options.set_write_timeout(Some(CONNECT_LIMIT))?;
    options.set_nonblocking(false)?;
    connect(stream.as_raw_fd(), &*raw_address(address)?)?;
    options.set_nonblocking(true)
}

/// Takes the next connection of a listener; `None` when there is none.
pub fn accept_from(listener: &OwnedFd) -> io::Result<Option<File>> {
    use io::ErrorKind::{ConnectionAborted, WouldBlock};
    match SockRef::from(listener).accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(true)?;
            without_delay(&stream);
            Ok(Some(File::from(OwnedFd::from(stream))))
        }
        Err(error) if matches!(error.kind(), WouldBlock | ConnectionAborted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Only TCP knows the option; on the others it fails and nothing is lost.
fn without_delay(stream: &impl AsFd) {
    let _ = SockRef::from(stream).set_tcp_nodelay(true);
}

/// Ends the inbound flow and keeps the outbound one.
pub fn half_close(stream: &File) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)
}

/// Makes the following close a reset, so that thousands of closed connections leave no TIME_WAIT for the next run.
pub fn discard_on_close(stream: &impl AsFd) {
    // A socket that is gone already needs no option.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Waits until a connection that was started is there.
pub fn wait_until_connected(stream: &File, limit: Duration) -> io::Result<()> {
    let mut watched = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, limit)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Limits how long a blocking read may wait.
pub fn block_with_limit(stream: &File, limit: Duration) -> io::Result<()> {
    let options = SockRef::from(stream);
    options.set_read_timeout(Some(limit))?;
    options.set_write_timeout(Some(limit))?;
    options.set_nonblocking(false)
}
