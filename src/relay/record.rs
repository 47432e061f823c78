//! What the next process must know of a session: its record in the ledger.
//!
//! Only what the sockets themselves cannot tell is in it: an end that was read is read again, an end that was sent on may be
//! sent on again.

use std::net::{IpAddr, Ipv6Addr};

use nix::errno::Errno;

use super::connection::Connection;
use super::flow::State;
use crate::clock::Moment;
use crate::handover::Words;
use crate::peer::Peer;
use crate::stream::Stream;
use crate::vsock::{Cid, VsockAddr, VsockPort};

/// Words of a record.
pub(crate) const PEER: [usize; 3] = [0, 1, 2];
const STARTED: usize = 3;
const ACTIVE: usize = 4;
const DELIVERED: [usize; 2] = [5, 6];
pub(crate) const STATES: usize = 7;
const ERRORS: usize = 8;
/// Of a peer without a target, whether it was answered already.
const GREETED: usize = 5;

/// Writes down who it is.
pub(crate) fn write_peer(words: Words<'_>, peer: &Peer, started: Moment) {
    for (number, word) in PEER.into_iter().zip(peer_words(peer)) {
        words.set(number, word);
    }
    words.set(STARTED, started.nanoseconds());
}

/// Writes down whether a peer that has no target yet was answered: what it was told it must not be told again.
pub(crate) fn write_greeted(words: Words<'_>, has_greeted: bool) {
    words.set(GREETED, has_greeted.into());
}

/// Reads what [`write_greeted`] wrote.
pub(crate) fn read_greeted(words: Words<'_>) -> bool {
    words.get(GREETED) == 1
}

/// Writes down how far it has come.
pub(crate) fn write_progress(words: Words<'_>, connection: &Connection<Stream>) {
    let flows = [connection.flows().0, connection.flows().1];
    let ends = [connection.ends().0, connection.ends().1];
    words.set(ACTIVE, connection.active().nanoseconds());
    for (number, flow) in DELIVERED.into_iter().zip(flows) {
        words.set(number, flow.delivered_bytes());
    }
    let states = flows.map(|flow| state_word(flow.state()));
    let failures = ends.map(|end| end.failure.map_or(0, |errno| errno as u64));
    let header_bytes = u64::from(connection.header_bytes());
    let state_word = states[0].0 | states[1].0 << 8 | header_bytes << 16;
    words.set(STATES, state_word);
    let errors = [states[0].1, states[1].1, failures[0], failures[1]];
    let error_word = errors
        .iter()
        .rev()
        .fold(0, |word, error| word << 16 | error & 0xffff);
    words.set(ERRORS, error_word);
}

fn peer_words(peer: &Peer) -> [u64; 3] {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let word = |kind: u64, number: u32| kind << 32 | u64::from(number);
    match peer {
        Peer::Vsock(addr) => {
            let cid = addr.cid.map_or(0, Cid::number);
            [word(1, addr.port.number()), cid.into(), 0]
        }
        Peer::Tcp(ip, port) => {
            let bits = address(*ip);
            [word(2, (*port).into()), (bits >> 64) as u64, bits as u64]
        }
        Peer::Unix(Some(uid)) => [word(3, *uid), 0, 0],
        Peer::Unix(None) => [word(4, 0), 0, 0],
        Peer::Stdio => [word(5, 0), 0, 0],
    }
}

fn peer([first, second, third]: [u64; 3]) -> Option<Peer> {
    let number = first as u32;
    Some(match first >> 32 {
        1 => Peer::Vsock(VsockAddr {
            cid: Cid::new(second as u32),
            port: VsockPort::new(number)?,
        }),
        2 => {
            let bits = u128::from(second) << 64 | u128::from(third);
            Peer::Tcp(
                IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical(),
                number as u16,
            )
        }
        3 => Peer::Unix(Some(number)),
        4 => Peer::Unix(None),
        5 => Peer::Stdio,
        _ => return None,
    })
}

/// The number of a state, and that of its error.
fn state_word(state: State) -> (u64, u64) {
    match state {
        State::Open => (0, 0),
        State::Draining => (1, 0),
        State::Finished => (2, 0),
        State::Refused(errno) => (3, errno as u64),
    }
}

fn state(number: u64, error: Option<Errno>) -> Option<State> {
    Some(match number & 0xff {
        0 => State::Open,
        1 => State::Draining,
        2 => State::Finished,
        3 => State::Refused(error.unwrap_or(Errno::EPIPE)),
        _ => return None,
    })
}

/// Reads who it is, and when it was accepted.
pub(crate) fn read_peer(words: Words<'_>) -> Option<(Peer, Moment)> {
    let peer = peer(PEER.map(|number| words.get(number)))?;
    Some((peer, Moment::from_nanoseconds(words.get(STARTED))))
}

/// A record as it was read; of two things each, the peer's end or the inbound flow comes first.
pub(crate) struct Record {
    pub(crate) peer: Peer,
    pub(crate) started: Moment,
    pub(crate) active: Moment,
    pub(crate) delivered_bytes: [u64; 2],
    pub(crate) states: [State; 2],
    pub(crate) header_bytes: u16,
    pub(crate) failures: [Option<Errno>; 2],
}

impl Record {
    /// Returns what is written there, if it can be understood.
    pub(crate) fn read(words: Words<'_>) -> Option<Record> {
        let word = |number: usize| words.get(number);
        let error = |place: usize| match (word(ERRORS) >> (16 * place)) as u16 {
            0 => None,
            number => Some(Errno::from_raw(number.into())),
        };
        let (peer, started) = read_peer(words)?;
        Some(Record {
            peer,
            started,
            active: Moment::from_nanoseconds(word(ACTIVE)),
            delivered_bytes: DELIVERED.map(word),
            states: [
                state(word(STATES), error(0))?,
                state(word(STATES) >> 8, error(1))?,
            ],
            header_bytes: (word(STATES) >> 16) as u16,
            failures: [error(2), error(3)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_as_they_were_written() {
        let vsock = |cid, port| VsockAddr {
            cid: Cid::new(cid),
            port: VsockPort::new(port).unwrap(),
        };
        let tcp = |ip: &str, port| Peer::Tcp(ip.parse().unwrap(), port);
        let peers = [
            Peer::Vsock(vsock(3, 22)),
            Peer::Vsock(vsock(u32::MAX - 1, u32::MAX - 1)),
            Peer::Vsock(vsock(u32::MAX, 0)),
            tcp("::1", 65535),
            tcp("fd00:1:2:3::4", 1),
            tcp("127.0.0.1", 80),
            Peer::Unix(Some(0)),
            Peer::Unix(None),
            Peer::Stdio,
        ];
        for before in peers {
            assert_eq!(peer(peer_words(&before)), Some(before));
        }
        assert_eq!(peer([0, 0, 0]), None);
    }

    #[test]
    fn states_are_read_as_they_were_written() {
        let states = [
            State::Open,
            State::Draining,
            State::Finished,
            State::Refused(Errno::EPIPE),
        ];
        for before in states {
            let (number, error) = state_word(before);
            let error = (error > 0).then(|| Errno::from_raw(error as i32));
            assert_eq!(state(number, error), Some(before));
        }
        assert_eq!(state(4, None), None);
    }
}
