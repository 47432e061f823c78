//! What this project wants to reach, and whether a run did: ratios of ours to the others, each with its limit.

use crate::address::{Family, Kind};

use super::figure::{Figure, Ratio};
use super::measurement::Measurement;
use super::metric::{
    CONNECTIONS, CPU_PER_CONNECTION, CPU_PER_GIB, CPU_PER_MESSAGE, DESCRIPTORS, GIB_PER_SECOND,
    MESSAGES, Metric, P50, P99, RSS_PER_CONNECTION, SLAB_PER_CONNECTION,
};
use super::relay::Relay;

const TCP6: Family = Family::new(Kind::Tcp6, Kind::Tcp6);
const TCP6_UNIX: Family = Family::new(Kind::Tcp6, Kind::Unix);
const UNIX: Family = Family::new(Kind::Unix, Kind::Unix);
const VSOCK_TCP6: Family = Family::new(Kind::Vsock, Kind::Tcp6);
const TCP6_VSOCK: Family = Family::new(Kind::Tcp6, Kind::Vsock);

struct Goal {
    family: Family,
    scenario: &'static str,
    metric: &'static Metric,
    /// From above or from below, as the metric says.
    limit: f64,
}

const fn goal(family: Family, scenario: &'static str, metric: &'static Metric, limit: f64) -> Goal {
    Goal {
        family,
        scenario,
        metric,
        limit,
    }
}

static TO_PROXYD: [Goal; 38] = [
    goal(TCP6, "bulk-up-8", &GIB_PER_SECOND, 1.40),
    goal(TCP6, "bulk-down-8", &GIB_PER_SECOND, 1.40),
    goal(TCP6, "bulk-both-8", &GIB_PER_SECOND, 1.45),
    goal(TCP6, "bulk-up-8", &CPU_PER_GIB, 0.60),
    goal(TCP6, "bulk-down-8", &CPU_PER_GIB, 0.60),
    goal(TCP6, "rtt-64b-1", &P50, 0.55),
    goal(TCP6, "rtt-64b-1", &P99, 0.70),
    goal(TCP6, "rtt-64b-64", &MESSAGES, 3.5),
    goal(TCP6, "rtt-64b-64", &P99, 0.30),
    goal(TCP6, "rtt-64b-64", &CPU_PER_MESSAGE, 0.25),
    goal(TCP6, "split-request", &P99, 0.003),
    goal(TCP6, "under-bulk", &P99, 0.005),
    goal(TCP6, "short-16", &CONNECTIONS, 1.8),
    goal(TCP6, "short-1", &CONNECTIONS, 1.8),
    goal(TCP6, "short-16", &CPU_PER_CONNECTION, 0.45),
    goal(TCP6, "short-1", &CPU_PER_CONNECTION, 0.45),
    goal(TCP6, "idle-1000", &RSS_PER_CONNECTION, 0.18),
    // 0.41 of what is above the two ends of the load.
    goal(TCP6, "idle-1000", &SLAB_PER_CONNECTION, 0.54),
    goal(TCP6, "idle-1000", &DESCRIPTORS, 0.34),
    goal(TCP6, "unprivileged", &GIB_PER_SECOND, 1.8),
    goal(TCP6, "unprivileged", &CPU_PER_GIB, 0.40),
    goal(TCP6_UNIX, "bulk-down-8", &GIB_PER_SECOND, 2.2),
    goal(TCP6_UNIX, "bulk-both-8", &GIB_PER_SECOND, 1.9),
    goal(TCP6_UNIX, "bulk-up-8", &CPU_PER_GIB, 0.40),
    goal(TCP6_UNIX, "bulk-down-8", &CPU_PER_GIB, 0.45),
    goal(UNIX, "bulk-up-8", &CPU_PER_GIB, 0.95),
    goal(UNIX, "bulk-down-8", &CPU_PER_GIB, 0.95),
    goal(VSOCK_TCP6, "bulk-up-1", &GIB_PER_SECOND, 1.2),
    goal(VSOCK_TCP6, "bulk-up-8", &GIB_PER_SECOND, 1.2),
    goal(VSOCK_TCP6, "bulk-up-1", &CPU_PER_GIB, 0.8),
    goal(VSOCK_TCP6, "bulk-up-8", &CPU_PER_GIB, 0.8),
    goal(VSOCK_TCP6, "bulk-down-1", &GIB_PER_SECOND, 1.3),
    goal(VSOCK_TCP6, "bulk-down-8", &GIB_PER_SECOND, 1.3),
    goal(VSOCK_TCP6, "bulk-down-1", &CPU_PER_GIB, 0.7),
    goal(VSOCK_TCP6, "bulk-down-8", &CPU_PER_GIB, 0.7),
    goal(VSOCK_TCP6, "rtt-64b-1", &P50, 0.5),
    goal(VSOCK_TCP6, "short-16", &CONNECTIONS, 1.5),
    goal(VSOCK_TCP6, "short-1", &CONNECTIONS, 1.5),
];

