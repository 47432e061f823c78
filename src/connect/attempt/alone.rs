//! An attempt of a program of one connection, which has no loop: it waits by itself.

use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Attempt, Readiness, State, Step};
use crate::clock::Moment;
use crate::connect::{Dialer, Target, Targets};
use crate::error::{Error, Result};
use crate::stream::Stream;

impl Attempt {
    /// Waits until the target is connected, where there is no loop to watch the stream. `tell` gets the first reason for which
    /// a round is tried again, once the next one is waited for. `renew` gives where the name of the target leads by now: before
    /// each step, and once more when its machine has answered, which may have lost the name in that moment.
    pub(crate) fn wait_connected(
        &mut self,
        dialer: &mut Dialer,
        renew: impl Fn() -> Option<Target>,
        tell: impl FnOnce(&str),
    ) -> Result<Stream> {
        let mut readiness = Readiness::Waiting;
        let mut tell = Some(tell);
        let renew = |dialer: &mut Dialer| {
            if let Some(target) = renew() {
                *dialer = dialer.with_targets(Targets::common(target));
            }
        };
        loop {
            renew(dialer);
            let now = Moment::now();
            match self.step(dialer, &mut readiness, now, &mut |_| Ok(())) {
                Ok(Step::Connected(stream)) => {
                    renew(dialer);
                    if !self.has_moved(dialer) {
                        return Ok(stream);
                    }
                    stream.abort();
                    readiness = Readiness::Waiting;
                }
                Ok(Step::Moved) => {}
                Ok(Step::Waiting) => readiness = self.poll()?,
                Err(error) => {
                    let problem = error.report();
                    self.failed(dialer, error, now)?;
                    if matches!(self.state, State::Pausing { .. } | State::Queued { .. }) {
                        if let Some(tell) = tell.take() {
                            tell(&problem);
                        }
                    }
                }
            }
        }
    }

    /// Waits for the stream to become ready, or for the deadline.
    fn poll(&self) -> Result<Readiness> {
        let left = self
            .deadline()
            .map_or(Duration::ZERO, |deadline| deadline - Moment::now());
        // Rounded up, so that the deadline has passed when the time is over.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let interest = match &self.state {
            State::Handshaking { .. } => PollFlags::POLLIN,
            _ => PollFlags::POLLOUT,
        };
        let mut watched: Vec<PollFd<'_>> = self
            .stream()
            .map(|s| PollFd::new(s.input(), interest))
            .into_iter()
            .collect();
        match poll(&mut watched, timeout) {
            Ok(0) => Ok(Readiness::Waiting),
            // Whether it has failed costs one more call to know, which a program of one connection can spare.
            Ok(_) => Ok(Readiness::Failed),
            Err(Errno::EINTR) => Ok(Readiness::Waiting),
            Err(source) => Err(Error::System {
                operation: "wait for the target",
                source,
            }),
        }
    }
}
