//! One result, and its form as a JSON line.

use std::fmt::Write;

use crate::address::Family;
use crate::metric::Values;
use crate::relays::Relay;

/// What one relay did in one scenario in one round.
#[derive(Debug)]
pub struct Measurement {
    /// Counts from 1.
    pub round: usize,
    /// Listener and target.
    pub family: Family,
    /// The scenario's name.
    pub scenario: String,
    /// Who.
    pub relay: Relay,
    /// The figures; empty when there was an error.
    pub values: Values,
    /// Bytes that were not what was sent.
    pub wrong_bytes: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Processors that were busy with other things.
    pub disturbance: f64,
    /// Why the first one did, or why there are no figures.
    pub complaint: Option<String>,
}

impl Measurement {
    /// One line, without its end.
    pub fn to_json(&self) -> String {
        let mut values = String::new();
        for (metric, value) in self.values.iter().filter(|(_, value)| value.is_finite()) {
            let comma = if values.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(values, "{comma}\"{}\":{value:.6}", metric.key);
        }
        format!(
            r#"{{"round":{},"family":"{}","scenario":"{}","relay":"{}","values":{{{values}}},"wrong_bytes":{},"failed":{},"busy_with_others":{:.2},"complaint":{}}}"#,
            self.round,
            self.family,
            self.scenario,
            self.relay,
            self.wrong_bytes,
            self.failed,
            self.disturbance,
            self.complaint
                .as_deref()
                .map_or_else(|| "null".into(), quote),
        )
    }

    /// The value of a metric.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.values
            .iter()
            .find(|(metric, _)| metric.key == key)
            .map(|(_, value)| *value)
    }
}

/// A JSON string.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
