//! What is measured, by name. Each file below owns one kind.

mod bulk;
mod half_close;
mod idle;
mod round_trip;
mod short;

use std::time::Duration;

use crate::error::Result;
use crate::figures::metric::Values;
use crate::run::Run;

/// One scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// N connections that are open and silent.
    Idle { connections: u32 },
    /// Streams as fast as they go.
    Bulk {
        streams: u32,
        inbound: bool,
        outbound: bool,
    },
    /// Questions and answers.
    RoundTrip { size_bytes: u32, connections: u32 },
    /// A question in two writes: Nagle's algorithm against delayed acknowledgements.
    SplitRequest,
    /// Questions and answers next to four streams.
    UnderBulk,
    /// Connections that are used once.
    Short { at_once: u32 },
    /// As an ordinary user: 300 idle connections and four streams, past the soft limit for pipes.
    Unprivileged,
    /// An answer that comes after the end of the question.
    HalfClose { delay_ms: u32 },
}

/// All scenarios. Idle ones come first: short connections leave TIME_WAIT sockets, whose end would show in slab memory.
pub fn all() -> Vec<Scenario> {
    let mut all: Vec<Scenario> = [1000, 3000, 9000]
        .map(|connections| Scenario::Idle { connections })
        .into();
    for (inbound, outbound) in [(true, false), (false, true), (true, true)] {
        all.extend([1, 8].map(|streams| Scenario::Bulk {
            streams,
            inbound,
            outbound,
        }));
    }
    for connections in [1, 64] {
        all.extend([64, 4096].map(|size_bytes| Scenario::RoundTrip {
            size_bytes,
            connections,
        }));
    }
    all.extend([
        Scenario::SplitRequest,
        Scenario::UnderBulk,
        Scenario::Unprivileged,
    ]);
    all.extend([50, 1000].map(|delay_ms| Scenario::HalfClose { delay_ms }));
    all.extend([16, 1].map(|at_once| Scenario::Short { at_once }));
    all
}

impl Scenario {
    /// Its name in options, table and JSON lines.
    pub fn name(self) -> String {
        match self {
            Self::Idle { connections } => format!("idle-{connections}"),
            Self::Bulk {
                streams,
                inbound: true,
                outbound: false,
            } => format!("bulk-up-{streams}"),
            Self::Bulk {
                streams,
                inbound: false,
                ..
            } => format!("bulk-down-{streams}"),
            Self::Bulk { streams, .. } => format!("bulk-both-{streams}"),
            Self::RoundTrip {
                size_bytes,
                connections,
            } => format!("rtt-{size_bytes}b-{connections}"),
            Self::SplitRequest => "split-request".into(),
            Self::UnderBulk => "under-bulk".into(),
            Self::Short { at_once } => format!("short-{at_once}"),
            Self::Unprivileged => "unprivileged".into(),
            Self::HalfClose { delay_ms } => format!("half-close-{delay_ms}ms"),
        }
    }

    /// Whether the relay runs as an ordinary user.
    pub fn is_unprivileged(self) -> bool {
        self == Self::Unprivileged
    }

    /// Whether a quick run has it.
    pub fn is_quick(self) -> bool {
        !matches!(
            self,
            Self::Idle {
                connections: 3000..
            }
        )
    }

    /// The most connections that it holds.
    pub fn connections(self) -> u32 {
        match self {
            Self::Idle { connections } => connections,
            _ => 0,
        }
    }

    /// Measures. Takes the window and a few seconds more at most, whatever the relay does.
    pub fn measure(self, run: &Run, window: Duration) -> Result<Values> {
        match self {
            Self::Idle { connections } => idle::measure(run, connections, window),
            Self::Bulk {
                streams,
                inbound,
                outbound,
            } => bulk::measure(
                run,
                &vec![bulk::Directions { inbound, outbound }; streams as usize],
                window,
            ),
            Self::RoundTrip {
                size_bytes,
                connections,
            } => round_trip::measure(run, connections, size_bytes, window),
            Self::SplitRequest => round_trip::measure_split(run, window),
            Self::UnderBulk => bulk::measure_round_trips_beside(run, window),
            Self::Short { at_once } => short::measure(run, at_once, window),
            Self::Unprivileged => idle::measure_bulk_beside(run, window),
            Self::HalfClose { delay_ms } => half_close::measure(run, delay_ms),
        }
    }
}
