//! The bytes that are sent: each one depends on its position in its stream, so that a lost, doubled, swapped or foreign
//! byte shows. Checking is one comparison with memory that is already there; it must not dominate the load.

use std::sync::LazyLock;

/// Length after which the bytes repeat: a prime, so that a shift by a page, a pipe or a buffer is seen.
const PERIOD: usize = 65_521;

/// The most bytes that one read or write moves: what common tools for bulk transfers take.
pub const CHUNK: usize = 128 * 1024;

/// Distance between the starting points of two streams; odd, so that 30 000 streams differ.
const STREAM_STEP: u64 = 7_919;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes: Vec<u8> = (0..PERIOD).map(|_| next_byte(&mut state)).collect();
    bytes.extend_from_within(..);
    while bytes.len() < PERIOD + CHUNK {
        bytes.extend_from_within(..PERIOD);
    }
    bytes
});

fn next_byte(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.to_le_bytes()[3]
}

/// Where the stream of one direction of one connection starts in the endless pattern.
#[derive(Clone, Copy, Debug)]
pub struct Start(u64);

impl Start {
    /// Inbound bytes of connection `stream`: peer to target.
    pub fn inbound(stream: u32) -> Self {
        Self(u64::from(stream) * 2 * STREAM_STEP)
    }

    /// Outbound bytes of connection `stream`: target to peer.
    pub fn outbound(stream: u32) -> Self {
        Self((u64::from(stream) * 2 + 1) * STREAM_STEP)
    }

    /// The `length` bytes (at most [`CHUNK`]) that belong at `position`.
    pub fn bytes_at(self, position: u64, length: usize) -> &'static [u8] {
        let first = ((self.0 + position) % PERIOD as u64) as usize;
        &BYTES[first..first + length]
    }

    /// Counts the bytes of `data` that do not belong at `position`.
    pub fn count_wrong(self, position: u64, data: &[u8]) -> u64 {
        let expected = self.bytes_at(position, data.len());
        if expected == data {
            return 0;
        }
        expected.iter().zip(data).filter(|(a, b)| a != b).count() as u64
    }
}
