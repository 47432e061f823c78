//! The picture of a recorded run: its main figures as bars, by how many times each relay is better than the baseline. The
//! scale is logarithmic, so that twice as good and half as good are equally far from the line in the middle.

use crate::address::Family;

use super::factor::{Factor, Scale};
use super::figure::{Figure, baseline, families, relays};
use super::recording::Recording;
use super::relay::Relay;
use super::selection::rows_of;
use super::svg::Svg;

const WIDTH: f64 = 880.0;
const MARGIN: f64 = 24.0;
/// Where the scale begins and ends, with room for a number on either side.
const SCALE: Scale = Scale {
    left: 305.0,
    right: 805.0,
    min: 1.0 / 8.0,
    max: 16.0,
};
const BAR: f64 = 9.0;
const BAR_STEP: f64 = 11.0;
/// Height of the words beside a group.
const LABEL: f64 = 27.0;
/// Between groups.
const GAP: f64 = 16.0;
const LINE: f64 = 17.0;

/// Who gets a bar, in this order.
const BARS: [Relay; 4] = [Relay::Ours, Relay::Haproxy, Relay::Nginx, Relay::Socat];

/// Draws the picture; the text of an SVG file.
pub fn draw(recording: &Recording) -> String {
    let mut plot = Plot {
        recording,
        svg: Svg::new(WIDTH),
        y: MARGIN,
    };
    plot.head();
    for family in families(&recording.measurements) {
        plot.family(family);
    }
    plot.caption();
    let title = "vsock-bridge and other relays, measured in turn";
    plot.svg.finish(plot.y + MARGIN, title)
}

struct Plot<'a> {
    recording: &'a Recording,
    svg: Svg,
    /// How far down the picture has come.
    y: f64,
}

impl Plot<'_> {
    fn head(&mut self) {
        self.y += 8.0;
        self.words("title", "How many times better than the baseline");
        self.words(
            "small grey",
            "Right of the line is better: more throughput, or less time, less memory. A thin line spans all rounds.",
        );
        self.y += 6.0;
        let mut x = MARGIN;
        for relay in BARS {
            let mut all = self.recording.measurements.iter();
            if all.any(|one| one.relay == relay) {
                let swatch = relay.to_string();
                self.svg.bar(&swatch, x, self.y - 10.0, 11.0, 11.0);
                self.svg.text("", x + 17.0, self.y, relay.title());
                x += 120.0;
            }
        }
        self.y += LINE;
    }

    /// A heading, the scale, and the groups of bars on it.
    fn family(&mut self, family: Family) {
        let all = &self.recording.measurements;
        let baseline = baseline(all, family);
        let present = relays(all, family);
        let is_shown = |relay: &Relay| *relay != baseline && present.contains(relay);
        let bars: Vec<Relay> = BARS.into_iter().filter(is_shown).collect();
        let figures: Vec<(&str, Figure<'_>)> = rows_of(family)
            .iter()
            .map(|row| (row.label, Figure::of(all, family, row.scenario, row.metric)))
            .filter(|(_, figure)| figure.ratio(Relay::Ours, baseline).is_some())
            .collect();
        if figures.is_empty() {
            return;
        }
        self.y += LINE + 4.0;
        self.heading(family, baseline);
        let height = (bars.len() as f64 * BAR_STEP).max(LABEL) + GAP;
        self.scale(figures.len() as f64 * height + GAP / 2.0);
        for (label, figure) in figures {
            self.label(label, &figure, baseline);
            for (number, relay) in bars.iter().enumerate() {
                if let Some(ratio) = figure.ratio(*relay, baseline) {
                    let y = self.y + number as f64 * BAR_STEP;
                    self.bar(*relay, Factor::new(figure.metric, ratio), y);
                }
            }
            self.y += height;
        }
    }

    fn heading(&mut self, family: Family, baseline: Relay) {
        let families = format!("{} to {}", family.inbound.title(), family.outbound.title());
        self.svg.text("heading", MARGIN, self.y, &families);
        let middle = SCALE.position(1.0);
        let words = format!("1 = {}", baseline.title());
        self.svg.text("small grey middle", middle, self.y, &words);
        self.y += LINE;
    }

    /// Lines for each doubling over this height; below them come the bars.
    fn scale(&mut self, height: f64) {
        let (top, bottom) = (self.y + 4.0, self.y + 4.0 + height);
        for factor in SCALE.doublings() {
            let x = SCALE.position(factor);
            let class = if factor == 1.0 { "one" } else { "grid" };
            self.svg.line(class, (x, top), (x, bottom));
            if factor != 1.0 {
                let words = Scale::label(factor);
                self.svg.text("small grey middle", x, self.y, &words);
            }
        }
        self.y = top + GAP * 0.75;
    }

    fn label(&mut self, label: &str, figure: &Figure<'_>, baseline: Relay) {
        self.svg.text("", MARGIN, self.y + 10.0, label);
        let metric = figure.metric;
        let value = figure.median(baseline).unwrap_or(f64::NAN);
        let decimals = if value < 1000.0 { metric.decimals } else { 0 };
        let words = format!("1 = {value:.decimals$} {}", metric.unit());
        self.svg.text("small grey", MARGIN, self.y + 25.0, &words);
    }

    fn bar(&mut self, relay: Relay, factor: Factor, y: f64) {
        let (one, end) = (SCALE.position(1.0), SCALE.position(factor.median));
        let class = relay.to_string();
        self.svg
            .bar(&class, one.min(end), y, (end - one).abs(), BAR);
        let is_cut = !SCALE.contains(factor.median);
        let middle = y + BAR / 2.0;
        if is_cut {
            let x = end - 14.0_f64.copysign(end - one);
            for x in [x - 2.5, x + 2.5] {
                self.svg
                    .line("cut", (x - 2.0, y + BAR + 1.0), (x + 2.0, y - 1.0));
            }
        } else {
            let (low, high) = (SCALE.position(factor.low), SCALE.position(factor.high));
            self.svg.line("spread", (low, middle), (high, middle));
        }
        let outermost = if end < one { factor.low } else { factor.high };
        let (side, x) = match end < one {
            true => ("end", SCALE.position(outermost) - 5.0),
            false => ("", SCALE.position(outermost) + 5.0),
        };
        let strong = if relay == Relay::Ours {
            "strong"
        } else {
            "grey"
        };
        let class = format!("small {strong} {side}");
        self.svg
            .text(class.trim(), x, y + BAR - 0.5, &factor.to_string());
    }

    fn caption(&mut self) {
        let machine = &self.recording.machine;
        self.y += LINE * 1.5;
        self.words("small grey", &machine.title());
        self.words("small grey", &machine.versions());
    }

    fn words(&mut self, class: &str, words: &str) {
        self.svg.text(class, MARGIN, self.y, words);
        self.y += LINE;
    }
}
