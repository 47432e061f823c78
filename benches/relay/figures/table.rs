//! The table of a family: for each figure the median of each relay, and its ratio to the baseline.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::address::Family;

use super::figure::{Figure, families, scenarios};
use super::measurement::Measurement;
use super::metric;
use super::relay::Relay;
use super::stats::{median, range};

/// The text of one family's table, in Markdown.
pub fn table(all: &[Measurement], family: Family, relays: &[Relay], baseline: Relay) -> String {
    let mut heading = vec![format!("{family}, x = ratio to {baseline}")];
    heading.extend(relays.iter().map(Relay::to_string));
    let mut rows = vec![heading];
    for scenario in scenarios(all, family) {
        for metric in metric::ALL {
            let figure = Figure::of(all, family, scenario, metric);
            let cells: Vec<_> = relays
                .iter()
                .map(|relay| cell(&figure, *relay, baseline))
                .collect();
            if cells.iter().any(Option::is_some) {
                let mut row = vec![format!("{scenario}: {}", metric.label)];
                row.extend(cells.into_iter().map(|cell| cell.unwrap_or("-".into())));
                rows.push(row);
            }
        }
    }
    aligned(&rows)
}

/// The text of a table with every figure in which another relay is ahead of ours, and the one that is farthest.
pub fn behind(all: &[Measurement]) -> String {
    let heading = ["behind", "ours", "the best", "", "ours to the best"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for family in families(all) {
        for scenario in scenarios(all, family) {
            let figures = metric::ALL.map(|metric| Figure::of(all, family, scenario, metric));
            rows.extend(figures.iter().filter_map(row_behind));
        }
    }
    match rows.len() {
        1 => "ours is behind nobody\n".into(),
        _ => aligned(&rows),
    }
}

fn row_behind(figure: &Figure<'_>) -> Option<Vec<String>> {
    let loss = |ratio: f64| match figure.metric.is_more_better {
        true => 1.0 / ratio,
        false => ratio,
    };
    let others = [
        Relay::Proxyd,
        Relay::ProxydNext,
        Relay::Socat,
        Relay::Haproxy,
        Relay::Nginx,
    ];
    let ratios = (others.into_iter())
        .filter_map(|other| Some((other, figure.ratio(Relay::Ours, other)?)))
        .filter(|(_, ratio)| loss(ratio.median) > 1.0 + figure.metric.tolerance());
    let (best, ratio) =
        ratios.max_by(|(_, one), (_, other)| loss(one.median).total_cmp(&loss(other.median)))?;
    let median = |relay| {
        Some(format!(
            "{:.*}",
            figure.metric.decimals,
            figure.median(relay)?
        ))
    };
    Some(vec![
        figure.name(),
        median(Relay::Ours)?,
        median(best)?,
        best.to_string(),
        ratio.to_string(),
    ])
}

fn cell(figure: &Figure<'_>, relay: Relay, baseline: Relay) -> Option<String> {
    let absolute = format!("{:.*}", figure.metric.decimals, figure.median(relay)?);
    let ratio = figure.ratio(relay, baseline);
    Some(match ratio.filter(|_| relay != baseline) {
        Some(ratio) => format!("{absolute} {ratio}"),
        None => absolute,
    })
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
pub fn faults(all: &[Measurement]) -> String {
    let mut text = String::from("wrong bytes, failed connections, runs without figures:\n");
    let relays: BTreeSet<Relay> = all.iter().map(|one| one.relay).collect();
    for relay in relays {
        let of_relay: Vec<&Measurement> = all.iter().filter(|one| one.relay == relay).collect();
        let wrong: u64 = of_relay.iter().map(|one| one.wrong_bytes).sum();
        let failed: u64 = of_relay.iter().map(|one| one.failed).sum();
        let empty = of_relay.iter().filter(|one| one.values.is_empty()).count();
        let _ = writeln!(text, "  {relay}: {wrong}, {failed}, {empty}");
        for (complaint, places) in complaints(&of_relay) {
            let _ = writeln!(text, "    {complaint}: {}", places.join(", "));
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

/// Each complaint with its places.
fn complaints<'a>(of_relay: &[&'a Measurement]) -> Vec<(&'a str, Vec<String>)> {
    let mut found: Vec<(&str, Vec<String>)> = Vec::new();
    for one in of_relay {
        let Some(complaint) = one.complaint.as_deref() else {
            continue;
        };
        let place = format!("{} {} round {}", one.family, one.scenario, one.round);
        match found.iter_mut().find(|(known, _)| *known == complaint) {
            Some((_, places)) => places.push(place),
            None => found.push((complaint, vec![place])),
        }
    }
    found
}
