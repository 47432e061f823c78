//! Decisions that only change how fast things go, each with what it gains.

pub(crate) mod bulk;
pub(crate) mod busy_poll;
pub(crate) mod coalesce;
pub(crate) mod relief;
pub(crate) mod splice;
