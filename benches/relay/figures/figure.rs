//! One row of a table: what all relays reached in one scenario by one metric. Ratios are taken round by round, since only
//! what ran in the same round ran under the same conditions.

use std::collections::BTreeSet;
use std::fmt;

use crate::address::Family;

use super::measurement::Measurement;
use super::metric::Metric;
use super::relay::Relay;
use super::stats::{median, range};

/// One scenario seen by one metric.
#[derive(Debug)]
pub struct Figure<'a> {
    /// Listener and target.
    pub family: Family,
    /// The scenario's name.
    pub scenario: &'a str,
    /// Which of its figures.
    pub metric: &'static Metric,
    measurements: Vec<&'a Measurement>,
}

/// The median of the rounds, with the smallest and the largest.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl<'a> Figure<'a> {
    /// What there is of it; perhaps nothing.
    pub fn of(
        all: &'a [Measurement],
        family: Family,
        scenario: &'a str,
        metric: &'static Metric,
    ) -> Self {
        let belongs = |one: &&Measurement| one.family == family && one.scenario == scenario;
        Self {
            family,
            scenario,
            metric,
            measurements: all.iter().filter(belongs).collect(),
        }
    }

    /// As reports call it.
    pub fn name(&self) -> String {
        format!("{} {}: {}", self.family, self.scenario, self.metric.label)
    }

    /// The median of a relay.
    pub fn median(&self, relay: Relay) -> Option<f64> {
        let of_relay = self.measurements.iter().filter(|one| one.relay == relay);
        let values: Vec<f64> = of_relay
            .filter_map(|one| one.value(self.metric.key))
            .collect();
        median(&values)
    }

    /// A relay's ratio to another one; from the rounds in which both have the figure.
    pub fn ratio(&self, relay: Relay, baseline: Relay) -> Option<Ratio> {
        let rounds: BTreeSet<usize> = self.measurements.iter().map(|one| one.round).collect();
        let ratios: Vec<f64> = rounds
            .into_iter()
            .filter_map(|round| Some(self.value(relay, round)? / self.value(baseline, round)?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        let (low, high) = range(&ratios)?;
        Some(Ratio {
            median: median(&ratios)?,
            low,
            high,
        })
    }

    fn value(&self, relay: Relay, round: usize) -> Option<f64> {
        let is_meant = |one: &&&Measurement| one.relay == relay && one.round == round;
        self.measurements
            .iter()
            .find(is_meant)?
            .value(self.metric.key)
    }
}

/// The families that were measured, in the order of measuring.
pub fn families(all: &[Measurement]) -> Vec<Family> {
    distinct(all.iter().map(|one| one.family))
}

/// The scenarios of a family, in the order of measuring.
pub fn scenarios(all: &[Measurement], family: Family) -> Vec<&str> {
    let of_family = all.iter().filter(|one| one.family == family);
    distinct(of_family.map(|one| one.scenario.as_str()))
}

/// The relays of a family, in the order of their list, without chains.
pub fn relays(all: &[Measurement], family: Family) -> Vec<Relay> {
    let mut relays = everybody(all, family);
    relays.retain(|relay| !relay.is_chain());
    relays
}

/// The chains of two bridges of a family, in the order of their list.
pub fn chains(all: &[Measurement], family: Family) -> Vec<Relay> {
    let mut chains = everybody(all, family);
    chains.retain(|relay| relay.is_chain());
    chains
}

fn everybody(all: &[Measurement], family: Family) -> Vec<Relay> {
    let of_family = all.iter().filter(|one| one.family == family);
    let relays: BTreeSet<Relay> = of_family.map(|one| one.relay).collect();
    relays.into_iter().collect()
}

/// Whom the others are held against: socket-proxyd where it can go, else socat.
pub fn baseline(all: &[Measurement], family: Family) -> Relay {
    match relays(all, family).contains(&Relay::Proxyd) {
        true => Relay::Proxyd,
        false => Relay::Socat,
    }
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, low, high) = (short(self.median), short(self.low), short(self.high));
        write!(f, "x{median} [{low}..{high}]")
    }
}

/// Four digits after the point below 0.1, two above.
fn short(ratio: f64) -> String {
    match ratio {
        ratio if ratio.abs() < 0.1 => format!("{ratio:.4}"),
        ratio => format!("{ratio:.2}"),
    }
}
