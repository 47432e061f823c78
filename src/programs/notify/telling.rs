//! Tells the service manager what the machine says, without a wait: it may have no room for more yet, as while it is busy or
//! starts anew, and the machine is heard meanwhile.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;

use crate::clock::Moment;
use crate::logging::rate_limit::RateLimit;
use crate::notify::Manager;

use super::words::Words;

/// Messages that wait. Of more the oldest is left out that does not say that the machine is ready.
const WAITING_MAX: usize = 64;
/// How long one waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be told.
#[derive(Debug)]
pub(super) struct Telling {
    manager: Option<Manager>,
    waiting: VecDeque<Waiting>,
    losses: RateLimit,
}

#[derive(Debug)]
struct Waiting {
    lines: String,
    deadline: Moment,
}

impl Telling {
    /// Begins with nothing.
    pub(super) fn new() -> Telling {
        Telling {
            manager: None,
            waiting: VecDeque::new(),
            losses: RateLimit::new(10),
        }
    }

    /// Tells the lines of a message, after those that wait already.
    pub(super) fn tell(&mut self, lines: String, now: Moment) {
        if self.waiting.len() == WAITING_MAX {
            let says_little = |message: &Waiting| !Words::say_ready(&message.lines);
            let oldest = self.waiting.iter().position(says_little);
            self.waiting.remove(oldest.unwrap_or(0));
            self.lose("it takes none of many", now);
        }
        let deadline = now + PATIENCE;
        self.waiting.push_back(Waiting { lines, deadline });
        self.go_on(now);
    }

    /// Tells as much as there is room for.
    pub(super) fn go_on(&mut self, now: Moment) {
        while let Some(first) = self.waiting.front() {
            let is_late = first.deadline <= now;
            match send(&mut self.manager, &first.lines) {
                Ok(()) => {}
                Err(Errno::EAGAIN) if !is_late => return,
                Err(Errno::EAGAIN) => self.lose("it takes none for a minute", now),
                Err(errno) => self.lose(errno.desc(), now),
            }
            self.waiting.pop_front();
        }
    }

    fn lose(&mut self, why: &str, now: Moment) {
        if self.losses.admit(now).is_some() {
            log::warn!("cannot tell the service manager what the machine says: {why}");
        }
    }

    /// Returns what can be written to when there is room again; none if nothing waits.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let manager = self.manager.as_ref()?;
        (!self.waiting.is_empty()).then(|| manager.descriptor())
    }

    /// Returns when [`Telling::go_on`] must be called.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.waiting.front().map(|message| message.deadline)
    }
}

/// Sends lines to the service manager, which may be another than before; without one there is nothing to do.
fn send(manager: &mut Option<Manager>, lines: &str) -> Result<(), Errno> {
    if let Some(known) = manager {
        match known.tell(lines) {
            Err(errno) if errno != Errno::EAGAIN => {}
            told => return told,
        }
    }
    *manager = Manager::connect()?;
    manager.as_ref().map_or(Ok(()), |new| new.tell(lines))
}
