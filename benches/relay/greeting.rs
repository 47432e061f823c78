//! The first 16 bytes of a connection: they tell the target what to do, so that one target serves all scenarios and a
//! connection is known by its content, not by the order in which a relay happens to make it.

/// Bytes of a greeting on the wire.
pub const LENGTH: usize = 16;

const MAGIC: [u8; 4] = *b"vsbb";

/// What the peer wants from the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Streams until the run is over: inbound, outbound or both.
    Bulk { inbound: bool, outbound: bool },
    /// Answers every `size_bytes` with as many.
    Echo { size_bytes: u32 },
    /// Waits for the end of the inbound flow, then `delay_ms`, then answers and ends.
    AnswerAfterEnd { delay_ms: u32 },
}

/// A service and the number of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What the peer wants.
    pub service: Service,
    /// Number of the connection: seeds its bytes, and names its lane when it streams.
    pub stream: u32,
}

impl Greeting {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; LENGTH] {
        let (kind, value) = match self.service {
            Service::Bulk { inbound, outbound } => {
                (1, u32::from(inbound) + 2 * u32::from(outbound))
            }
            Service::Echo { size_bytes } => (2, size_bytes),
            Service::AnswerAfterEnd { delay_ms } => (3, delay_ms),
        };
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        bytes[8..12].copy_from_slice(&value.to_le_bytes());
        bytes[12..].copy_from_slice(&self.stream.to_le_bytes());
        bytes
    }

    /// Reads the bytes on the wire; `None` when a relay has changed them.
    pub fn decode(bytes: &[u8; LENGTH]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (value, stream) = (word(8), word(12));
        let service = match bytes[4] {
            1 => Service::Bulk {
                inbound: value & 1 != 0,
                outbound: value & 2 != 0,
            },
            2 if value > 0 => Service::Echo { size_bytes: value },
            3 => Service::AnswerAfterEnd { delay_ms: value },
            _ => return None,
        };
        (bytes[..4] == MAGIC).then_some(Self { service, stream })
    }
}
