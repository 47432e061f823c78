//! The main figures: what a picture shows of a run.

use crate::address::{Family, Kind};

use super::metric::{
    CONNECTIONS, CPU_PER_CONNECTION, CPU_PER_GIB, GIB_PER_SECOND, MESSAGES, Metric, P50, P99,
    RSS_PER_CONNECTION,
};

/// One group of bars.
pub struct Row {
    /// Where it is measured.
    pub scenario: &'static str,
    /// What is measured there.
    pub metric: &'static Metric,
    /// How the picture calls it.
    pub label: &'static str,
}

const fn row(scenario: &'static str, metric: &'static Metric, label: &'static str) -> Row {
    Row {
        scenario,
        metric,
        label,
    }
}

static TCP_ROWS: [Row; 10] = [
    row("bulk-up-8", &GIB_PER_SECOND, "throughput of 8 streams"),
    row("bulk-both-8", &GIB_PER_SECOND, "throughput both ways"),
    row("bulk-up-8", &CPU_PER_GIB, "processor time per GiB"),
    row("rtt-64b-1", &P50, "round trip of 64 bytes"),
    row("rtt-64b-64", &MESSAGES, "messages, 64 connections"),
    row("split-request", &P99, "request in two writes, p99"),
    row("under-bulk", &P99, "round trip during bulk, p99"),
    row("short-16", &CONNECTIONS, "short connections, 16 at once"),
    row("short-16", &CPU_PER_CONNECTION, "processor time for each"),
    row("idle-1000", &RSS_PER_CONNECTION, "memory, idle connection"),
];

static OTHER_ROWS: [Row; 2] = [
    row("bulk-both-8", &GIB_PER_SECOND, "throughput both ways"),
    row("bulk-both-8", &CPU_PER_GIB, "processor time per GiB"),
];

static VSOCK_ROWS: [Row; 9] = [
    row("bulk-up-8", &GIB_PER_SECOND, "throughput to the target"),
    row("bulk-up-8", &CPU_PER_GIB, "processor time per GiB"),
    row("bulk-down-8", &GIB_PER_SECOND, "throughput from the target"),
    row("bulk-down-8", &CPU_PER_GIB, "processor time per GiB"),
    row("rtt-64b-1", &P50, "round trip of 64 bytes"),
    row("rtt-64b-64", &MESSAGES, "messages, 64 connections"),
    row("under-bulk", &P99, "round trip during bulk, p99"),
    row("short-16", &CONNECTIONS, "short connections, 16 at once"),
    row("idle-1000", &RSS_PER_CONNECTION, "memory, idle connection"),
];

/// The main figures of a family.
pub fn rows_of(family: Family) -> &'static [Row] {
    match (family.inbound, family.outbound) {
        (Kind::Tcp6, Kind::Tcp6) => &TCP_ROWS,
        (Kind::Vsock, _) | (_, Kind::Vsock) => &VSOCK_ROWS,
        _ => &OTHER_ROWS,
    }
}
