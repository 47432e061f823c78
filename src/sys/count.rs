//! What the kernel counts of a socket, a pipe or a device: bytes on the way, time, the CID of this machine.

use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

nix::ioctl_read_bad!(
    /// SIOCOUTQ (tcp(7)).
    get_unacknowledged,
    0x5411,
    libc::c_int
);

/// Returns how many bytes, an end counted as one, the other end has not acknowledged.
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut count = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for one.
    unsafe { get_unacknowledged(socket.as_raw_fd(), &mut count) }?;
    Ok(count)
}

nix::ioctl_read_bad!(
    /// FIONREAD (pipe(7)).
    get_readable,
    libc::FIONREAD,
    libc::c_int
);

/// Returns how many bytes are in a pipe, or wait in a socket.
pub(crate) fn readable_bytes(pipe: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut count = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for one.
    unsafe { get_readable(pipe.as_raw_fd(), &mut count) }?;
    Ok(count as usize)
}

/// How long the other end of a TCP connection has said nothing, and how often it was asked since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// Since its last acknowledgement of anything.
    pub time: Duration,
    /// Since bytes were last sent to it.
    pub sent: Duration,
    /// Retransmissions, and looks for room, since then.
    pub tries: u32,
}

/// Asks a TCP socket about [`Silence`] (TCP_INFO, tcp(7)).
pub(crate) fn silence(socket: BorrowedFd<'_>) -> Result<Silence, Errno> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer is valid for `length` bytes, and the kernel writes no more than that.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    // SAFETY: all of it is numbers, and what the kernel has not written is zero.
    let info = unsafe { info.assume_init() };
    Ok(Silence {
        time: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        sent: Duration::from_millis(info.tcpi_last_data_sent.into()),
        tries: u32::from(info.tcpi_retransmits) + u32::from(info.tcpi_probes),
    })
}

nix::ioctl_read_bad!(
    /// IOCTL_VM_SOCKETS_GET_LOCAL_CID (vsock(7)).
    get_local_cid, 0x7b9, libc::c_uint
);

/// Asks an open /dev/vsock for the CID of this machine; `u32::MAX` when it has none.
pub(crate) fn local_cid(device: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut cid = 0;
    // SAFETY: the kernel writes one unsigned int to the pointer, which is valid for one.
    unsafe { get_local_cid(device.as_raw_fd(), &mut cid) }?;
    Ok(cid)
}
