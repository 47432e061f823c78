//! The small picture of a recorded run, for narrow screens: six rows, in two of which other relays are ahead.

use crate::address::{Family, Kind};

use super::factor::{Factor, Scale};
use super::figure::Figure;
use super::metric::{CONNECTIONS, GIB_PER_SECOND, MESSAGES, Metric, P50, RSS_PER_CONNECTION};
use super::recording::Recording;
use super::relay::Relay;
use super::svg::Svg;

const WIDTH: f64 = 440.0;
const MARGIN: f64 = 16.0;
const SCALE: Scale = Scale {
    left: MARGIN,
    right: 385.0,
    min: 1.0 / 8.0,
    max: 4.0,
};
const BAR: f64 = 11.0;
const BAR_STEP: f64 = 14.0;
const LINE: f64 = 17.0;
const GAP: f64 = 12.0;
const BASELINE: Relay = Relay::Proxyd;
const BARS: [Relay; 3] = [Relay::Ours, Relay::Haproxy, Relay::Nginx];

const TCP: Family = Family {
    inbound: Kind::Tcp6,
    outbound: Kind::Tcp6,
};
const UNIX: Family = Family {
    inbound: Kind::Unix,
    outbound: Kind::Unix,
};
const UNIX_TO_TCP: Family = Family {
    inbound: Kind::Unix,
    outbound: Kind::Tcp6,
};

/// First those in which we are ahead of all.
static ROWS: [(&str, Family, &str, &Metric); 6] = [
    (
        "Throughput, 8 streams both ways",
        UNIX_TO_TCP,
        "bulk-both-8",
        &GIB_PER_SECOND,
    ),
    ("Round trip of 64 bytes", TCP, "rtt-64b-1", &P50),
    (
        "Memory of an idle connection",
        TCP,
        "idle-1000",
        &RSS_PER_CONNECTION,
    ),
    (
        "Throughput, one stream both ways",
        TCP,
        "bulk-both-1",
        &GIB_PER_SECOND,
    ),
    ("Messages, 64 connections", UNIX, "rtt-64b-64", &MESSAGES),
    (
        "Short connections, 16 at once",
        UNIX,
        "short-16",
        &CONNECTIONS,
    ),
];

/// Draws the picture; the text of an SVG file.
pub fn draw(recording: &Recording) -> String {
    let mut svg = Svg::new(WIDTH);
    let mut y = MARGIN + 8.0;
    svg.text(
        "heading",
        MARGIN,
        y,
        "How many times better than systemd-socket-proxyd",
    );
    y += LINE + 4.0;
    for (relay, x) in BARS.into_iter().zip([0.0, 125.0, 220.0]) {
        svg.bar(&relay.to_string(), MARGIN + x, y - 10.0, 11.0, 11.0);
        svg.text("", MARGIN + x + 17.0, y, relay.title());
    }
    y += LINE + 4.0;
    for factor in SCALE.doublings() {
        let x = SCALE.position(factor).max(MARGIN + 6.0);
        svg.text("small grey middle", x, y, &Scale::label(factor));
    }
    y += GAP;
    for row in &ROWS {
        draw_row(&mut svg, recording, y, row);
        y += LINE + BARS.len() as f64 * BAR_STEP + GAP;
    }
    y += LINE;
    let machine = &recording.machine;
    let (date, rounds, seconds) = (&machine.date, machine.rounds, machine.seconds);
    let run = format!("{date}, median of {rounds} rounds of {seconds} s; a thin line spans them");
    svg.text("small grey", MARGIN, y, &run);
    svg.finish(
        y + MARGIN,
        "vsock-bridge, HAProxy and nginx against systemd-socket-proxyd",
    )
}

fn draw_row(
    svg: &mut Svg,
    recording: &Recording,
    mut y: f64,
    (label, family, scenario, metric): &(&str, Family, &str, &'static Metric),
) {
    let (inbound, outbound) = (family.inbound.title(), family.outbound.title());
    let words = format!("{label}: {inbound} to {outbound}");
    svg.text("", MARGIN, y + 10.0, &words);
    y += LINE;
    for factor in SCALE.doublings() {
        let x = SCALE.position(factor);
        let class = if factor == 1.0 { "one" } else { "grid" };
        svg.line(class, (x, y - 1.0), (x, y + BARS.len() as f64 * BAR_STEP));
    }
    let figure = Figure::of(&recording.measurements, *family, scenario, metric);
    for relay in BARS {
        if let Some(ratio) = figure.ratio(relay, BASELINE) {
            draw_bar(svg, relay, &Factor::new(metric, ratio), y);
        }
        y += BAR_STEP;
    }
}

fn draw_bar(svg: &mut Svg, relay: Relay, factor: &Factor, y: f64) {
    let (one, end) = (SCALE.position(1.0), SCALE.position(factor.median));
    svg.bar(&relay.to_string(), one.min(end), y, (end - one).abs(), BAR);
    let (low, high) = (SCALE.position(factor.low), SCALE.position(factor.high));
    let middle = y + BAR / 2.0;
    svg.line("spread", (low, middle), (high, middle));
    let strong = if relay == Relay::Ours {
        "strong"
    } else {
        "grey"
    };
    // To the right of all, so that none is cut off at the left.
    let x = one.max(high) + 5.0;
    svg.text(
        &format!("small {strong}"),
        x,
        y + BAR - 1.5,
        &factor.to_string(),
    );
}
