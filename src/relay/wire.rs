//! What a flow needs of an end of a connection; a stream is one, the tests have another.

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::epoll::EpollFlags;
use nix::unistd::{read, write};

use super::pipes::{PIPE_BYTES, Pipe};
use crate::stream::{Family, Stream};

/// Bytes in, bytes out, and their ends; nothing here blocks.
pub trait Wire {
    /// Reads what is there, 0 at the end.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno>;
    /// Writes what there is room for.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno>;
    /// Moves what is there into the empty pipe, 0 at the end.
    fn fill(&self, pipe: &mut Pipe) -> Result<usize, Errno>;
    /// Moves what there is room for out of the pipe.
    fn drain(&self, pipe: &mut Pipe) -> Result<usize, Errno>;
    /// Tells the other end that no more bytes will come.
    fn finish(&mut self) -> Result<(), Errno>;
    /// Tells the other end that its bytes are no longer wanted.
    fn refuse_input(&self);
    /// After an end was read: the error that it really was, if the kernel knows of one.
    fn hidden_error(&self) -> Option<Errno>;
    /// Tells whether a read that gave less than it could has emptied the wire (epoll(7), on stream sockets).
    fn is_emptied_by_short_read(&self) -> bool;
    /// Gives the family, from which the way of moving bytes follows.
    fn family(&self) -> Family;
}

impl Wire for Stream {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        read(self.input(), buffer)
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        write(self.output()?, bytes)
    }

    fn fill(&self, pipe: &mut Pipe) -> Result<usize, Errno> {
        let count = splice(self.input(), None, pipe.input(), None, PIPE_BYTES, flags())?;
        pipe.held_bytes += count;
        Ok(count)
    }

    fn drain(&self, pipe: &mut Pipe) -> Result<usize, Errno> {
        let count = splice(
            pipe.output(),
            None,
            self.output()?,
            None,
            pipe.held_bytes,
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

    fn hidden_error(&self) -> Option<Errno> {
        // A VM that was killed reads as an end, with the error on the socket (drivers/vhost/vsock.c,
        // vhost_vsock_reset_orphans). Other families give the error to read(2) itself.
        if Stream::family(self) == Family::Vsock {
            self.take_error()
        } else {
            None
        }
    }

    fn is_emptied_by_short_read(&self) -> bool {
        Stream::family(self) != Family::File
    }

    fn family(&self) -> Family {
        Stream::family(self)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE
}

/// An end of a connection with what epoll said of it and no call has disproved since.
#[derive(Debug)]
pub struct End<W> {
    /// The descriptor.
    pub wire: W,
    /// A read may give something.
    pub is_readable: bool,
    /// A write may take something.
    pub is_writable: bool,
    /// The other end has ended its direction, or failed: read until that is seen.
    pub is_ended: bool,
    /// The error of a write, which a read will not report again.
    pub failure: Option<Errno>,
}

impl<W> End<W> {
    /// Begins with a connected wire: there is room to write, and the first event tells of bytes to read.
    pub fn new(wire: W) -> End<W> {
        End {
            wire,
            is_readable: false,
            is_writable: true,
            is_ended: false,
            failure: None,
        }
    }

    /// Takes over what epoll reported.
    pub fn note(&mut self, events: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.is_ended |= events.intersects(ended);
        self.is_readable |= events.intersects(EpollFlags::EPOLLIN | ended);
        // A write to what has failed must be tried, too, to learn of it.
        self.is_writable |=
            events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
    }
}
