//! A strict reader of what `vsockctl metrics` prints: Prometheus' text format, version 0.0.4, and OpenMetrics.

use std::collections::{BTreeMap, BTreeSet};

/// All samples of one name.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub unit: Option<String>,
    /// The names of all labels that a sample has.
    pub labels: BTreeSet<String>,
    /// Values by name and labels, as they stand there.
    pub samples: BTreeMap<String, f64>,
}

/// The families by the name that their HELP line has.
#[derive(Debug, Default)]
pub struct Exposition(pub BTreeMap<String, Family>);

impl Exposition {
    /// Reads Prometheus' own format.
    pub fn read(text: &str) -> Exposition {
        let read = Exposition::lines(text);
        for (name, family) in &read.0 {
            let is_total = name.ends_with("_total");
            assert_eq!(family.kind == "counter", is_total, "{name}");
            assert_eq!(family.unit, None, "{name}");
        }
        read
    }

    /// Reads OpenMetrics.
    pub fn read_openmetrics(text: &str) -> Exposition {
        let text = text.strip_suffix("# EOF\n").expect("no end");
        let read = Exposition::lines(text);
        for (name, family) in &read.0 {
            assert!(!name.ends_with("_total"), "{name}");
            for unit in ["bytes", "seconds"] {
                let has_unit = family.unit.as_deref() == Some(unit);
                assert_eq!(name.ends_with(&format!("_{unit}")), has_unit, "{name}");
            }
        }
        read
    }

    /// Returns the number, or panics.
    pub fn value(&self, sample: &str) -> f64 {
        let mut all = self.0.values().flat_map(|family| &family.samples);
        let found = all.find(|(name, _)| *name == sample);
        *found
            .unwrap_or_else(|| panic!("no {sample} in {self:#?}"))
            .1
    }

    /// Each name has its HELP, then its TYPE, then its samples, each of them once.
    fn lines(text: &str) -> Exposition {
        assert!(text.is_empty() || text.ends_with('\n'));
        let mut all = Exposition::default();
        let (mut name, mut step) = (String::new(), 0);
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", new, help] => {
                    assert!(
                        is_name(new) && !help.is_empty() && !help.contains('\\'),
                        "{line}"
                    );
                    new.clone_into(&mut name);
                    let before = all.0.insert(name.clone(), Family::default());
                    assert!(before.is_none(), "twice: {line}");
                    step = 1;
                }
                ["#", "TYPE", same, kind] => {
                    assert_eq!((same, step), (&*name, 1), "{line}");
                    kind.clone_into(&mut all.0.get_mut(&name).unwrap().kind);
                    step = 2;
                }
                ["#", "UNIT", same, unit] => {
                    assert_eq!((same, step), (&*name, 2), "{line}");
                    all.0.get_mut(&name).unwrap().unit = Some(unit.to_owned());
                    step = 3;
                }
                _ => {
                    assert!(step >= 2, "{line}");
                    all.0.get_mut(&name).unwrap().add(&name, line);
                }
            }
        }
        all.0.values().for_each(Family::check_buckets);
        all
    }
}

impl Family {
    fn add(&mut self, family: &str, line: &str) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap();
        let ends: &[&str] = match &*self.kind {
            "counter" if family.ends_with("_total") => &[""],
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let is_ours = |end: &&str| name == format!("{family}{end}");
        assert!(ends.iter().any(is_ours), "{line}");
        for label in labels.strip_suffix('}').unwrap().split(',') {
            let (label, value) = label.split_once("=\"").unwrap();
            let value = value.strip_suffix('"').unwrap();
            assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
            self.labels.insert(label.to_owned());
        }
        let before = (self.samples).insert(sample.to_owned(), value.parse().unwrap());
        assert!(before.is_none(), "twice: {line}");
    }

    /// No bucket has fewer than one below it, and the last has all.
    fn check_buckets(&self) {
        let mut bridges: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (sample, &value) in &self.samples {
            if let Some((name, limit)) = sample.split_once(",le=\"") {
                let limit = limit.trim_end_matches("\"}").parse().unwrap();
                let buckets = bridges.entry(name.replace("_bucket{", "_count{"));
                buckets.or_default().push((limit, value));
            }
        }
        for (name, mut buckets) in bridges {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.is_sorted_by_key(|bucket| bucket.1), "{buckets:?}");
            let all = self.samples[&format!("{name}}}")];
            assert_eq!(buckets.pop().unwrap(), (f64::INFINITY, all), "{name}");
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}
