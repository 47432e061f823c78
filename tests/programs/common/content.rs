//! Bytes that depend on their position, so that a lost, doubled or moved one is noticed wherever it is.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use socket2::Socket;

use super::DEADLINE;

/// A prime: no lost piece of a power of two can end up at the same bytes again.
const PERIOD: usize = 1_048_573;

/// A stream of pseudo-random bytes without end.
#[derive(Clone)]
pub struct Content(std::sync::Arc<[u8]>);

/// How a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an end of file.
    Clean,
    /// With an error: the bytes are not complete.
    Reset,
}

impl Content {
    /// Makes the stream of a seed.
    pub fn new(seed: u64) -> Content {
        let mut state = seed;
        // splitmix64 (https://prng.di.unimi.it/splitmix64.c).
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let mut bytes = Vec::with_capacity(PERIOD + 8);
        while bytes.len() < PERIOD {
            bytes.extend_from_slice(&next().to_le_bytes());
        }
        bytes.truncate(PERIOD);
        Content(bytes.into())
    }

    /// Returns the bytes from a position up to the next multiple of the period, at most `most`.
    fn from(&self, position: u64, most: usize) -> &[u8] {
        let start = (position % PERIOD as u64) as usize;
        &self.0[start..(start + most).min(PERIOD)]
    }

    /// Returns the first bytes.
    pub fn first(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let piece = self.from(bytes.len() as u64, count - bytes.len());
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    /// Writes the first bytes.
    pub fn send(&self, to: &mut impl Write, count: u64) {
        let sent = self.send_while_wanted(to, count);
        assert_eq!(sent, count, "the reader has gone");
    }

    /// Writes the first bytes until the other end has gone; gives how many were taken.
    pub fn send_while_wanted(&self, to: &mut impl Write, count: u64) -> u64 {
        let mut sent = 0;
        while sent < count {
            let most = (count - sent).min(256 * 1024) as usize;
            match to.write(self.from(sent, most)) {
                Ok(0) => break,
                Ok(written) => sent += written as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_gone(error.kind()) => break,
                Err(error) => panic!("after {sent} of {count} bytes: {error}"),
            }
        }
        sent
    }

    /// Writes until nothing more fits between here and a reader that does not read; gives how much that was.
    pub fn fill(&self, mut to: &Socket) -> u64 {
        let mut sent = 0;
        to.set_write_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        while let Ok(count) = to.write(self.from(sent, 256 * 1024)) {
            sent += count as u64;
        }
        to.set_write_timeout(Some(DEADLINE)).unwrap();
        sent
    }

    /// Reads that many bytes and compares each.
    pub fn expect(&self, from: &mut impl Read, count: u64) {
        let (received, end) = self.compare(from, count);
        assert_eq!(received, count, "ended early: {end:?}");
    }

    /// Reads that many bytes from a position on and compares each.
    pub fn expect_from(&self, from: &mut impl Read, position: u64, count: u64) {
        let mut bytes = vec![0; count as usize];
        from.read_exact(&mut bytes).unwrap();
        self.check(position, &bytes);
    }

    /// Reads that many bytes and then a clean end.
    pub fn expect_all(&self, from: &mut impl Read, count: u64) {
        assert_eq!(self.expect_prefix(from), (count, End::Clean));
    }

    /// Reads to the end and compares each byte; gives how many there were.
    pub fn expect_prefix(&self, from: &mut impl Read) -> (u64, End) {
        let (received, end) = self.compare(from, u64::MAX);
        (received, end.expect("no stream has that many bytes"))
    }

    fn compare(&self, from: &mut impl Read, count: u64) -> (u64, Option<End>) {
        let mut buffer = vec![0; 256 * 1024];
        let mut received = 0;
        while received < count {
            let most = (count - received).min(buffer.len() as u64) as usize;
            match from.read(&mut buffer[..most]) {
                Ok(0) => return (received, Some(End::Clean)),
                Ok(read) => {
                    self.check(received, &buffer[..read]);
                    received += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_gone(error.kind()) => return (received, Some(End::Reset)),
                Err(error) => panic!("after {received} bytes: {error}"),
            }
        }
        (received, None)
    }

    fn check(&self, position: u64, mut bytes: &[u8]) {
        let mut at = position;
        while !bytes.is_empty() {
            let expected = self.from(at, bytes.len());
            let (now, rest) = bytes.split_at(expected.len());
            assert!(now == expected, "wrong bytes in {} from {at}", now.len());
            at += now.len() as u64;
            bytes = rest;
        }
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Reads to the end of a short stream.
pub fn read_to_end(from: &mut impl Read) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    match from.read_to_end(&mut bytes) {
        Ok(_) => (bytes, End::Clean),
        Err(error) if is_gone(error.kind()) => (bytes, End::Reset),
        Err(error) => panic!("after {} bytes: {error}", bytes.len()),
    }
}