static TO_SOCAT: [Goal; 30] = [
    goal(TCP6, "bulk-up-8", &GIB_PER_SECOND, 2.2),
    goal(TCP6, "bulk-down-8", &GIB_PER_SECOND, 2.2),
    goal(TCP6, "bulk-both-8", &GIB_PER_SECOND, 2.7),
    goal(TCP6, "bulk-up-8", &CPU_PER_GIB, 0.21),
    goal(TCP6, "bulk-down-8", &CPU_PER_GIB, 0.21),
    goal(TCP6, "rtt-64b-1", &P50, 0.55),
    goal(TCP6, "rtt-64b-1", &P99, 0.70),
    goal(TCP6, "rtt-64b-64", &MESSAGES, 2.4),
    goal(TCP6, "rtt-64b-64", &P99, 0.35),
    goal(TCP6, "rtt-64b-64", &CPU_PER_MESSAGE, 0.33),
    goal(TCP6, "split-request", &P99, 0.003),
    goal(TCP6, "under-bulk", &P99, 0.15),
    goal(TCP6, "short-16", &CONNECTIONS, 6.5),
    goal(TCP6, "short-1", &CONNECTIONS, 4.2),
    goal(TCP6, "short-16", &CPU_PER_CONNECTION, 0.08),
    goal(TCP6, "short-1", &CPU_PER_CONNECTION, 0.08),
    goal(TCP6, "idle-1000", &RSS_PER_CONNECTION, 0.0001),
    goal(TCP6_UNIX, "bulk-down-8", &GIB_PER_SECOND, 4.0),
    goal(TCP6_UNIX, "bulk-both-8", &GIB_PER_SECOND, 4.0),
    goal(TCP6_UNIX, "bulk-up-8", &CPU_PER_GIB, 0.09),
    goal(TCP6_UNIX, "bulk-down-8", &CPU_PER_GIB, 0.25),
    goal(UNIX, "bulk-up-8", &CPU_PER_GIB, 0.2),
    goal(UNIX, "bulk-down-8", &CPU_PER_GIB, 0.2),
    goal(TCP6_VSOCK, "bulk-up-1", &GIB_PER_SECOND, 2.0),
    goal(TCP6_VSOCK, "bulk-up-8", &GIB_PER_SECOND, 2.0),
    goal(TCP6_VSOCK, "bulk-down-1", &GIB_PER_SECOND, 2.0),
    goal(TCP6_VSOCK, "bulk-down-8", &GIB_PER_SECOND, 2.0),
    goal(TCP6_VSOCK, "rtt-64b-1", &P50, 0.5),
    goal(TCP6_VSOCK, "short-16", &CONNECTIONS, 1.5),
    goal(TCP6_VSOCK, "short-1", &CONNECTIONS, 1.5),
];

/// The goals that this run can tell of.
pub fn report(all: &[Measurement]) -> String {
    let (mut reached, mut missed, mut unknown) = (Vec::new(), Vec::new(), 0);
    for (other, goals) in [(Relay::Proxyd, &TO_PROXYD[..]), (Relay::Socat, &TO_SOCAT)] {
        for goal in goals {
            let figure = Figure::of(all, goal.family, goal.scenario, goal.metric);
            let Some(ratio) = figure.ratio(Relay::Ours, other) else {
                unknown += 1;
                continue;
            };
            let line = format!("{} (goal: x{})", line(&figure, ratio, other), goal.limit);
            match goal.metric.is_no_worse(ratio.median, goal.limit) {
                true => reached.push(line),
                false => missed.push(line),
            }
        }
    }
    section("goals reached", &reached)
        + &section("goals missed", &missed)
        + &format!("goals not measured: {unknown}\n")
}

fn line(figure: &Figure<'_>, ratio: Ratio, other: Relay) -> String {
    format!("{}: {ratio} to {other}", figure.name())
}

fn section(title: &str, lines: &[String]) -> String {
    let mut text = format!("{title}: {}\n", lines.len());
    for line in lines {
        text.extend(["  ", line, "\n"]);
    }
    text
}
