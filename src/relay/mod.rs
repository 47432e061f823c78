//! Moves bytes between peers and targets, edge-triggered, with nothing that blocks.
//!
//! # The life of a connection
//!
//! A [session] is one peer from accept to close. What it may do is said by its phase, and, once its target is
//! reached, by the [state](flow::State) of each [flow]: inbound is from the peer to the target, outbound the other way.
//! Both flows go through the same states, alone, and a half-close is nothing but one of them being further than the other.
//!
//! | phase | what has happened | what may be read | what may be written | what is owed |
//! | --- | --- | --- | --- | --- |
//! | [`Asking`](asking) | the gate let a peer of the gateway in, which says where it wants to go | what it has sent, but nothing is taken | answers to its request | a request before the request time, and a name before the connect timeout, else a refusal |
//! | [`Dialing`](dialing) | the gate let the peer in; its target is being connected | nothing; an end or error of the peer is noted | nothing | an answer of the target before the connect timeout, else a reset |
//! | Relaying, flow [`Open`](flow::State::Open), nothing held | the source may send | from the source, if the sink has room | – | – |
//! | … `Open`, bytes held | a read gave more than the sink took | nothing more | what is held, when there is room | these bytes |
//! | … [`Draining`](flow::State::Draining) | the source has ended | nothing more | what is held, then the end, once | these bytes and the end |
//! | … [`Finished`](flow::State::Finished) | the end was sent on, or is left to the close as the last one | nothing | nothing | – |
//! | … [`Refused`](flow::State::Refused) | the sink failed; what was held is dropped | nothing | nothing | an abort of both ends, when the other flow has delivered what the sink had sent |
//! | over: [`Ending`] | both `Finished`, an [end](mod@end) failed, a limit passed, or the program stops | nothing | nothing | a clean close if it is [`Complete`], else a reset |
//!
//! An end is read once and sent on once, after the last byte. An error of the source ends both directions, since its bytes
//! will never be complete; one of the sink ends one direction at first. Each rule is in one place: what is read and written
//! in [`flow`], why it is over in [`ending`], what epoll is asked for in [`End::wanted`](end::End::wanted), what the next
//! process would find in [`record`] and [`handover`](crate::handover).
//!
//! # Walk
//!
//! [`round`] waits, and gives each event to its [session](worker::Worker::on_events); `Session::advance` → `Connection::advance` →
//! `Flow::advance` → [`Wire::read`](wire::Wire::read) → recvmmsg(2), and back up with a [`Turn`](flow::Turn), or with an [`Ending`]. The
//! [worker] then asks epoll for what the new state wants, and sets its deadline. Whatever is over at the end of a round is
//! [closed](closing) together and [reported](crate::accounting).
//!
//! # Words
//!
//! - *peer*, *target*: who connected to us, and whom we connect to; each is an [end](mod@end) with a [wire].
//! - *flow*: one direction; *source* and *sink* are its two ends.
//! - *held*: bytes that were read and not yet written, in a buffer or in a pipe. A flow reads only when it holds nothing.
//! - *interest*: what epoll is asked to report.
//! - *turn*: what one connection may do before the others; *round*: a turn for all that have something to do.
//! - *worker*: the sessions of one thread. *Bulk* and *relief* are the two jobs of [threads](crate::serve) beside the main loop.
//! - *kept*: put where the next process finds it, in the [store](crate::handover::Store); *inherited*: found there.
//! - *drain*: to let open connections finish; *hand over*: to leave them to the next process; *abort*: to end a connection so
//!   that nobody takes it for complete; *close*: the end of a session in whatever way.
//! - *policy*: what only changes how fast things go.
//!
//! # What must never be
//!
//! - Nothing blocks but epoll_wait(2), and nothing is tried again without an event, a deadline or a place in the ring.
//! - No byte leaves a buffer before the sink has taken it, and no flow holds more than one read.
//! - Nothing here accepts or hears signals, which is done [above](crate::serve); nothing below [`worker`] knows of epoll's
//!   instance; [`flow`] and [`connection`] know neither sockets nor a clock (the tests have a model of the kernel for them).
//!
//! [`Ending`]: crate::accounting::Ending
//! [`Complete`]: crate::accounting::Ending::Complete

pub(crate) mod asking;
pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod details;
pub(crate) mod dialing;
pub(crate) mod end;
pub(crate) mod ending;
#[cfg(test)]
mod fake;
pub(crate) mod flow;
#[cfg(test)]
mod model;
pub(crate) mod pipes;
pub(crate) mod policy;
pub(crate) mod record;
pub(crate) mod round;
pub(crate) mod session;
pub(crate) mod sessions;
pub(crate) mod shared;
pub(crate) mod token;
pub(crate) mod wire;
pub(crate) mod worker;

pub(crate) use connection::Limits;
