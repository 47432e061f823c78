//! What a bridge tells of its connections, and never acts on: [counters] that outlive the process, what remains of those that
//! are [over](closed), lines of the log and the status line ([`report`]), and the [snapshot] for `vsockctl`.

pub(crate) mod closed;
pub(crate) mod counters;
pub(crate) mod report;
pub(crate) mod snapshot;

pub(crate) use closed::{Closed, Ending};
pub(crate) use counters::Totals;
