//! A recorded run: one JSON line about the machine, then one for each measurement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::measurement::Measurement;
use super::relay::Relay;

/// What the figures were taken on. Figures without it mean nothing to anybody else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The day, as 2026-01-31.
    pub date: String,
    /// The release of Linux.
    pub kernel: String,
    /// The processor's own name.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// How often each relay was measured.
    pub rounds: usize,
    /// How long each scenario measured.
    pub seconds: f64,
    /// The relays' own words.
    pub versions: BTreeMap<Relay, String>,
}

impl Machine {
    /// In one line, without the versions.
    pub fn title(&self) -> String {
        let (processors, processor, kernel) = (self.processors, &self.processor, &self.kernel);
        let (date, rounds, seconds) = (&self.date, self.rounds, self.seconds);
        format!(
            "{processors} x {processor}, Linux {kernel}; {date}, rounds: {rounds}, seconds for each scenario: {seconds}"
        )
    }

    /// The versions in one line.
    pub fn versions(&self) -> String {
        let one = |(relay, version): (&Relay, &String)| format!("{} {version}", relay.title());
        let all: Vec<String> = self.versions.iter().map(one).collect();
        all.join(", ")
    }
}

/// A whole run.
#[derive(Debug)]
pub struct Recording {
    /// What it was taken on.
    pub machine: Machine,
    /// What came out, in the order of measuring.
    pub measurements: Vec<Measurement>,
}

impl Recording {
    /// Reads the lines.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let mut lines = text.lines();
        Ok(Self {
            machine: serde_json::from_str(lines.next().unwrap_or_default())?,
            measurements: lines.map(serde_json::from_str).collect::<Result<_, _>>()?,
        })
    }
}
