//! What can go wrong with the bench itself. A relay that misbehaves is a result, not an error.

use std::io;

/// A failed step of the bench.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Os {
        /// What was being done, with its object.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A relay did not do what the scenario needs.
    #[error("{0}")]
    Relay(String),
    /// An option's value makes no sense.
    #[error("{0}")]
    Usage(String),
}

/// The bench's result type.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds what was being done to an error of the kernel.
pub trait Doing<T> {
    /// Names the step that failed.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Os {
            doing: what(),
            source: source.into(),
        })
    }
}
