//! The calls that nix lacks or gives only for raw numbers; the one file with `unsafe`.
//!
//! No policy and no logging: each function is one system call with owned or borrowed descriptors.
#![allow(
    unsafe_code,
    reason = "the only file that may; every block says why it is sound"
)]

use std::io::IoSlice;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::mman::{self, MapFlags, ProtFlags};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, SockaddrLike,
    SockaddrStorage,
};
use nix::{libc, setsockopt_impl, sockopt_impl};

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

nix::ioctl_read_bad!(
    /// FIONREAD (pipe(7)).
    get_readable,
    libc::FIONREAD,
    libc::c_int
);

/// How long the other end of a TCP connection has said nothing, and how often it was asked since.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Since its last acknowledgement of anything.
    pub time: Duration,
    /// Since bytes were last sent to it.
    pub sent: Duration,
    /// Retransmissions, and looks for room, since then.
    pub tries: u32,
}

/// Asks a TCP socket about [`Silence`] (TCP_INFO, tcp(7)).
pub fn silence(socket: BorrowedFd<'_>) -> Result<Silence, Errno> {
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

/// Tells whether the other end of a stream takes nothing more: a send of no bytes says so, and else does nothing.
pub fn refuses_bytes(socket: BorrowedFd<'_>) -> bool {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    socket::send(socket.as_raw_fd(), &[], flags).is_err()
}

/// Tells how many bytes are in a pipe, or wait in a socket.
pub fn readable_bytes(pipe: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut count = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for one.
    unsafe { get_readable(pipe.as_raw_fd(), &mut count) }?;
    Ok(count as usize)
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

/// Breaks a TCP connection: the other end is sent a reset, and what is unsent is dropped (connect(2), AF_UNSPEC).
pub fn disconnect(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer is valid for `length` bytes, which the kernel only reads.
    Errno::result(unsafe { libc::connect(socket.as_raw_fd(), &nowhere, length) }).map(drop)
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
    // SAFETY: the call takes any number; one that is not open gives EBADF, which is returned.
    let taken = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
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
    let received = receive_packet(socket, &mut [0], libc::MSG_CMSG_CLOEXEC)?;
    Ok(received.1.into_iter().next())
}

/// Receives bytes, and the descriptors that the process has room for; gives how many bytes there were.
///
/// Without room for all of them the kernel installs some and says MSG_CTRUNC (unix(7)); those must be owned by somebody,
/// or they stay open for ever.
fn receive_packet(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: libc::c_int,
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all of it is numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = space.capacity() as _;
    // SAFETY: the message names `bytes` and `space`, which live longer than the call, with their true lengths.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    let count = Errno::result(count)? as usize;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has written headers into `space`, and their length into the message, which is not changed since.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message).as_ref() };
    while let Some(control) = header {
        if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: no memory is read, only a length computed.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            #[allow(clippy::unnecessary_cast, reason = "it is u32 with musl")]
            let count = (control.cmsg_len as usize).saturating_sub(head) / size_of::<RawFd>();
            // SAFETY: the data of the header is so many numbers, in `space`, which need not be aligned.
            let number = |place| unsafe {
                libc::CMSG_DATA(control)
                    .cast::<RawFd>()
                    .add(place)
                    .read_unaligned()
            };
            // SAFETY: the kernel has just installed these descriptors for us, and nobody else has them.
            descriptors
                .extend((0..count).map(|place| unsafe { OwnedFd::from_raw_fd(number(place)) }));
        }
        // SAFETY: as for the first header.
        header = unsafe { libc::CMSG_NXTHDR(&message, control).as_ref() };
    }
    Ok((count, descriptors))
}

/// What a packet can carry (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;
/// Bytes of the largest packet.
const PACKET_BYTES: usize = 4096;

/// Sends one packet with descriptors over a unix socket of packets, if there is room.
pub fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_message(socket, bytes, descriptors, MsgFlags::MSG_DONTWAIT)
}

/// As [`send_packet`], but waits for room.
pub fn send_packet_in_time(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_message(socket, bytes, descriptors, MsgFlags::empty())
}

fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> Result<(), Errno> {
    let bytes = [IoSlice::new(bytes)];
    let mut numbers = [0; DESCRIPTORS_MAX];
    let numbers = numbers.get_mut(..descriptors.len()).ok_or(Errno::EINVAL)?;
    for (number, descriptor) in numbers.iter_mut().zip(descriptors) {
        *number = descriptor.as_raw_fd();
    }
    let message = [ControlMessage::ScmRights(numbers)];
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    socket::sendmsg::<()>(socket.as_raw_fd(), &bytes, &message, flags, None).map(drop)
}

/// Looks at a packet, which stays where it is, and gives its bytes and descriptors of our own, as many as there is room
/// for; `EAGAIN` when there is none.
///
/// Each look is at the next packet, from the one that [`peek_from_start`] sets.
pub fn peek_packet(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut bytes = vec![0; PACKET_BYTES];
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | libc::MSG_PEEK;
    let (count, descriptors) = receive_packet(socket, &mut bytes, flags)?;
    bytes.truncate(count);
    Ok((bytes, descriptors))
}

/// Takes the first packet out of a socket; its descriptors are closed.
pub fn drop_packet(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut byte = [0];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    socket::recv(socket.as_raw_fd(), &mut byte, flags).map(drop)
}

sockopt_impl!(
    /// Where the next look at a unix socket begins, in bytes (unix(7)).
    PeekOffset, SetOnly, libc::SOL_SOCKET, libc::SO_PEEK_OFF, i32
);

/// Lets [`peek_packet`] begin with the first packet, and go on from one to the next.
pub fn peek_from_start(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    socket::setsockopt(&socket, PeekOffset, &0)
}

/// Memory of a file, or of nobody else, at an address of its own.
///
/// It is used through atomic words, through copies, and by the kernel; never through a reference to its bytes.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: a mapping belongs to the process and to no thread of it. Its words are atomic; whoever moves bytes in or out
// has the place for itself, or else finds wrong bytes and no more.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Room for what the kernel is told about one transfer, and for what it answers.
pub const TRANSFER_BYTES: usize = 128;

#[repr(C)]
struct Transfer {
    message: libc::mmsghdr,
    bytes: libc::iovec,
}

const _: () = assert!(size_of::<Transfer>() <= TRANSFER_BYTES);

impl Mapping {
    /// Maps a part of a file, shared with everybody who maps it; without a file, memory that is only ours.
    pub fn new(
        file: Option<BorrowedFd<'_>>,
        offset: usize,
        length: usize,
    ) -> Result<Mapping, Errno> {
        let bytes = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: the kernel chooses an address where nothing else is.
        let address = unsafe {
            match file {
                Some(file) => mman::mmap(None, bytes, access, flags, file, offset as libc::off_t),
                None => mman::mmap_anonymous(None, bytes, access, flags),
            }
        }?;
        Ok(Mapping { address, length })
    }

