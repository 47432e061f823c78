//! The calls that nix lacks or gives only for raw numbers; the one file with `unsafe`.
//!
//! No policy and no logging: each function is one system call with owned or borrowed descriptors.
#![allow(
    unsafe_code,
    reason = "the only file that may; every block says why it is sound"
)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag,
    SockType, SockaddrLike, SockaddrStorage,
};

/// Options of AF_VSOCK sockets, which libc does not name (include/uapi/linux/vm_sockets.h).
pub mod vsock_option {
    use nix::libc;
    use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

    const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
    const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;
    const SO_VM_SOCKETS_CONNECT_TIMEOUT: libc::c_int = 6;

    sockopt_impl!(
        /// Bytes that may wait unread in the socket, and so the credit given to the other end.
        BufferSize, Both, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, u64
    );
    sockopt_impl!(
        /// The bound of [`BufferSize`] in bytes.
        BufferMaxSize, Both, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, u64
    );
    sockopt_impl!(
        /// How long a connect may take; 2 s by default, for non-blocking ones as well.
        ConnectTimeout, Both, libc::AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, nix::sys::time::TimeVal
    );
}

nix::ioctl_read_bad!(
    /// IOCTL_VM_SOCKETS_GET_LOCAL_CID (vsock(7)).
    get_local_cid, 0x7b9, libc::c_uint
);

nix::ioctl_read_bad!(
    /// SIOCOUTQ (tcp(7)).
    get_unacknowledged,
    0x5411,
    libc::c_int
);

/// Tells how many bytes, an end counted as one, the other end has not acknowledged.
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut count = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for one.
    unsafe { get_unacknowledged(socket.as_raw_fd(), &mut count) }?;
    Ok(count)
}

/// Reads from a unix socket; the flag tells that it stopped at a descriptor, which was passed along and is dropped.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, bool), Errno> {
    let mut buffers = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let message = socket::recvmsg::<()>(socket.as_raw_fd(), &mut buffers, None, flags)?;
    Ok((message.bytes, message.flags.contains(MsgFlags::MSG_CTRUNC)))
}

/// Asks an open /dev/vsock for the CID of this machine; `u32::MAX` when it has none.
pub fn local_cid(device: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut cid = 0;
    // SAFETY: the kernel writes one unsigned int to the pointer, which is valid for one.
    unsafe { get_local_cid(device.as_raw_fd(), &mut cid) }?;
    Ok(cid)
}

/// Takes one connection from a listener, non-blocking and close-on-exec, with the address of its peer.
pub fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Option<SockaddrStorage>), Errno> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the pointer is valid for `length` bytes, and the kernel writes no more than that.
    let number = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &mut length,
            flags,
        )
    };
    let number = Errno::result(number)?;
    // SAFETY: accept4 succeeded, so the number is an open descriptor that nobody else has.
    let stream = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: the storage was zeroed, then filled with an address of `length` bytes.
    let address = unsafe { SockaddrStorage::from_raw(storage.as_ptr().cast(), Some(length)) };
    Ok((stream, address))
}

/// Makes a non-blocking, close-on-exec stream socket.
pub fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket::socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// connect(2).
pub fn connect(socket: BorrowedFd<'_>, address: &dyn SockaddrLike) -> Result<(), Errno> {
    socket::connect(socket.as_raw_fd(), address)
}

/// bind(2).
pub fn bind(socket: BorrowedFd<'_>, address: &dyn SockaddrLike) -> Result<(), Errno> {
    socket::bind(socket.as_raw_fd(), address)
}

/// shutdown(2).
pub fn shutdown(socket: BorrowedFd<'_>, how: Shutdown) -> Result<(), Errno> {
    socket::shutdown(socket.as_raw_fd(), how)
}

/// The address that a socket is bound to.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<SockaddrStorage, Errno> {
    socket::getsockname(socket.as_raw_fd())
}

/// The address of the other end.
pub fn peer_address(socket: BorrowedFd<'_>) -> Result<SockaddrStorage, Errno> {
    socket::getpeername(socket.as_raw_fd())
}

