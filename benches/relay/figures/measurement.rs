//! One result. A line of JSON is its written form; a field that says "nothing went wrong" is left out there.

use serde::{Deserialize, Serialize, Serializer};

use crate::address::Family;

use super::metric::{self, Values};
use super::relay::Relay;

/// What one relay did in one scenario in one round.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// Counts from 1.
    pub round: usize,
    /// Listener and target.
    #[serde(with = "text")]
    pub family: Family,
    /// The scenario's name.
    pub scenario: String,
    /// Who.
    pub relay: Relay,
    /// The figures; empty when there was an error.
    #[serde(with = "metric::by_key")]
    pub values: Values,
    /// Bytes that were not what was sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wrong_bytes: u64,
    /// Connections that failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Processors that were busy with other things.
    #[serde(rename = "busy_with_others", serialize_with = "two_digits")]
    pub disturbance: f64,
    /// Why the first one did, or why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complaint: Option<String>,
}

impl Measurement {
    /// The value of a metric.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.values
            .iter()
            .find(|(metric, _)| metric.key == key)
            .map(|(_, value)| *value)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn two_digits<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((number * 100.0).round() / 100.0)
}

/// What has a text form, as that.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
