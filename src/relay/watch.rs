//! What epoll is asked to report of a stream, once for its life.
//!
//! Edges only, so that a message costs no call for them. TCP reports room to write where there was none before. Unix and
//! vsock sockets report it whenever the other end has read or answered, full or not: that would wake the bridge up for
//! each message once more. They are asked for it after the first time that they were full.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::connection::Side;
use super::token::{Key, Token};
use crate::error::{Error, Result};
use crate::peer::Family;
use crate::stream::Stream;

const INPUT: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLPRI)
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);
const ROOM: EpollFlags = EpollFlags::EPOLLOUT.union(EpollFlags::EPOLLET);

/// Tells whether a stream of that family is watched for room to write from the beginning.
pub fn is_room_watched(family: Family) -> bool {
    !matches!(family, Family::Unix | Family::Vsock)
}

/// Begins to watch a stream. A file cannot be watched, and need not be.
pub fn add(epoll: &Epoll, stream: &Stream, key: Key, side: Side) -> Result<()> {
    let token = Token::Session(key, side);
    match stream.separate_output() {
        None if is_room_watched(stream.family()) => {
            register(epoll, stream.input(), INPUT | ROOM, token)
        }
        None => register(epoll, stream.input(), INPUT, token),
        Some(output) => {
            register(epoll, stream.input(), INPUT, token)?;
            register(epoll, output, ROOM, token)
        }
    }
}

/// Begins to watch a stream to the target. Room to write tells that it is connected, which a unix socket is at once.
pub fn add_dialed(epoll: &Epoll, stream: &Stream, key: Key) -> Result<()> {
    let interest = match stream.family() {
        Family::Unix => INPUT,
        _ => INPUT | ROOM,
    };
    register(
        epoll,
        stream.input(),
        interest,
        Token::Session(key, Side::Target),
    )
}

/// Watches a stream for room as well; if there is some, that is reported at once.
pub fn add_room(epoll: &Epoll, stream: &Stream, key: Key, side: Side) -> Result<()> {
    let mut event = EpollEvent::new(INPUT | ROOM, Token::Session(key, side).pack());
    (epoll.modify(stream.input(), &mut event)).map_err(Error::system("watch a connection"))
}

fn register(epoll: &Epoll, fd: BorrowedFd<'_>, interest: EpollFlags, token: Token) -> Result<()> {
    match epoll.add(fd, EpollEvent::new(interest, token.pack())) {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(Error::system("watch a connection")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};

    use super::*;

    /// An epoll instance, a stream, and the same socket and its other end for the test.
    fn place() -> (Epoll, Stream, UnixStream, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        let stream = Stream::passed(here.try_clone().unwrap().into(), Family::Unix).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        (epoll, stream, here, there)
    }

    fn reported(epoll: &Epoll) -> Option<(Token, EpollFlags)> {
        let mut events = [EpollEvent::empty()];
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
        (count > 0).then(|| (Token::unpack(events[0].data()), events[0].events()))
    }

    #[test]
    fn a_message_that_was_read_at_the_other_end_is_no_event() {
        for side in [Side::Peer, Side::Target] {
            let (epoll, stream, mut here, mut there) = place();
            match side {
                Side::Peer => add(&epoll, &stream, Key::new(1, 1), side).unwrap(),
                Side::Target => add_dialed(&epoll, &stream, Key::new(1, 1)).unwrap(),
            }
            here.write_all(b"message").unwrap();
            there.read_exact(&mut [0; 7]).unwrap();
            assert_eq!(reported(&epoll), None);
            there.write_all(b"answer").unwrap();
            assert!(reported(&epoll).is_some());
        }
    }

    #[test]
    fn room_that_came_before_it_was_asked_for_is_reported() {
        let (epoll, stream, mut here, mut there) = place();
        let key = Key::new(1, 1);
        add(&epoll, &stream, key, Side::Peer).unwrap();
        let mut written = 0;
        let error = loop {
            match here.write(&[0; 4096]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        there.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(reported(&epoll), None);
        add_room(&epoll, &stream, key, Side::Peer).unwrap();
        let event = (Token::Session(key, Side::Peer), EpollFlags::EPOLLOUT);
        assert_eq!(reported(&epoll), Some(event));
    }
}
