//! Sessions as parcels for the next process: what cannot be asked of a descriptor, and the bytes on their way.
//!
//! A parcel is one line of JSON, then the bytes that flows hold, in the order of the line. The line says how many
//! descriptors and bytes each session has, so that one that cannot be read costs no other. What the next version adds,
//! this one leaves unread; what it changes gets another number of the format, and is refused.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::connection::Connection;
use super::flow::Flow;
use super::pipes::Pipe;
use super::report::Totals;
use super::session::Session;
use super::wire::End;
use crate::clock::Moment;
use crate::handover::{DESCRIPTORS_MAX, Filling, Parcel};
use crate::peer::{Family, Peer};
use crate::stream::Stream;
use crate::sys;

/// Counts changes that an older program cannot leave unread.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Line {
    format: u32,
    totals: Option<Totals>,
    sessions: Vec<Item>,
}

#[derive(Serialize, Deserialize)]
struct Item {
    descriptors: usize,
    bytes: usize,
    record: Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    peer: Peer,
    started: u64,
    /// None while the target is being connected, which the next process begins anew.
    relay: Option<Relay>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Relay {
    active: u64,
    inbound: FlowRecord,
    outbound: FlowRecord,
    peer_failure: Option<i32>,
    target_failure: Option<i32>,
}

/// One direction, without the bytes that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Where it is in its life.
    pub state: StateRecord,
    /// Bytes that the sink has taken.
    pub delivered_bytes: u64,
    /// Bytes held in memory.
    pub held_bytes: usize,
    /// Bytes held in a pipe, of which both ends are descriptors of the session.
    pub piped_bytes: usize,
}

/// [`super::flow::State`] with the number of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateRecord {
    /// The source may still send.
    Open,
    /// The source has ended, and what is held is to be written.
    Draining,
    /// The end was sent on.
    Finished,
    /// The sink takes nothing more.
    Refused(i32),
}

/// A session as it came out of a parcel.
#[derive(Debug)]
pub enum Restored {
    /// It goes on where it was.
    Relaying(Box<Session>),
    /// Its target is to be connected.
    Connecting(Stream, Peer),
}

/// Sessions that are ready for a box.
#[derive(Default)]
struct Packing<'a> {
    items: Vec<Item>,
    bytes: Vec<u8>,
    descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Packing<'a> {
    fn add(&mut self, session: &'a Session) -> Result<(), Errno> {
        let Some(peer) = session.peer_stream() else {
            return Ok(());
        };
        let (descriptors, bytes) = (self.descriptors.len(), self.bytes.len());
        self.descriptors.push(peer.input());
        let relay = session.connection().map(|connection| {
            let (peer, target) = connection.ends();
            self.descriptors.push(target.wire.input());
            let (inbound, outbound) = connection.flows();
            Relay {
                active: connection.active().nanoseconds(),
                inbound: self.add_flow(inbound),
                outbound: self.add_flow(outbound),
                peer_failure: peer.failure.map(|errno| errno as i32),
                target_failure: target.failure.map(|errno| errno as i32),
            }
        });
        let record = Record {
            peer: session.peer,
            started: session.started.nanoseconds(),
            relay,
        };
        self.items.push(Item {
            descriptors: self.descriptors.len() - descriptors,
            bytes: self.bytes.len() - bytes,
            record: serde_json::to_value(record).map_err(unwritable)?,
        });
        Ok(())
    }

    fn add_flow(&mut self, flow: &'a Flow) -> FlowRecord {
        self.bytes.extend(flow.held_bytes());
        if let Some(pipe) = flow.held_pipe() {
            self.descriptors.extend([pipe.output(), pipe.input()]);
        }
        flow.record()
    }

    fn put(&mut self, boxes: &mut Vec<Filling>, totals: Option<Totals>) -> Result<(), Errno> {
        let line = Line {
            format: FORMAT,
            totals,
            sessions: std::mem::take(&mut self.items),
        };
        let mut bytes = serde_json::to_vec(&line).map_err(unwritable)?;
        bytes.push(b'\n');
        bytes.append(&mut self.bytes);
        let descriptors = std::mem::take(&mut self.descriptors);
        if let Some(filling) = boxes.last() {
            match filling.put(&bytes, &descriptors) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
        let filling = Filling::new()?;
        filling.put(&bytes, &descriptors)?;
        boxes.push(filling);
        Ok(())
    }
}

/// Numbers and texts can always be written, if there is memory.
fn unwritable(_: serde_json::Error) -> Errno {
    Errno::ENOMEM
}

/// The two sockets and the ends of two pipes.
const DESCRIPTORS_OF_ONE: usize = 6;
/// Bytes of a parcel after which the next one is begun.
const PARCEL_BYTES: usize = 1 << 20;

