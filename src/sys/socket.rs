//! Sockets: made, bound, connected, accepted, shut down; their addresses and the options that nix does not name.

use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage,
};

/// Options of AF_VSOCK sockets, which libc does not name (include/uapi/linux/vm_sockets.h).
pub(crate) mod vsock_option {
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

/// Takes one connection from a listener, non-blocking and close-on-exec, with the address of its peer.
pub(crate) fn accept(
    listener: BorrowedFd<'_>,
) -> Result<(OwnedFd, Option<SockaddrStorage>), Errno> {
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
pub(crate) fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    connected_socket(family, SockType::Stream)
}

/// Makes a non-blocking, close-on-exec socket of a type that connects.
pub(crate) fn connected_socket(family: AddressFamily, kind: SockType) -> Result<OwnedFd, Errno> {
    socket::socket(
        family,
        kind,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// connect(2).
pub(crate) fn connect(socket: BorrowedFd<'_>, address: &dyn SockaddrLike) -> Result<(), Errno> {
    socket::connect(socket.as_raw_fd(), address)
}

/// bind(2).
pub(crate) fn bind(socket: BorrowedFd<'_>, address: &dyn SockaddrLike) -> Result<(), Errno> {
    socket::bind(socket.as_raw_fd(), address)
}

/// Breaks a TCP connection: the other end is sent a reset, and what is unsent is dropped (connect(2), AF_UNSPEC).
pub(crate) fn disconnect(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer is valid for `length` bytes, which the kernel only reads.
    Errno::result(unsafe { libc::connect(socket.as_raw_fd(), &nowhere, length) }).map(drop)
}

/// shutdown(2).
pub(crate) fn shutdown(socket: BorrowedFd<'_>, how: Shutdown) -> Result<(), Errno> {
    socket::shutdown(socket.as_raw_fd(), how)
}

/// The address that a socket is bound to.
pub(crate) fn local_address(socket: BorrowedFd<'_>) -> Result<SockaddrStorage, Errno> {
    socket::getsockname(socket.as_raw_fd())
}

/// The address of the other end.
pub(crate) fn peer_address(socket: BorrowedFd<'_>) -> Result<SockaddrStorage, Errno> {
    socket::getpeername(socket.as_raw_fd())
}

/// Returns whether the socket is a listening one (SO_ACCEPTCONN).
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    socket::getsockopt(&socket, socket::sockopt::AcceptConn)
}

/// Reads what has arrived at a socket and leaves it there.
pub(crate) fn peek(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    socket::recv(socket.as_raw_fd(), bytes, flags)
}

/// Returns whether the other end of a stream takes nothing more: a send of no bytes says so, and else does nothing.
pub(crate) fn refuses_bytes(socket: BorrowedFd<'_>) -> bool {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    socket::send(socket.as_raw_fd(), &[], flags).is_err()
}
