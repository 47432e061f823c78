//! Connections against a kernel that answers each call with anything that it may answer.
//!
//! What must hold whatever the [scripts](fake) are stands in [`check`].

use std::ops::ControlFlow;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use proptest::prelude::*;

use super::connection::Connection;
use super::end::End;
use super::fake::{Arrival, Fake, Last, Room, Script};
use super::flow::Turn;
use super::shared::Shared;
use crate::accounting::Ending;
use crate::clock::Moment;
use crate::handover::Store;
use crate::peer::{Family, Side};

/// All bytes that a script sends.
fn all_bytes(script: &Script) -> Vec<u8> {
    let bytes = |arrival: &Arrival| match arrival {
        Arrival::Bytes(bytes) => bytes.clone(),
        _ => Vec::new(),
    };
    script.arrivals.iter().flat_map(bytes).collect()
}

/// A wire of which everything that was written is acknowledged.
fn wire(script: &Script) -> Fake {
    let wire = Fake::new(script.clone());
    wire.is_acknowledged.set(true);
    wire
}

/// Runs a connection until it is over, or nothing can happen any more; gives its ending, and both wires.
fn run(peer: &Script, target: &Script) -> (Option<Ending>, Connection<Fake>) {
    let mut now = Moment::now();
    let ends = (End::new(wire(peer)), End::new(wire(target)));
    let mut connection = Connection::new(ends.0, ends.1, now);
    let mut shared = Shared::new(Store::private().unwrap());
    for _ in 0..100_000 {
        for side in [Side::Peer, Side::Target] {
            let end = match side {
                Side::Peer => connection.ends().0,
                Side::Target => connection.ends().1,
            };
            let events = end.wire.events.replace(EpollFlags::empty());
            connection.on_events(side, events);
        }
        // Small writes wait for a moment of the clock.
        let deadline = connection.deadline(&super::Limits::default());
        now = deadline.map_or(now, |at| at.max(now));
        let outcome = connection.advance(&mut shared, None, now);
        for side in [Side::Peer, Side::Target] {
            let wanted = connection.wanted(side);
            let end = connection.end_mut(side);
            if std::mem::replace(&mut end.interest, wanted) != wanted {
                end.wire.change(wanted);
            }
        }
        let (peer, target) = connection.ends();
        let events = peer.wire.events.get() | target.wire.events.get();
        let is_still =
            events.is_empty() && connection.deadline(&super::Limits::default()).is_none();
        match outcome {
            ControlFlow::Break(ending) => return (Some(ending), connection),
            ControlFlow::Continue(Turn::Waiting) if is_still => return (None, connection),
            _ => {}
        }
    }
    panic!("it goes on for ever: {connection:?}");
}

/// What must hold of the direction from `source` to `sink`.
fn check(
    ending: Option<Ending>,
    (source, source_script): (&Fake, &Script),
    sink: &Fake,
    is_last_end_by_close: bool,
) -> Result<(), TestCaseError> {
    let (taken, total) = (sink.taken.borrow(), all_bytes(source_script));
    prop_assert!(
        total.starts_with(&taken) && source.sent.borrow().starts_with(&taken),
        "bytes that were not sent"
    );
    let finished = sink.finished.get();
    prop_assert!(finished <= 1, "{finished} ends were sent on");
    let is_clean = source_script.last == Last::End;
    let is_told_end = finished == 1 || is_last_end_by_close && ending == Some(Ending::Complete);
    if is_told_end {
        prop_assert!(is_clean, "an end though {:?}", source_script.last);
        prop_assert_eq!(taken.len(), total.len(), "an end before the last byte");
    }
    let is_sink_whole = !sink.broken.get().is_some_and(|_| true);
    let both_go_on = ending.is_none() || ending == Some(Ending::Complete);
    if both_go_on && is_sink_whole {
        prop_assert_eq!(taken.len(), total.len(), "bytes stay behind");
        prop_assert_eq!(is_told_end, is_clean, "an end stays behind");
    }
    Ok(())
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Tcp), Just(Family::Unix), Just(Family::Vsock)]
}

fn zeros(count: usize) -> Arrival {
    Arrival::Bytes(vec![0; count])
}

/// Each byte says at which place of the stream it is.
fn numbered(mut arrivals: Vec<Arrival>) -> Vec<Arrival> {
    let mut place = 0usize;
    for arrival in &mut arrivals {
        if let Arrival::Bytes(bytes) = arrival {
            for byte in bytes {
                *byte = (place % 251) as u8;
                place += 1;
            }
        }
    }
    arrivals
}

fn script() -> impl Strategy<Value = Script> {
    let arrival = prop_oneof![
        4 => (1..200usize).prop_map(zeros),
        // Enough to fill a buffer, which begins a burst.
        2 => (100_000..300_000usize).prop_map(zeros),
        2 => Just(Arrival::Nothing),
        1 => Just(Arrival::Interrupt),
        1 => Just(Arrival::Urgent),
    ];
    let room = prop_oneof![
        4 => (1..100_000usize).prop_map(Room::Bytes),
        4 => Just(Room::None),
        1 => Just(Room::Interrupt),
    ];
    let broken = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Errno::EPIPE)),
        1 => Just(Some(Errno::ECONNRESET)),
        1 => Just(Some(Errno::ENOBUFS)),
    ];
    let last = prop_oneof![
        1 => Just(Last::Silence),
        6 => Just(Last::End),
        1 => Just(Last::Error),
        1 => Just(Last::EarlyError),
        1 => Just(Last::HiddenError),
    ];
    let arrivals = prop::collection::vec(arrival, 0..8);
    let rooms = prop::collection::vec(room, 0..8);
    (arrivals, last, rooms, broken, family()).prop_map(
        |(arrivals, last, mut rooms, broken, family)| {
            rooms.extend(broken.map(Room::Broken));
            let is_there =
                |arrival: &Arrival| family == Family::Tcp || !matches!(arrival, Arrival::Urgent);
            Script {
                // vsock has no urgent bytes, and a unix socket passes over them.
                arrivals: numbered(arrivals.into_iter().filter(is_there).collect()),
                // Only vsock hides errors behind an end.
                last: match last {
                    Last::HiddenError if family != Family::Vsock => Last::Error,
                    last => last,
                },
                rooms,
                rooms_end: Room::Bytes(usize::MAX),
                family,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_kernel_answers(peer in script(), target in script()) {
        let (ending, connection) = run(&peer, &target);
        let ends = connection.ends();
        let (peer_wire, target_wire) = (&ends.0.wire, &ends.1.wire);
        check(ending, (peer_wire, &peer), target_wire, target_wire.finished.get() == 0)?;
        check(ending, (target_wire, &target), peer_wire, peer_wire.finished.get() == 0)?;
        let is_clean = |script: &Script| script.last == Last::End
            && !script.rooms.iter().any(|room| matches!(room, Room::Broken(_)));
        if is_clean(&peer) && is_clean(&target) {
            prop_assert_eq!(ending, Some(Ending::Complete));
        }
        let has_failed = |script: &Script| !matches!(script.last, Last::End | Last::Silence);
        if has_failed(&peer) || has_failed(&target) {
            prop_assert_ne!(ending, Some(Ending::Complete), "an error that nobody hears of");
        }
        let runs_short = |wire: &Fake| wire.broken.get() == Some(Errno::ENOBUFS);
        if runs_short(peer_wire) || runs_short(target_wire) {
            prop_assert!(ending.is_some(), "it waits for a socket that lives");
        }
    }
}
