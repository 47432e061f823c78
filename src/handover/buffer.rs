//! A buffer of which it is known at any moment what was put in and what has left.
//!
//! Bytes that a read has taken from a socket are in no kernel any more, and a process that is killed before it has
//! written them would take them along. So they are read into memory that outlives the process, by a call whose result
//! the kernel writes there as well (recvmmsg(2), sendmmsg(2)): whenever the process is killed, the counts are true, and
//! what was received and not yet sent is still there. It costs no call more than read(2) and write(2).

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::layout::{BUFFER_BYTES, BUFFER_HEAD_BYTES};
use super::ledger::{Ledger, Location, Owner};
use crate::sys::TRANSFER_BYTES;

/// Whose bytes they are.
const OWNER: usize = 0;
/// Which of the two transfers out is the last one.
const TURN: usize = 8;
/// Where the transfers out began.
const START: [usize; 2] = [16, 24];
/// Bytes that were there before the transfer in.
const LOADED: usize = 32;
/// The transfer in, and the last two out.
const INTO: usize = TRANSFER_BYTES;
const OUT: [usize; 2] = [2 * TRANSFER_BYTES, 3 * TRANSFER_BYTES];

/// A buffer for the bytes of one flow at a time.
#[derive(Debug)]
pub(crate) struct Buffer {
    ledger: Arc<Ledger>,
    place: Location,
    loaded: usize,
    received: usize,
    sent: usize,
}

impl Buffer {
    /// Takes an empty one.
    ///
    /// Errors: there is no memory for it.
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Result<Box<Buffer>, Errno> {
        let mut buffer = Box::new(Buffer {
            ledger: ledger.clone(),
            place: ledger.open_buffer()?,
            loaded: 0,
            received: 0,
            sent: 0,
        });
        buffer.clear(Owner::NOBODY);
        Ok(buffer)
    }

    /// Finds all buffers of another process that still hold bytes.
    pub(crate) fn salvage(ledger: &Arc<Ledger>) -> Result<Vec<(Owner, Box<Buffer>)>, Errno> {
        let places = ledger.used_buffers()?.into_iter();
        let buffers = places.map(|place| {
            let mut buffer = Box::new(Buffer {
                ledger: ledger.clone(),
                place,
                loaded: 0,
                received: 0,
                sent: 0,
            });
            let turn = buffer.word(TURN) as usize & 1;
            buffer.loaded = (buffer.word(LOADED) as usize).min(BUFFER_BYTES);
            buffer.received = (buffer.loaded + buffer.count(INTO)).min(BUFFER_BYTES);
            let start = (buffer.word(START[turn]) as usize).min(BUFFER_BYTES);
            buffer.sent = (start + buffer.count(OUT[turn])).min(BUFFER_BYTES);
            (Owner::of(buffer.word(OWNER)), buffer)
        });
        // The others are free as soon as they are dropped.
        Ok(buffers
            .filter(|(_, buffer)| buffer.held_bytes() > 0)
            .collect())
    }

    /// Makes it empty, for the bytes of that flow.
    pub(crate) fn clear(&mut self, owner: Owner) {
        // In this order it is empty from the first write to the last one.
        self.set_count(INTO, 0);
        self.set_word(LOADED, 0);
        self.set_word(OWNER, owner.word());
        self.set_word(TURN, 0);
        self.set_word(START[0], 0);
        self.set_count(OUT[0], 0);
        (self.loaded, self.received, self.sent) = (0, 0, 0);
    }

    /// Writes down whose bytes it holds.
    pub(crate) fn set_owner(&self, owner: Owner) {
        self.set_word(OWNER, owner.word());
    }

