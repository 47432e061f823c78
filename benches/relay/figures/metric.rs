//! What is measured: name, unit, and which way is better.

/// One kind of figure.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// Key in the JSON lines.
    pub key: &'static str,
    /// As the table shows it: what it is, if the unit does not say so, and the unit.
    pub label: &'static str,
    /// More is better.
    pub is_more_better: bool,
    /// Digits after the point.
    pub decimals: usize,
}

impl Metric {
    /// The label without its first word, if there is more than one.
    pub fn unit(&self) -> &'static str {
        self.label
            .split_once(' ')
            .map_or(self.label, |(_, unit)| unit)
    }

    /// The part that is no difference a run can tell.
    pub fn tolerance(&self) -> f64 {
        if self.key == P99.key { 0.1 } else { 0.03 }
    }

    /// Whether a value is at least as good as another.
    pub fn is_no_worse(&self, value: f64, other: f64) -> bool {
        match self.is_more_better {
            true => value >= other,
            false => value <= other,
        }
    }
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

/// All of them, in the order of tables.
pub static ALL: [&Metric; 13] = [
    &GIB_PER_SECOND,
    &CPU_PER_GIB,
    &P50,
    &P99,
    &MESSAGES,
    &CPU_PER_MESSAGE,
    &CONNECTIONS,
    &CPU_PER_CONNECTION,
    &RSS_PER_CONNECTION,
    &RSS_TOTAL,
    &SLAB_PER_CONNECTION,
    &DESCRIPTORS,
    &KEPT,
];

/// The figures of one scenario with one relay.
pub type Values = Vec<(&'static Metric, f64)>;

/// The written form of figures: an object of keys and numbers, without what is no number.
pub mod by_key {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{ALL, Values};

    const DIGITS: f64 = 1e6;

    /// Digits beyond the sixth after the point are noise.
    pub fn serialize<S: Serializer>(values: &Values, to: S) -> Result<S::Ok, S::Error> {
        let finite = values.iter().filter(|(_, value)| value.is_finite());
        to.collect_map(
            finite.map(|(metric, value)| (metric.key, (value * DIGITS).round() / DIGITS)),
        )
    }

    /// Keys that are no metric any more are left out.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Values, D::Error> {
        let values = BTreeMap::<String, f64>::deserialize(from)?;
        let value = |metric: &'static super::Metric| Some((metric, *values.get(metric.key)?));
        Ok(ALL.into_iter().filter_map(value).collect())
    }
}
