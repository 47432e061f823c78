//! The relay's processor time during a part of a run.

use std::time::{Duration, Instant};

use crate::run::Run;

/// A moment to measure from.
pub struct CpuWatch {
    start: Instant,
    before: Duration,
}

impl CpuWatch {
    /// Starts to watch.
    pub fn start(run: &Run) -> Self {
        Self {
            before: run.cpu_time(),
            start: Instant::now(),
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Seconds of processor time since the start. `None` without a relay, and when it is more than all processors have:
    /// a virtual machine that its host has paused charges the pause to whoever was running.
    pub fn used_seconds(&self, run: &Run) -> Option<f64> {
        run.group()?;
        let used = run.cpu_time().checked_sub(self.before)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let most = self.elapsed() * processors as u32;
        (used <= most).then_some(used.as_secs_f64())
    }
}
