//! What is measured: name, unit, and which way is better.

/// One kind of figure.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// Key in the JSON lines.
    pub key: &'static str,
    /// As the table shows it.
    pub label: &'static str,
    /// More is better.
    pub is_more_better: bool,
    /// Digits after the point.
    pub decimals: usize,
}

const fn more(key: &'static str, label: &'static str, decimals: usize) -> Metric {
    Metric {
        key,
        label,
        is_more_better: true,
        decimals,
    }
}

const fn less(key: &'static str, label: &'static str, decimals: usize) -> Metric {
    Metric {
        key,
        label,
        is_more_better: false,
        decimals,
    }
}

/// Received bytes, all directions together.
pub static GIB_PER_SECOND: Metric = more("gib_per_s", "GiB/s", 2);
/// The relay's processor time for a GiB that arrived.
pub static CPU_PER_GIB: Metric = less("cpu_s_per_gib", "CPU s/GiB", 3);
/// Median round trip.
pub static P50: Metric = less("p50_us", "p50 us", 1);
/// Round trip that one in a hundred exceeds.
pub static P99: Metric = less("p99_us", "p99 us", 1);
/// Round trips, all connections together.
pub static MESSAGES: Metric = more("messages_per_s", "messages/s", 0);
/// The relay's processor time for a round trip.
pub static CPU_PER_MESSAGE: Metric = less("cpu_us_per_message", "CPU us/message", 1);
/// Connections that were made, used once and closed.
pub static CONNECTIONS: Metric = more("connections_per_s", "connections/s", 0);
/// The relay's processor time for one of them.
pub static CPU_PER_CONNECTION: Metric = less("cpu_us_per_connection", "CPU us/connection", 1);
/// Resident memory that each idle connection adds.
pub static RSS_PER_CONNECTION: Metric = less("rss_bytes_per_connection", "RSS B/connection", 0);
/// Resident memory with all of them.
pub static RSS_TOTAL: Metric = less("rss_mib_total", "RSS MiB in all", 2);
/// Slab memory of the whole system that each idle connection adds, both ends of the load included.
pub static SLAB_PER_CONNECTION: Metric = less("slab_bytes_per_connection", "slab B/connection", 0);
/// Descriptors of the relay for each idle connection.
pub static DESCRIPTORS: Metric = less("descriptors_per_connection", "descriptors/connection", 2);
/// Share of answers that came whole after the peer had ended its flow.
pub static KEPT: Metric = more("answers_kept", "answers kept", 2);

/// The figures of one scenario with one relay.
pub type Values = Vec<(&'static Metric, f64)>;
