//! Gives descriptors to the next process of the service, with what is to be known of them.
//!
//! systemd keeps descriptors for a service that restarts (its descriptor store), but compares each new one with all that
//! it has: thousands of them would block it for minutes. So it gets one for all, the box: a socket whose queue holds the
//! descriptors (SCM_RIGHTS, unix(7)). Each message brings up to [`DESCRIPTORS_MAX`] of them, and a memory file with the
//! bytes that belong to them, since the queue itself has little room.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

use crate::notify;
use crate::sys;

/// The name of the box in the descriptor store.
pub const NAME: &str = "handover";
/// Descriptors of a parcel; the kernel passes 253 at once (SCM_MAX_FD), of which the memory file is one.
pub const DESCRIPTORS_MAX: usize = 252;
/// What is asked for the queue; the kernel gives at most twice net.core.wmem_max.
const QUEUE_BYTES: usize = 8 << 20;

/// Bytes, and the descriptors that they tell about.
#[derive(Debug)]
pub struct Parcel {
    /// As they were put in.
    pub bytes: Vec<u8>,
    /// In their order.
    pub descriptors: Vec<OwnedFd>,
}

/// A box that is being filled.
#[derive(Debug)]
pub struct Filling {
    input: OwnedFd,
    output: OwnedFd,
}

impl Filling {
    /// Begins with an empty box.
    pub fn new() -> Result<Filling, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (input, output) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // A smaller queue holds fewer parcels, and more boxes are used.
        let _ = setsockopt(&input, sockopt::SndBuf, &QUEUE_BYTES);
        Ok(Filling { input, output })
    }

    /// Puts a parcel in.
    ///
    /// Errors: `EAGAIN` when the box is full; `ETOOMANYREFS` when more descriptors are on their way than
    /// RLIMIT_NOFILE allows to be open.
    pub fn put(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let memory = memory(bytes)?;
        let mut all = vec![memory.as_fd()];
        all.extend(descriptors);
        sys::send_descriptors(self.input.as_fd(), &all)
    }

    /// Gives the box to systemd, and makes sure that it is there.
    ///
    /// Errors: `ENOTCONN` when systemd has not kept it (FileDescriptorStoreMax=).
    pub fn store(self) -> Result<(), Errno> {
        notify::store(NAME, self.output.as_fd())?;
        // If ours was the only one, the queue and all that is in it is gone with it, and the input hangs up.
        drop(self.output);
        let mut input = [PollFd::new(self.input.as_fd(), PollFlags::empty())];
        poll(&mut input, PollTimeout::ZERO)?;
        match input[0].revents() {
            Some(events) if events.contains(PollFlags::POLLHUP) => Err(Errno::ENOTCONN),
            _ => Ok(()),
        }
    }
}

/// Takes all parcels out of a box, and the box out of the store.
///
/// Errors: of each parcel that cannot be read; the others are not affected.
pub fn unpack(boxes: Vec<OwnedFd>) -> Vec<Result<Parcel, Errno>> {
    let mut parcels = Vec::new();
    for output in boxes {
        loop {
            match sys::receive_descriptors(output.as_fd()) {
                Ok(None) | Err(Errno::EAGAIN) => break,
                Ok(Some(descriptors)) => parcels.push(read(descriptors)),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    parcels.push(Err(errno));
                    break;
                }
            }
        }
        notify::forget(NAME);
    }
    parcels
}

fn memory(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let memory = memfd_create(c"handover", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(bytes).map_err(errno)?;
    file.rewind().map_err(errno)?;
    Ok(file.into())
}

fn read(mut descriptors: Vec<OwnedFd>) -> Result<Parcel, Errno> {
    if descriptors.is_empty() {
        return Err(Errno::EBADMSG);
    }
    let mut bytes = Vec::new();
    File::from(descriptors.remove(0))
        .read_to_end(&mut bytes)
        .map_err(errno)?;
    Ok(Parcel { bytes, descriptors })
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_a_box_comes_out_in_order() {
        let filling = Filling::new().unwrap();
        let (read_end, write_end) = nix::unistd::pipe().unwrap();
        for number in 0..3u8 {
            filling.put(&[number; 1000], &[write_end.as_fd()]).unwrap();
        }
        filling.put(b"none", &[]).unwrap();
        drop(filling.input);
        let parcels = unpack(vec![filling.output]);
        assert_eq!(parcels.len(), 4);
        for (number, parcel) in parcels.iter().take(3).enumerate() {
            let parcel = parcel.as_ref().unwrap();
            assert_eq!(parcel.bytes, [number as u8; 1000]);
            nix::unistd::write(&parcel.descriptors[0], &[number as u8]).unwrap();
        }
        let mut bytes = [9; 3];
        assert_eq!(nix::unistd::read(&read_end, &mut bytes), Ok(3));
        assert_eq!(bytes, [0, 1, 2]);
        let last = parcels[3].as_ref().unwrap();
        assert_eq!((&last.bytes[..], last.descriptors.len()), (&b"none"[..], 0));
    }

    #[test]
    fn a_parcel_may_be_as_large_as_the_kernel_allows() {
        let filling = Filling::new().unwrap();
        let (read_end, _write_end) = nix::unistd::pipe().unwrap();
        let many = vec![read_end.as_fd(); DESCRIPTORS_MAX];
        filling.put(&vec![7; 4 << 20], &many).unwrap();
        drop(filling.input);
        let parcels = unpack(vec![filling.output]);
        let parcel = parcels[0].as_ref().unwrap();
        assert_eq!(parcel.bytes.len(), 4 << 20);
        assert_eq!(parcel.descriptors.len(), DESCRIPTORS_MAX);
    }

    #[test]
    fn a_message_without_descriptors_costs_only_itself() {
        let filling = Filling::new().unwrap();
        nix::unistd::write(&filling.input, b"x").unwrap();
        filling.put(b"good", &[]).unwrap();
        drop(filling.input);
        let parcels = unpack(vec![filling.output]);
        assert!(parcels[0].is_err());
        assert_eq!(parcels[1].as_ref().unwrap().bytes, b"good");
    }
}
