//! What a loop tells the administrator through its control socket.

use super::{Loop, Mode};
use crate::accounting::counters;
use crate::accounting::snapshot::{Failure, Material, Snapshot};
use crate::clock::Moment;
use crate::peer::Family;
use crate::stream::Listener;

impl Loop {
    pub(super) fn inspect(&mut self, now: Moment) {
        let epoll = self.worker.epoll();
        let asked = self.inspection.as_mut();
        let Some(stream) = asked.and_then(|inspection| inspection.accept(epoll, now)) else {
            return;
        };
        if let Some(inspection) = &self.inspection {
            let material = Material {
                snapshot: self.snapshot(now),
                entries: self.worker.entries(),
                others: self.threads.entries(),
            };
            inspection.answer(stream, material);
        }
    }

    fn snapshot(&self, now: Moment) -> Snapshot {
        let (totals, store) = (self.reporter.totals, self.worker.store());
        Snapshot {
            pid: std::process::id(),
            state: match self.mode {
                Mode::Serving => "serving".into(),
                _ => "stopping".into(),
            },
            listeners: self
                .listeners
                .iter()
                .map(|l| l.local().to_string())
                .collect(),
            target: self.worker.dialer().targets.to_string(),
            allow_cid: self.allow_cid(),
            open: self.open(),
            served: totals.served,
            refused: totals.refused,
            refused_by_reason: counters::refusals(store),
            unreachable: totals.unreachable,
            unreachable_by_reason: counters::failures(store),
            last_failure: (self.reporter.last_failure.as_ref()).map(|(reason, then)| Failure {
                reason: reason.clone(),
                age_seconds: (now - *then).as_secs_f64(),
            }),
            inbound_bytes: totals.inbound_bytes,
            outbound_bytes: totals.outbound_bytes,
            connect_times: Some(counters::connect_times(store)),
            connections: Vec::new(),
        }
    }

    fn allow_cid(&self) -> Option<String> {
        let is_vsock = |listener: &Listener| listener.family() == Family::Vsock;
        (self.listeners.iter().any(is_vsock)).then(|| self.gate.allowed.list().to_string())
    }
}
