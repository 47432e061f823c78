//! Moves bytes between peers and targets: one edge-triggered loop, no thread, nothing that blocks.
//!
//! [`event_loop`] waits and dispatches; [`session`] is one peer from accept to close; [`connection`] has the two
//! flows of a session whose target is reached; [`flow`] is one direction.

pub mod connection;
pub mod event_loop;
#[cfg(test)]
mod fake;
pub mod flow;
pub mod listeners;
pub mod pipes;
pub mod session;
pub mod sessions;
pub mod timers;
pub mod token;
pub mod wire;

pub use connection::{Ending, Limits};
pub use event_loop::{Loop, LoopSettings, Totals};
pub use session::{Session, Summary};