/// Gives all sessions to systemd, for the next process; they stay ours as well.
///
/// From then on a close of the last descriptor resets a TCP connection: when nobody takes the sessions over, none of
/// them ends as if it were complete.
pub fn hand_over<'a>(
    sessions: impl Iterator<Item = &'a Session>,
    totals: Totals,
) -> Result<(), Errno> {
    let (mut boxes, mut packing) = (Vec::new(), Packing::default());
    packing.put(&mut boxes, Some(totals))?;
    for session in sessions {
        session.reset_on_close(true);
        packing.add(session)?;
        let is_full = packing.descriptors.len() > DESCRIPTORS_MAX - DESCRIPTORS_OF_ONE;
        if is_full || packing.bytes.len() > PARCEL_BYTES {
            packing.put(&mut boxes, None)?;
        }
    }
    if !packing.items.is_empty() {
        packing.put(&mut boxes, None)?;
    }
    boxes.into_iter().try_for_each(Filling::store)
}

/// What came out of one parcel.
#[derive(Debug, Default)]
pub struct Contents {
    /// The counters of the process before.
    pub totals: Option<Totals>,
    /// Its sessions, in their order; of one that cannot be read, what is wrong with it. Its ends are aborted.
    pub sessions: Vec<Result<Restored, String>>,
}

impl Contents {
    /// Tells that a parcel could not be read.
    pub fn unreadable(problem: &str) -> Contents {
        Contents {
            totals: None,
            sessions: vec![Err(problem.to_owned())],
        }
    }
}

/// Takes the sessions out of a parcel.
pub fn take_over(parcel: Parcel) -> Contents {
    let mut descriptors = parcel.descriptors.into_iter();
    let end = parcel.bytes.iter().position(|&byte| byte == b'\n');
    let (line, mut bytes) = parcel.bytes.split_at(end.unwrap_or(parcel.bytes.len()));
    bytes = bytes.get(1..).unwrap_or_default();
    let line: Line = match serde_json::from_slice(line) {
        Ok(Line { format, .. }) if format != FORMAT => {
            return refuse(descriptors, format!("its format is {format}, not {FORMAT}"));
        }
        Ok(line) => line,
        Err(error) => return refuse(descriptors, error.to_string()),
    };
    let mut sessions = Vec::new();
    for item in line.sessions {
        let own: Vec<OwnedFd> = descriptors.by_ref().take(item.descriptors).collect();
        let (held, rest) = bytes.split_at(item.bytes.min(bytes.len()));
        bytes = rest;
        sessions.push(restore(item, own, held));
    }
    Contents {
        totals: line.totals,
        sessions,
    }
}

fn refuse(descriptors: impl Iterator<Item = OwnedFd>, problem: String) -> Contents {
    abort(descriptors);
    Contents::unreadable(&problem)
}

fn restore(item: Item, descriptors: Vec<OwnedFd>, held: &[u8]) -> Result<Restored, String> {
    let record: Record = match serde_json::from_value(item.record) {
        Ok(record) => record,
        Err(error) => {
            abort(descriptors.into_iter());
            return Err(error.to_string());
        }
    };
    let is_whole = descriptors.len() == item.descriptors && held.len() == item.bytes;
    let mut left = descriptors.into_iter();
    let mut next = || left.next().ok_or("a descriptor is missing");
    let peer = stream(next()?)?;
    let Some(relay) = record.relay else {
        return Ok(Restored::Connecting(peer, record.peer));
    };
    let target = stream(next()?)?;
    let (
        Relay {
            inbound, outbound, ..
        },
        mut held,
    ) = (&relay, held);
    let mut flow = |record: &FlowRecord| -> Result<Flow, &'static str> {
        let pipe = match record.piped_bytes {
            0 => None,
            count => Some(Pipe::of(next()?, next()?, count)),
        };
        let (own, rest) = held
            .split_at_checked(record.held_bytes)
            .ok_or("bytes are missing")?;
        held = rest;
        Ok(Flow::restore(record, own, pipe))
    };
    let flows = (|| Ok((flow(inbound)?, flow(outbound)?)))();
    match flows {
        Ok((inbound, outbound)) if is_whole => {
            let end = |stream, failure: Option<i32>| End {
                failure: failure.map(Errno::from_raw),
                ..End::new(stream)
            };
            let connection = Connection::restore(
                (
                    end(peer, relay.peer_failure),
                    end(target, relay.target_failure),
                ),
                (inbound, outbound),
                Moment::from_nanoseconds(relay.active),
            );
            let started = Moment::from_nanoseconds(record.started);
            let session = Session::restore(connection, record.peer, started);
            Ok(Restored::Relaying(Box::new(session)))
        }
        flows => {
            peer.abort();
            target.abort();
            Err(flows.err().unwrap_or("a part is missing").to_owned())
        }
    }
}