    /// Returns how many bytes it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.received.saturating_sub(self.sent)
    }

    /// Returns how many it has room for when it is empty.
    pub(crate) fn room(&self) -> usize {
        BUFFER_BYTES
    }

    /// Fills the empty buffer from a socket; none at the end. The flag tells that the read stopped at a passed descriptor.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<(usize, bool), Errno> {
        self.receive_until(socket, BUFFER_BYTES)
    }

    /// Reads once from a socket, behind what was loaded, until there are so many bytes.
    pub(crate) fn receive_until(
        &mut self,
        socket: BorrowedFd<'_>,
        length: usize,
    ) -> Result<(usize, bool), Errno> {
        let bytes = self.bytes_at(self.loaded, length.clamp(self.loaded, BUFFER_BYTES));
        let (count, is_part) = self.place.mapping.receive(socket, self.at(INTO), bytes)?;
        self.received = self.loaded + count;
        Ok((count, is_part))
    }

    /// Writes what it holds, and no more than `length`, to a socket; gives how much was taken.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, length: usize) -> Result<usize, Errno> {
        // Where this one begins is written beside the last one, whose count must stay until the turn is the other's.
        let turn = (self.word(TURN) as usize & 1) ^ 1;
        self.set_count(OUT[turn], 0);
        self.set_word(START[turn], self.sent as u64);
        self.set_word(TURN, turn as u64);
        let end = self.received.min(self.sent.saturating_add(length));
        let bytes = self.bytes_at(self.sent, end);
        let count = self.place.mapping.send(socket, self.at(OUT[turn]), bytes)?;
        self.sent += count;
        Ok(count)
    }

    /// Fills the empty buffer from what is no socket.
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>) -> Result<usize, Errno> {
        let count = (self.place.mapping).read(file, self.bytes_at(0, BUFFER_BYTES))?;
        self.received = count;
        self.set_count(INTO, count);
        Ok(count)
    }

    /// Writes what it holds to what is no socket.
    pub(crate) fn write(&mut self, file: BorrowedFd<'_>) -> Result<usize, Errno> {
        let bytes = self.bytes_at(self.sent, self.received);
        let count = self.place.mapping.write(file, bytes)?;
        self.set_sent(self.sent + count);
        Ok(count)
    }

    /// Adds bytes from elsewhere before any are received; gives how many it had room for.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(BUFFER_BYTES - self.loaded)];
        let start = self.bytes_at(self.loaded, BUFFER_BYTES).start;
        self.place.mapping.copy_in(start, bytes);
        self.loaded += bytes.len();
        self.received = self.loaded;
        self.set_word(LOADED, self.loaded as u64);
        bytes.len()
    }

    /// Returns a copy of what it holds, of which `count` bytes are then taken for sent.
    #[cfg(test)]
    pub(crate) fn unload(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.held_bytes().min(count)];
        let start = self.bytes_at(self.sent, self.received).start;
        self.place.mapping.copy_out(start, &mut bytes);
        self.set_sent(self.sent + bytes.len());
        bytes
    }

    fn set_sent(&mut self, count: usize) {
        self.sent = count;
        let turn = self.word(TURN) as usize & 1;
        self.set_count(OUT[turn], count - self.word(START[turn]) as usize);
    }

    fn bytes_at(&self, start: usize, end: usize) -> std::ops::Range<usize> {
        let bytes = self.place.offset + BUFFER_HEAD_BYTES;
        bytes + start..bytes + end
    }

    fn at(&self, offset: usize) -> usize {
        self.place.offset + offset
    }

    fn word(&self, offset: usize) -> u64 {
        let word = self.place.mapping.word(self.at(offset));
        word.load(Ordering::Acquire)
    }

    fn set_word(&self, offset: usize, value: u64) {
        let word = self.place.mapping.word(self.at(offset));
        word.store(value, Ordering::Release);
    }

    fn count(&self, header: usize) -> usize {
        self.place.mapping.count(self.at(header))
    }

    fn set_count(&self, header: usize, count: usize) {
        self.place.mapping.set_count(self.at(header), count);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.ledger.close_buffer(self.place.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        (here, there)
    }

    /// What another process finds.
    fn found(ledger: &Ledger) -> Vec<(Owner, Vec<u8>)> {
        let file = ledger.file().unwrap().try_clone_to_owned().unwrap();
        let ledger = Arc::new(Ledger::adopt(file).unwrap());
        let buffers = Buffer::salvage(&ledger).unwrap().into_iter();
        buffers
            .map(|(owner, mut buffer)| (owner, buffer.unload(usize::MAX)))
            .collect()
    }

    #[test]
    fn what_was_received_and_not_sent_is_found_by_another_process() {
        let ledger = Arc::new(Ledger::new().unwrap());
        let owner = Owner::of(7);
        let ((source, mut far), (sink, mut near)) = (pair(), pair());
        let mut buffer = Buffer::new(&ledger).unwrap();
        buffer.clear(owner);
        assert_eq!(found(&ledger), []);
        far.write_all(b"abc").unwrap();
        assert_eq!(buffer.receive(source.as_fd()), Ok((3, false)));
        assert_eq!(found(&ledger), [(owner, b"abc".to_vec())]);
        assert_eq!(buffer.send(sink.as_fd(), usize::MAX), Ok(3));
        assert_eq!((buffer.held_bytes(), found(&ledger)), (0, vec![]));
        let mut arrived = [0; 3];
        near.read_exact(&mut arrived).unwrap();
        assert_eq!(&arrived, b"abc");
    }

    #[test]
    fn a_sink_that_takes_it_in_parts_gets_every_byte_once() {
        let ledger = Arc::new(Ledger::new().unwrap());
        let ((source, mut far), (sink, mut near)) = (pair(), pair());
        let data: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let mut buffer = Buffer::new(&ledger).unwrap();
        far.write_all(&data).unwrap();
        assert_eq!(buffer.receive(source.as_fd()), Ok((data.len(), false)));
        let (mut arrived, mut part) = (Vec::new(), vec![0; 30_000]);
        while buffer.held_bytes() > 0 {
            match buffer.send(sink.as_fd(), usize::MAX) {
                Ok(_) => {}
                Err(errno) => assert_eq!(errno, Errno::EAGAIN),
            }
            let left = found(&ledger).pop().map_or(vec![], |(_, bytes)| bytes);
            assert_eq!(left, data[data.len() - buffer.held_bytes()..]);
            let count = near.read(&mut part).unwrap();
            arrived.extend(&part[..count]);
        }
        drop(sink);
        near.read_to_end(&mut arrived).unwrap();
        assert!(arrived == data);
    }

    #[test]
    fn a_file_is_read_and_written_as_well() {
        let ledger = Arc::new(Ledger::private().unwrap());
        let (output, input) = nix::unistd::pipe().unwrap();
        let mut buffer = Buffer::new(&ledger).unwrap();
        buffer.load(b"abcd");
        assert_eq!(buffer.write(input.as_fd()), Ok(4));
        buffer.clear(Owner::NOBODY);
        assert_eq!(buffer.read(output.as_fd()), Ok(4));
        assert_eq!(buffer.unload(3), b"abc");
        assert_eq!(buffer.unload(9), b"d");
    }

    #[test]
    fn an_end_holds_nothing() {
        let ledger = Arc::new(Ledger::private().unwrap());
        let (source, far) = pair();
        let mut buffer = Buffer::new(&ledger).unwrap();
        assert_eq!(buffer.receive(source.as_fd()), Err(Errno::EAGAIN));
        drop(far);
        assert_eq!(buffer.receive(source.as_fd()), Ok((0, false)));
        assert_eq!(buffer.held_bytes(), 0);
    }
}
