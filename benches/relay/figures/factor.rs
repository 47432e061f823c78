//! How many times better a relay is, and where that is in a picture.

use std::fmt;

use super::figure::Ratio;
use super::metric::Metric;

/// How many times better; of less time, how many times less.
pub struct Factor {
    /// The median of the rounds.
    pub median: f64,
    /// In the worst round.
    pub low: f64,
    /// In the best round.
    pub high: f64,
}

impl Factor {
    /// From a ratio of what was measured.
    pub fn new(metric: &Metric, ratio: Ratio) -> Self {
        match metric.is_more_better {
            true => Self {
                median: ratio.median,
                low: ratio.low,
                high: ratio.high,
            },
            false => Self {
                median: 1.0 / ratio.median,
                low: 1.0 / ratio.high,
                high: 1.0 / ratio.low,
            },
        }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.median {
            factor if factor >= 10.0 => 0,
            factor if factor >= 0.1 => 2,
            _ => 4,
        };
        write!(f, "{:.decimals$}", self.median)
    }
}

/// A logarithmic scale, on which twice as good and half as good are equally far from 1.
pub struct Scale {
    /// Where it begins, in the units of the picture.
    pub left: f64,
    /// Where it ends.
    pub right: f64,
    /// The factor at its beginning, a power of two.
    pub min: f64,
    /// The factor at its end, a power of two.
    pub max: f64,
}

impl Scale {
    /// Returns where a factor is; what is beyond the scale is at its end.
    pub fn position(&self, factor: f64) -> f64 {
        let share =
            (factor.clamp(self.min, self.max) / self.min).log2() / (self.max / self.min).log2();
        self.left + share * (self.right - self.left)
    }

    /// Returns whether a factor is on it.
    pub fn contains(&self, factor: f64) -> bool {
        (self.min..=self.max).contains(&factor)
    }

    /// Returns each power of two on it.
    pub fn doublings(&self) -> impl Iterator<Item = f64> {
        let max = self.max;
        std::iter::successors(Some(self.min), |factor| Some(factor * 2.0))
            .take_while(move |factor| *factor <= max)
    }

    /// Returns the words at a power of two.
    pub fn label(factor: f64) -> String {
        match factor < 1.0 {
            true => format!("1/{}", 1.0 / factor),
            false => format!("{factor}"),
        }
    }
}
