//! What a flow needs of an end of a connection; a stream is one, the tests have another.

use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};

use super::pipes::Pipe;
use crate::handover::Buffer;
use crate::peer::Family;
use crate::stream::Stream;

/// Bytes in, bytes out, and their ends; nothing here blocks.
pub(crate) trait Wire {
    /// Reads what is there into the empty buffer, 0 at the end.
    fn read(&self, buffer: &mut Buffer) -> Result<Received, Errno>;
    /// Writes of the buffer what there is room for.
    fn write(&self, buffer: &mut Buffer) -> Result<usize, Errno>;
    /// Moves what is there, and no more than `length`, into the empty pipe; 0 at the end.
    fn fill(&self, pipe: &mut Pipe, length: usize) -> Result<usize, Errno>;
    /// Moves what there is room for out of the pipe.
    fn drain(&self, pipe: &mut Pipe) -> Result<usize, Errno>;
    /// Tells the other end that no more bytes will come.
    fn finish(&mut self) -> Result<(), Errno>;
    /// Tells the other end that its bytes are no longer wanted.
    fn refuse_input(&self);
    /// Takes the error that waits on the wire.
    fn take_error(&self) -> Option<Errno>;
    /// Returns whether the other end has acknowledged all that was written, and the end if that was sent.
    fn is_acknowledged(&self) -> bool;
    /// Returns for how long the other end has not answered, though bytes are on their way to it.
    fn silence(&self) -> Option<Duration>;
    /// Returns for how long no byte that is on its way to the other end has got any further.
    fn stillness(&self) -> Option<Duration>;
    /// Returns whether bytes are known to be there to read.
    fn has_input(&self) -> bool;
    /// Returns whether the other end takes nothing any more, where that can be told.
    fn takes_nothing(&self) -> bool;
    /// Returns the family, from which the way of moving bytes follows.
    fn family(&self) -> Family;
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes, 0 at the end.
    pub count: usize,
    /// Less than there was room for, and still not all that there is.
    pub is_short: bool,
}

impl Wire for Stream {
    fn read(&self, buffer: &mut Buffer) -> Result<Received, Errno> {
        let (count, is_short) = match Stream::family(self) {
            // A terminal gives a line at a time, a pipe may give a packet.
            Family::File => (buffer.read(self.input())?, true),
            // epoll(7): on a stream socket a short read has emptied it; but see [`End::has_urgent`](super::end::End), and a unix socket
            // stops behind bytes that descriptors were passed with.
            _ => buffer.receive(self.input())?,
        };
        Ok(Received { count, is_short })
    }

    fn write(&self, buffer: &mut Buffer) -> Result<usize, Errno> {
        match Stream::family(self) {
            Family::File => buffer.write(self.output()?),
            _ => buffer.send(self.output()?, self.largest_write()),
        }
    }

    fn fill(&self, pipe: &mut Pipe, length: usize) -> Result<usize, Errno> {
        let count = splice(self.input(), None, pipe.input(), None, length, flags())?;
        pipe.held_bytes += count;
        Ok(count)
    }

    fn drain(&self, pipe: &mut Pipe) -> Result<usize, Errno> {
        let count = splice(
            pipe.output(),
            None,
            self.output()?,
            None,
            pipe.held_bytes.min(self.largest_write()),
            flags(),
        )?;
        pipe.held_bytes -= count;
        Ok(count)
    }

    fn finish(&mut self) -> Result<(), Errno> {
        Stream::finish(self)
    }

    fn refuse_input(&self) {
        Stream::refuse_input(self);
    }

    fn take_error(&self) -> Option<Errno> {
        Stream::take_error(self)
    }

    fn is_acknowledged(&self) -> bool {
        Stream::is_acknowledged(self)
    }

    fn silence(&self) -> Option<Duration> {
        Stream::silence(self)
    }

    fn stillness(&self) -> Option<Duration> {
        Stream::stillness(self)
    }

    fn has_input(&self) -> bool {
        Stream::has_input(self)
    }

    fn takes_nothing(&self) -> bool {
        Stream::takes_nothing(self)
    }

    fn family(&self) -> Family {
        Stream::family(self)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::connect::Dialer;
    use crate::handover::{Owner, Store};
    use crate::packets::{Device, Packets};
    use crate::relay::pipes::Pool;
    use crate::stream::Tuning;
    use crate::vsock::Cid;

    const PACKET_BYTES: usize = 28 << 10;
    static BYTES: [u8; 64 << 10] = [7; 64 << 10];

    /// An end that is written to, as if over vsock to that machine, and the one that is to stay open.
    fn end(device: Device, family: Family, cid: Cid) -> (Stream, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let tuning = Tuning {
            vsock_packets: Packets::for_device(device),
            ..Dialer::to_nobody().tuning
        };
        let stream = Stream::socket(OwnedFd::from(here), family);
        (tuning.limit_writes(stream, Some(cid)), there)
    }

    /// What one write and one splice take.
    fn taken(stream: &Stream) -> [usize; 2] {
        let store = Store::private().unwrap();
        let mut buffer = store.buffer().unwrap();
        buffer.clear(Owner::NOBODY);
        assert_eq!(buffer.load(&BYTES), BYTES.len());
        let written = Wire::write(stream, &mut buffer).unwrap();
        assert_eq!(buffer.held_bytes(), BYTES.len() - written);
        let mut pipe = Pool::default().take(&store).unwrap();
        pipe.held_bytes = nix::unistd::write(pipe.input(), &BYTES).unwrap();
        let spliced = stream.drain(&mut pipe).unwrap();
        assert_eq!(pipe.held_bytes, BYTES.len() - spliced);
        [written, spliced]
    }

    #[test]
    fn a_device_that_drops_large_packets_gets_none() {
        for device in [Device::Program, Device::Unknown] {
            let (stream, _far) = end(device, Family::Vsock, Cid::HOST);
            assert_eq!(taken(&stream), [PACKET_BYTES; 2], "{device:?}");
        }
    }

    #[test]
    fn writes_are_whole_where_no_device_drops_them() {
        for (device, family, cid) in [
            (Device::Kernel, Family::Vsock, Cid::HOST),
            (Device::None, Family::Vsock, Cid::HOST),
            (Device::Program, Family::Vsock, Cid::LOCAL),
            (Device::Program, Family::Unix, Cid::HOST),
        ] {
            let (stream, _far) = end(device, family, cid);
            assert_eq!(taken(&stream), [BYTES.len(); 2], "{device:?} {family:?}");
        }
    }
}
