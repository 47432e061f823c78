//! The bytes that one end of a connection sends: perhaps a greeting, then a piece of the pattern that is never copied.

use std::fs::File;
use std::io::{self, IoSlice, Write};

use crate::greeting::{self, Greeting};
use crate::pattern::{CHUNK, Start};

/// The bytes that this end sends.
#[derive(Debug)]
pub struct Outflow {
    /// Where its bytes start in the pattern.
    pub start: Start,
    head: [u8; greeting::LENGTH],
    head_left: usize,
    /// Bytes that the kernel has taken.
    pub sent: u64,
    /// Up to where it may send now.
    pub allowed: u64,
    /// A message goes out as this many bytes, then the rest; 0 = in one write.
    pub first_write: u64,
    /// Bytes of a message.
    pub message: u64,
}

impl Outflow {
    /// Nothing to send yet.
    pub fn new(start: Start) -> Self {
        Self {
            start,
            head: [0; greeting::LENGTH],
            head_left: 0,
            sent: 0,
            allowed: 0,
            first_write: 0,
            message: 1,
        }
    }

    /// Puts a greeting before the first byte.
    pub fn greet(&mut self, greeting: Greeting) {
        self.head = greeting.encode();
        self.head_left = greeting::LENGTH;
    }

    /// True once no byte of a greeting is left.
    pub fn has_greeted(&self) -> bool {
        self.head_left == 0
    }

    /// True when nothing may be sent now.
    pub fn is_drained(&self) -> bool {
        self.head_left == 0 && self.sent >= self.allowed
    }

    fn next_length(&self) -> usize {
        let left = (self.allowed - self.sent).min(CHUNK as u64);
        match self.first_write {
            0 => left as usize,
            first if self.sent % self.message < first => {
                left.min(first - self.sent % self.message) as usize
            }
            _ => left as usize,
        }
    }

    /// One write: what is left of the greeting together with the first bytes of the stream.
    pub fn write(&mut self, file: &mut File) -> io::Result<u64> {
        let body = self.start.bytes_at(self.sent, self.next_length());
        let head = &self.head[greeting::LENGTH - self.head_left..];
        let written = match head {
            [] => file.write(body)?,
            _ => file.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?,
        };
        let of_head = written.min(self.head_left);
        self.head_left -= of_head;
        self.sent += (written - of_head) as u64;
        Ok((written - of_head) as u64)
    }
}
