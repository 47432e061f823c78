//! The table: for each figure the median of each relay, and the median of its round-by-round ratios to the baseline with
//! the smallest and the largest. Ratios of one round compare what ran under the same conditions.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::address::Family;
use crate::measurement::Measurement;
use crate::metric::Metric;
use crate::relays::Relay;
use crate::stats::{median, range};

/// The text of one family's table, in Markdown.
pub fn table(all: &[Measurement], family: Family, relays: &[Relay], baseline: Relay) -> String {
    let of_family: Vec<&Measurement> = all.iter().filter(|one| one.family == family).collect();
    let relays: Vec<Relay> = relays
        .iter()
        .copied()
        .filter(|relay| of_family.iter().any(|one| one.relay == *relay))
        .collect();
    let mut rows = vec![heading(&relays, baseline, family)];
    for (scenario, metric) in figures(&of_family) {
        let of_scenario: Vec<&Measurement> = of_family
            .iter()
            .copied()
            .filter(|one| one.scenario == scenario)
            .collect();
        let mut row = vec![format!("{scenario}: {}", metric.label)];
        row.extend(
            relays
                .iter()
                .map(|relay| cell(&of_scenario, metric, *relay, baseline)),
        );
        rows.push(row);
    }
    aligned(&rows)
}

fn heading(relays: &[Relay], baseline: Relay, family: Family) -> Vec<String> {
    let mut row = vec![format!("{family}, x = ratio to {baseline}")];
    row.extend(relays.iter().map(Relay::to_string));
    row
}

/// Scenarios and their metrics in the order of measuring.
fn figures(measurements: &[&Measurement]) -> Vec<(String, &'static Metric)> {
    let mut seen = BTreeSet::new();
    let mut figures = Vec::new();
    let mut scenarios: Vec<&String> = Vec::new();
    for one in measurements {
        if !scenarios.contains(&&one.scenario) {
            scenarios.push(&one.scenario);
        }
    }
    for scenario in scenarios {
        for one in measurements.iter().filter(|one| &one.scenario == scenario) {
            for (metric, _) in &one.values {
                if seen.insert((scenario.clone(), metric.key)) {
                    figures.push((scenario.clone(), *metric));
                }
            }
        }
    }
    figures
}

fn cell(measurements: &[&Measurement], metric: &Metric, relay: Relay, baseline: Relay) -> String {
    let values: Vec<f64> = measurements
        .iter()
        .filter(|one| one.relay == relay)
        .filter_map(|one| one.value(metric.key))
        .collect();
    let Some(middle) = median(&values) else {
        return "-".into();
    };
    let absolute = format!("{middle:.*}", metric.decimals);
    let ratios = ratios(measurements, metric, relay, baseline);
    match (relay == baseline, median(&ratios), range(&ratios)) {
        (false, Some(ratio), Some((low, high))) => {
            format!(
                "{absolute} x{} [{}..{}]",
                short(ratio),
                short(low),
                short(high)
            )
        }
        _ => absolute,
    }
}

/// The ratio of each round in which both have the figure.
fn ratios(
    measurements: &[&Measurement],
    metric: &Metric,
    relay: Relay,
    baseline: Relay,
) -> Vec<f64> {
    let value_of = |relay: Relay, round: usize| {
        let one = measurements
            .iter()
            .find(|one| one.relay == relay && one.round == round)?;
        one.value(metric.key)
    };
    let rounds: BTreeSet<usize> = measurements.iter().map(|one| one.round).collect();
    rounds
        .into_iter()
        .filter_map(|round| Some(value_of(relay, round)? / value_of(baseline, round)?))
        .filter(|ratio| ratio.is_finite())
        .collect()
}

/// Three significant digits below one, two after the point above.
fn short(ratio: f64) -> String {
    match ratio {
        ratio if ratio.abs() < 0.1 => format!("{ratio:.4}"),
        ratio => format!("{ratio:.2}"),
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            text.extend(
                widths
                    .iter()
                    .map(|width| format!("| {} ", "-".repeat(*width))),
            );
            text.push_str("|\n");
        }
    }
    text
}

/// Wrong bytes and failed connections of each relay; both must be zero. Then what went wrong, each complaint once.
pub fn faults(all: &[Measurement], relays: &[Relay]) -> String {
    let mut text = String::from("wrong bytes, failed connections, runs without figures:\n");
    for relay in relays {
        let of_relay: Vec<&Measurement> = all.iter().filter(|one| one.relay == *relay).collect();
        let wrong: u64 = of_relay.iter().map(|one| one.wrong_bytes).sum();
        let failed: u64 = of_relay.iter().map(|one| one.failed).sum();
        let empty = of_relay.iter().filter(|one| one.values.is_empty()).count();
        let _ = writeln!(text, "  {relay}: {wrong}, {failed}, {empty}");
        for (complaint, times) in complaints(&of_relay) {
            let _ = writeln!(text, "    {times} x {complaint}");
        }
    }
    text
}

/// How quiet the machine was; a sentence that belongs to every table.
pub fn disturbance(all: &[Measurement]) -> String {
    let busy: Vec<f64> = all.iter().map(|one| one.disturbance).collect();
    match (median(&busy), range(&busy)) {
        (Some(middle), Some((_, high))) => {
            format!("processors busy with other things: {middle:.2} (median), at most {high:.2}\n")
        }
        _ => String::new(),
    }
}

fn complaints(of_relay: &[&Measurement]) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for one in of_relay {
        let Some(complaint) = &one.complaint else {
            continue;
        };
        let text = format!("{} {}: {complaint}", one.family, one.scenario);
        match found.iter_mut().find(|(known, _)| *known == text) {
            Some((_, times)) => *times += 1,
            None => found.push((text, 1)),
        }
    }
    found
}
