//! Memory that is shared with the next process, and transfers whose counts the kernel writes into it.

use std::mem::{offset_of, size_of};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{self, MapFlags, ProtFlags};

/// Memory of a file, or of nobody else, at an address of its own.
///
/// It is used through atomic words, through copies, and by the kernel; never through a reference to its bytes.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: a mapping belongs to the process and to no thread of it. Its words are atomic; whoever moves bytes in or out
// has the place for itself, or else finds wrong bytes and no more.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Room for what the kernel is told about one transfer, and for what it answers.
pub(crate) const TRANSFER_BYTES: usize = 128;

#[repr(C)]
struct Transfer {
    message: libc::mmsghdr,
    bytes: libc::iovec,
}

const _: () = assert!(size_of::<Transfer>() <= TRANSFER_BYTES);

impl Mapping {
    /// Maps a part of a file, shared with everybody who maps it; without a file, memory that is only ours.
    pub(crate) fn new(
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

    /// Returns the 64-bit word at an offset, which is a multiple of eight.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0 && self.holds(offset, 8), "a word outside");
        // SAFETY: inside the mapping, aligned since a mapping begins at a page, and only used as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// Copies bytes to an offset.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(self.holds(offset, bytes.len()), "bytes outside");
        // SAFETY: inside the mapping, and no reference to what is there exists.
        unsafe { self.at(offset).copy_from(bytes.as_ptr(), bytes.len()) }
    }

    /// Copies bytes from an offset.
    #[cfg(test)]
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        assert!(self.holds(offset, bytes.len()), "bytes outside");
        // SAFETY: inside the mapping, and no reference to what is there exists.
        unsafe { bytes.as_mut_ptr().copy_from(self.at(offset), bytes.len()) }
    }

    /// Returns how many bytes the transfer moved whose header is at that offset.
    ///
    /// The kernel writes the number before the call returns, so that it is true even if this process is killed in between.
    pub(crate) fn count(&self, header: usize) -> usize {
        self.count_word(header).load(Ordering::Acquire) as usize
    }

    /// Sets what [`Mapping::count`] tells.
    pub(crate) fn set_count(&self, header: usize, count: usize) {
        self.count_word(header)
            .store(count as u32, Ordering::Release);
    }

    /// Reads from a socket into a range of the mapping, with the header of the transfer at that offset (recvmmsg(2)).
    ///
    /// Returns the bytes, none at the end, and whether the read stopped at a descriptor, which is dropped. An error that
    /// waits on the socket comes before the bytes that came before it.
    pub(crate) fn receive(
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
    pub(crate) fn send(
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
    pub(crate) fn read(&self, file: BorrowedFd<'_>, bytes: Range<usize>) -> Result<usize, Errno> {
        assert!(self.holds(bytes.start, bytes.len()), "bytes outside");
        // SAFETY: inside the mapping, and the kernel writes no more than that.
        let count =
            unsafe { libc::read(file.as_raw_fd(), self.at(bytes.start).cast(), bytes.len()) };
        Errno::result(count).map(|count| count as usize)
    }

    /// write(2) of a range of the mapping, for what is no socket.
    pub(crate) fn write(&self, file: BorrowedFd<'_>, bytes: Range<usize>) -> Result<usize, Errno> {
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
