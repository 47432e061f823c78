//! How busy the machine was with other things while a scenario ran. Figures from a busy machine look like figures.

use std::time::{Duration, Instant};

use crate::accounting::{machine_cpu_time, own_cpu_time};
use crate::run::Run;

/// A moment to measure from.
pub struct Disturbance {
    start: Instant,
    ours_before: Duration,
    machine_before: Duration,
}

impl Disturbance {
    /// Starts to watch.
    pub fn watch(run: &Run) -> Self {
        Self {
            start: Instant::now(),
            ours_before: own_cpu_time() + run.cpu_time(),
            machine_before: machine_cpu_time(),
        }
    }

    /// Processors that were busy with neither load nor relay, on average since the start.
    pub fn processors(&self, run: &Run) -> f64 {
        let machine = machine_cpu_time().saturating_sub(self.machine_before);
        let ours = (own_cpu_time() + run.cpu_time()).saturating_sub(self.ours_before);
        machine.saturating_sub(ours).as_secs_f64() / self.start.elapsed().as_secs_f64()
    }
}