/// Makes a stream of a socket that was handed over; closing it is no abort any more.
fn stream(socket: OwnedFd) -> Result<Stream, String> {
    let address = sys::local_address(socket.as_fd()).map_err(|errno| errno.desc().to_owned())?;
    let family = Family::of(&address).ok_or("a socket is of no known family")?;
    let stream = Stream::socket(socket, family);
    stream.reset_on_close(false);
    Ok(stream)
}

fn abort(descriptors: impl Iterator<Item = OwnedFd>) {
    for stream in descriptors.flat_map(stream) {
        stream.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// Two streams of a session and the far ends that a test plays.
    fn session() -> (Session, UnixStream, UnixStream) {
        let (client, peer) = UnixStream::pair().unwrap();
        let (server, target) = UnixStream::pair().unwrap();
        let stream = |own: UnixStream| Stream::passed(own.into(), Family::Unix).unwrap();
        let session = Session::relay(
            stream(peer),
            Peer::Unix(Some(7)),
            stream(target),
            Moment::now(),
        );
        (session, client, server)
    }

    /// Puts sessions into a parcel as [`hand_over`] does.
    fn parcel(sessions: &[&Session], alter: impl FnOnce(&mut Vec<Item>)) -> Parcel {
        let mut packing = Packing::default();
        sessions
            .iter()
            .for_each(|session| packing.add(session).unwrap());
        alter(&mut packing.items);
        let line = Line {
            format: FORMAT,
            totals: None,
            sessions: packing.items,
        };
        let mut bytes = serde_json::to_vec(&line).unwrap();
        bytes.push(b'\n');
        bytes.append(&mut packing.bytes);
        let descriptors = packing.descriptors.iter();
        Parcel {
            bytes,
            descriptors: descriptors
                .map(|fd| fd.try_clone_to_owned().unwrap())
                .collect(),
        }
    }

    #[test]
    fn a_session_goes_on_in_its_parcel() {
        let (old, mut client, mut server) = session();
        let contents = take_over(parcel(&[&old], |_| {}));
        let Ok(Restored::Relaying(new)) = &contents.sessions[0] else {
            panic!("{contents:?}");
        };
        assert_eq!((new.peer, new.started), (old.peer, old.started));
        drop(old);
        let (peer, target) = new.streams().unwrap();
        client.write_all(b"x").unwrap();
        assert_eq!(nix::unistd::read(peer.input(), &mut [0; 9]), Ok(1));
        nix::unistd::write(target.input(), b"yz").unwrap();
        let mut answer = [0; 2];
        server.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"yz");
    }

    #[test]
    fn a_record_that_cannot_be_read_costs_only_its_own_session() {
        let (first, mut client, _server) = session();
        let (second, _client, _other) = session();
        let contents = take_over(parcel(&[&first, &second], |items| {
            items[0].record = Value::from("nonsense");
        }));
        assert!(contents.sessions[0].is_err());
        assert!(matches!(contents.sessions[1], Ok(Restored::Relaying(_))));
        // Its ends are closed: nobody waits for what never comes.
        drop(first);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn what_a_newer_program_adds_is_left_unread() {
        let (old, _client, _server) = session();
        let contents = take_over(parcel(&[&old], |items| {
            items[0].record["more"] = Value::from(1);
        }));
        assert!(matches!(contents.sessions[0], Ok(Restored::Relaying(_))));
    }

    #[test]
    fn another_format_is_refused_and_said() {
        let line = format!(
            "{{\"format\":{},\"totals\":null,\"sessions\":[]}}\n",
            FORMAT + 1
        );
        let contents = take_over(Parcel {
            bytes: line.into_bytes(),
            descriptors: Vec::new(),
        });
        let problem = contents.sessions[0].as_ref().unwrap_err();
        assert_eq!(problem, "its format is 2, not 1");
    }

    #[test]
    fn parcels_that_make_no_sense_cost_only_what_is_in_them() {
        for text in ["", "\n", "{}\n", "null\n", "{\"format\":1}\n", "[1"] {
            let contents = take_over(Parcel {
                bytes: text.into(),
                descriptors: Vec::new(),
            });
            assert!(contents.sessions[0].is_err(), "{text:?}");
        }
        let (old, ..) = session();
        let mut short = parcel(&[&old], |_| {});
        short.descriptors.pop();
        assert!(take_over(short).sessions[0].is_err());
    }
}