/// Tells whether the socket is a listening one (SO_ACCEPTCONN).
pub fn is_listening(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    socket::getsockopt(&socket, socket::sockopt::AcceptConn)
}

/// Takes stdin and stdout away from the program and leaves /dev/null in their place.
///
/// Without that a stdout that is a pipe would stay open, and so would never tell its reader the end.
pub fn take_stdio() -> Result<(OwnedFd, OwnedFd), Errno> {
    let null = nix::fcntl::open(
        "/dev/null",
        nix::fcntl::OFlag::O_RDWR,
        nix::sys::stat::Mode::empty(),
    )?;
    Ok((
        take_number(libc::STDIN_FILENO, &null)?,
        take_number(libc::STDOUT_FILENO, &null)?,
    ))
}

fn take_number(number: RawFd, substitute: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: only for these calls; a closed number gives EBADF, which is returned.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let taken = nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: both numbers are open, and dup2 replaces the second in one step.
    Errno::result(unsafe { libc::dup2(substitute.as_raw_fd(), number) })?;
    // SAFETY: F_DUPFD_CLOEXEC succeeded, so the number is an open descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(taken) })
}

/// Sends one byte with one descriptor over a unix socket (SCM_RIGHTS, unix(7)).
pub fn send_descriptor(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let byte = [IoSlice::new(&[0])];
    let descriptors = [descriptor.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    socket::sendmsg::<()>(
        socket.as_raw_fd(),
        &byte,
        &message,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// Receives what [`send_descriptor`] sent; none when the other end closed without sending one.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0];
    let mut buffer = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = socket::recvmsg::<()>(socket.as_raw_fd(), &mut buffer, Some(&mut space), flags)?;
    let number = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just installed this descriptor for us, and nobody else has it.
    Ok(number.map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Sends descriptors over a unix socket, at most 253 (SCM_MAX_FD).
pub fn send_descriptors(
    socket: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let byte = [IoSlice::new(&[0])];
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let message = [ControlMessage::ScmRights(&numbers)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    socket::sendmsg::<()>(socket.as_raw_fd(), &byte, &message, flags, None).map(drop)
}

/// Receives what [`send_descriptors`] sent at once; none at the end.
pub fn receive_descriptors(socket: BorrowedFd<'_>) -> Result<Option<Vec<OwnedFd>>, Errno> {
    let mut byte = [0];
    let mut buffer = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 253]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = socket::recvmsg::<()>(socket.as_raw_fd(), &mut buffer, Some(&mut space), flags)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just installed these descriptors for us, and nobody else has them.
            descriptors.extend(
                numbers
                    .into_iter()
                    .map(|number| unsafe { OwnedFd::from_raw_fd(number) }),
            );
        }
    }
    Ok(Some(descriptors))
}

/// Removes what systemd left in the environment for this process, so that no child takes it for its own.
///
/// Must be called before the first thread is made.
pub fn forget_activation() {
    // SAFETY: the caller is still the only thread, so nobody reads the environment meanwhile.
    // The result was read before; only the removal is wanted.
    let _ = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }.map(drop);
}

/// Borrows a passed descriptor by its number, to ask what it is.
pub fn probe<T>(number: RawFd, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: only for this call; a number that is not open makes the question fail with EBADF.
    ask(unsafe { BorrowedFd::borrow_raw(number) }.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_sent_is_the_descriptor_received() {
        let pair = || {
            socket::socketpair(
                AddressFamily::Unix,
                SockType::Stream,
                None,
                SockFlag::SOCK_CLOEXEC,
            )
            .unwrap()
        };
        let (here, there) = pair();
        let (sent, other) = pair();
        send_descriptor(here.as_fd(), sent.as_fd()).unwrap();
        let received = receive_descriptor(there.as_fd()).unwrap().unwrap();
        nix::unistd::write(&received, b"x").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&other, &mut byte), Ok(1));
    }

    #[test]
    fn an_end_that_closes_without_sending_gives_none() {
        let (here, there) = socket::socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        drop(here);
        assert!(receive_descriptor(there.as_fd()).unwrap().is_none());
    }
}
