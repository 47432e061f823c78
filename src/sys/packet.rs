//! Packets and descriptors over unix sockets (SCM_RIGHTS, unix(7)).

use std::io::IoSlice;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, MsgFlags};
use nix::{libc, setsockopt_impl, sockopt_impl};

/// What a packet can carry (SCM_MAX_FD).
pub(crate) const DESCRIPTORS_MAX: usize = 253;
/// Bytes of the largest packet.
const PACKET_BYTES: usize = 4096;

/// Sends one packet with descriptors over a unix socket of packets, if there is room.
pub(crate) fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_message(socket, bytes, descriptors, MsgFlags::MSG_DONTWAIT)
}

/// As [`send_packet`], but waits for room.
pub(crate) fn send_packet_in_time(
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
    let (count, descriptors) = peek(socket, &mut bytes)?;
    bytes.truncate(count);
    Ok((bytes, descriptors))
}

/// Looks at bytes, and at the descriptors that the process has room for; gives how many bytes there were.
///
/// Without room for all of them the kernel installs some and says MSG_CTRUNC (unix(7)); those must be owned by somebody,
/// or they stay open for ever.
fn peek(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
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
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | libc::MSG_PEEK;
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
pub(crate) fn peek_from_start(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    socket::setsockopt(&socket, PeekOffset, &0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType};

    use super::*;

    #[test]
    fn a_descriptor_sent_is_the_descriptor_that_is_seen() {
        let pair = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket::socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap()
        };
        let (here, there) = pair();
        let (sent, other) = pair();
        send_packet(here.as_fd(), b"x", &[sent.as_fd()]).unwrap();
        let (bytes, descriptors) = peek_packet(there.as_fd()).unwrap();
        assert_eq!((&bytes[..], descriptors.len()), (&b"x"[..], 1));
        nix::unistd::write(&descriptors[0], b"y").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&other, &mut byte), Ok(1));
        drop_packet(there.as_fd()).unwrap();
        assert_eq!(peek_packet(there.as_fd()).unwrap_err(), Errno::EAGAIN);
    }
}
