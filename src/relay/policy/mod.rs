//! Decisions that only change how fast things go, each with what it gains.

pub mod bulk;
pub mod busy_poll;
pub mod coalesce;
pub mod relief;
pub mod splice;
