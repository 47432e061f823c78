//! What an epoll event is about, packed into its 64 bits.
//!
//! A session's serial number goes along with its place in the table, so that an event of one that was closed in
//! the same round is never taken for its successor's.

use crate::peer::Side;

/// A session's place in the table and its serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Place in the table.
    pub index: u32,
    /// Counts sessions; wraps around after 2^31.
    pub serial: u32,
}

impl Key {
    /// Cuts both numbers to the 31 bits that a token has for them.
    pub(crate) fn new(index: usize, serial: u32) -> Key {
        Key {
            index: index as u32 & MASK,
            serial: serial & MASK,
        }
    }
}

const MASK: u32 = u32::MAX >> 1;

/// The source of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A signal is to be read.
    Signal,
    /// Another thread has something to say.
    Waker,
    /// Somebody wants to know what goes on.
    Inspection,
    /// Names were looked up.
    Names,
    /// Names of machines have changed.
    Registry,
    /// A listener, by its place, has a connection.
    Listener(u32),
    /// One side of a session is ready.
    Session(Key, Side),
}

/// Marks a session; the bits below are serial (31), index (31), side (1).
const SESSION: u64 = 1 << 63;

impl Token {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Token::Signal => 0,
            Token::Waker => 1,
            Token::Inspection => 2,
            Token::Names => 3,
            Token::Registry => 4,
            Token::Listener(index) => u64::from(index) + 5,
            Token::Session(key, side) => {
                SESSION
                    | u64::from(key.serial) << 32
                    | u64::from(key.index) << 1
                    | u64::from(side == Side::Target)
            }
        }
    }

    /// Unpacks what [`Token::pack`] packed.
    pub(crate) fn unpack(bits: u64) -> Token {
        if bits & SESSION == 0 {
            return match bits {
                0 => Token::Signal,
                1 => Token::Waker,
                2 => Token::Inspection,
                3 => Token::Names,
                4 => Token::Registry,
                _ => Token::Listener((bits - 5) as u32),
            };
        }
        let key = Key {
            index: (bits >> 1) as u32 & MASK,
            serial: (bits >> 32) as u32 & MASK,
        };
        Token::Session(
            key,
            if bits & 1 == 1 {
                Side::Target
            } else {
                Side::Peer
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let keys = [
            Key::new(0, 0),
            Key::new(1, 2),
            Key::new(MASK as usize, MASK),
        ];
        let sessions = keys.iter().flat_map(|&key| {
            [
                Token::Session(key, Side::Peer),
                Token::Session(key, Side::Target),
            ]
        });
        let others = [
            Token::Signal,
            Token::Waker,
            Token::Inspection,
            Token::Names,
            Token::Registry,
            Token::Listener(0),
            Token::Listener(9),
        ];
        for token in others.into_iter().chain(sessions) {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
