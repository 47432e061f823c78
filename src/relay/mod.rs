//! Moves bytes between peers and targets, edge-triggered, with nothing that blocks.
//!
//! [`event_loop`] waits and dispatches; a [`worker`] has the sessions of one thread, and [`threads`] beside the loop have
//! those that move much or are too many; a [`session`] is one peer from accept to close; a [`connection`] has the two
//! flows of a session whose target is reached; a [`flow`] is one direction.

pub mod closing;
pub mod connection;
pub mod dialing;
pub mod end;
pub mod ending;
pub mod event_loop;
#[cfg(test)]
mod fake;
pub mod flow;
pub mod inspection;
pub mod listeners;
#[cfg(test)]
mod model;
pub mod pipes;
pub mod policy;
pub mod record;
pub mod report;
pub mod restore;
mod round;
pub mod session;
pub mod sessions;
pub mod shared;
pub mod signals;
pub mod threads;
pub mod token;
pub mod wire;
pub mod worker;

pub use connection::Limits;
pub use ending::Ending;
pub use event_loop::{Loop, LoopSettings};
pub use report::Totals;
pub use session::Session;