    /// Gives the 64-bit word at an offset, which is a multiple of eight.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0 && self.holds(offset, 8), "a word outside");
        // SAFETY: inside the mapping, aligned since a mapping begins at a page, and only used as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// Copies bytes to an offset.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(self.holds(offset, bytes.len()), "bytes outside");
        // SAFETY: inside the mapping, and no reference to what is there exists.
        unsafe { self.at(offset).copy_from(bytes.as_ptr(), bytes.len()) }
    }

    /// Copies bytes from an offset.
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        assert!(self.holds(offset, bytes.len()), "bytes outside");
        // SAFETY: inside the mapping, and no reference to what is there exists.
        unsafe { bytes.as_mut_ptr().copy_from(self.at(offset), bytes.len()) }
    }

    /// Tells how many bytes the transfer moved whose header is at that offset.
    ///
    /// The kernel writes the number before the call returns, so that it is true even if this process is killed in between.
    pub fn count(&self, header: usize) -> usize {
        self.count_word(header).load(Ordering::Acquire) as usize
    }

    /// Sets what [`Mapping::count`] tells.
    pub fn set_count(&self, header: usize, count: usize) {
        self.count_word(header)
            .store(count as u32, Ordering::Release);
    }

    /// Reads from a socket into a range of the mapping, with the header of the transfer at that offset (recvmmsg(2)).
    ///
    /// Gives the bytes, none at the end, and whether the read stopped at a descriptor, which is dropped. An error that
    /// waits on the socket comes before the bytes that came before it.
    pub fn receive(
        &self,
        socket: BorrowedFd<'_>,
        header: usize,
        bytes: Range<usize>,
    ) -> Result<(usize, bool), Errno> {
        let transfer = self.prepare(header, bytes);
        let (number, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: header and bytes are inside the mapping, and the kernel writes nowhere else.
        let result =
            unsafe { libc::recvmmsg(number, transfer.cast(), 1, flags as _, std::ptr::null_mut()) };
        Errno::result(result)?;
        // SAFETY: inside the mapping; the kernel has written to it before it returned.
        let flags = unsafe { (*transfer).message.msg_hdr.msg_flags };
        Ok((self.count(header), flags & libc::MSG_CTRUNC != 0))
    }

    /// Writes a range of the mapping to a socket, with the header of the transfer at that offset (sendmmsg(2)).
    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        header: usize,
        bytes: Range<usize>,
    ) -> Result<usize, Errno> {
        let transfer = self.prepare(header, bytes);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: header and bytes are inside the mapping, and the kernel writes only to the header.
        Errno::result(unsafe {
            libc::sendmmsg(socket.as_raw_fd(), transfer.cast(), 1, flags as _)
        })?;
        Ok(self.count(header))
    }

    /// read(2) into a range of the mapping, for what is no socket.
    pub fn read(&self, file: BorrowedFd<'_>, bytes: Range<usize>) -> Result<usize, Errno> {
        assert!(self.holds(bytes.start, bytes.len()), "bytes outside");
        // SAFETY: inside the mapping, and the kernel writes no more than that.
        let count =
            unsafe { libc::read(file.as_raw_fd(), self.at(bytes.start).cast(), bytes.len()) };
        Errno::result(count).map(|count| count as usize)
    }

    /// write(2) of a range of the mapping, for what is no socket.
    pub fn write(&self, file: BorrowedFd<'_>, bytes: Range<usize>) -> Result<usize, Errno> {
        assert!(self.holds(bytes.start, bytes.len()), "bytes outside");
        // SAFETY: inside the mapping, and the kernel only reads it.
        let count =
            unsafe { libc::write(file.as_raw_fd(), self.at(bytes.start).cast(), bytes.len()) };
        Errno::result(count).map(|count| count as usize)
    }

    /// Tells the kernel where the bytes are; the count is not touched.
    fn prepare(&self, header: usize, bytes: Range<usize>) -> *mut Transfer {
        assert!(
            header % 8 == 0 && self.holds(header, TRANSFER_BYTES),
            "a header outside"
        );
        assert!(self.holds(bytes.start, bytes.len()), "bytes outside");
        let transfer: *mut Transfer = self.at(header).cast();
        // SAFETY: inside the mapping and aligned; all fields take any bits, and only this thread has the place.
        unsafe {
            (&raw mut (*transfer).bytes).write(libc::iovec {
                iov_base: self.at(bytes.start).cast(),
                iov_len: bytes.len(),
            });
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut (*transfer).bytes;
            message.msg_iovlen = 1;
            (&raw mut (*transfer).message.msg_hdr).write(message);
        }
        transfer
    }

    fn count_word(&self, header: usize) -> &AtomicU32 {
        let offset = header + offset_of!(Transfer, message) + offset_of!(libc::mmsghdr, msg_len);
        assert!(offset % 4 == 0 && self.holds(offset, 4), "a count outside");
        // SAFETY: inside the mapping, aligned, and only used as an atomic, or by the kernel.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    fn holds(&self, offset: usize, length: usize) -> bool {
        offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: every caller has made sure that the offset is inside the mapping.
        unsafe { self.address.as_ptr().cast::<u8>().add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by us, and nobody has a reference that outlives this value. It cannot fail for such a range.
        let _ = unsafe { mman::munmap(self.address, self.length) };
    }
}

/// Removes what systemd left in the environment for this process, so that no child takes it for its own.
///
/// Must be called before the first thread is made.
pub fn forget_activation() {
    // SAFETY: the caller is still the only thread, so nobody reads the environment meanwhile.
    // The result was read before; only the removal is wanted.
    let _ = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }.map(drop);
}

/// Borrows a passed descriptor by its number, to ask what it is; `EBADF` if it is not open.
pub fn probe<T>(number: RawFd, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<T, Errno> {
    // SAFETY: the call takes any number, and only looks at the descriptor.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: it is open, and there is no other thread yet that could close it before `ask` returns.
    Ok(ask(unsafe { BorrowedFd::borrow_raw(number) }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

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
