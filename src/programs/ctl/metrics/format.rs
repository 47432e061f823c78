//! The two text formats of Prometheus: its own, version 0.0.4, and OpenMetrics 1.0.
//!
//! They differ in little: OpenMetrics names a counter without `_total`, knows units, and marks its end.

use std::fmt::{self, Write};

use super::families::{Family, Kind, Sample, Value};

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' own text format.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// Writes all samples, each family with what it is.
    pub(super) fn text(self, families: &[Family]) -> String {
        let mut text = String::new();
        for family in families {
            // Writing to a String cannot fail, here and below.
            let _ = self.head(&mut text, family);
            for sample in &family.samples {
                let _ = line(&mut text, family.name, sample);
            }
        }
        if self == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn head(self, text: &mut String, family: &Family) -> fmt::Result {
        let kind = match family.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        let Family { name, help, .. } = family;
        let end = match (self, family.kind) {
            (Format::Text, Kind::Counter) => "_total",
            _ => "",
        };
        writeln!(text, "# HELP {name}{end} {help}")?;
        writeln!(text, "# TYPE {name}{end} {kind}")?;
        match (self, family.unit) {
            (Format::OpenMetrics, Some(unit)) => writeln!(text, "# UNIT {name} {unit}"),
            _ => Ok(()),
        }
    }
}

fn line(text: &mut String, name: &str, sample: &Sample) -> fmt::Result {
    write!(text, "{name}{}", sample.suffix)?;
    for (index, (label, value)) in sample.labels.iter().enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        write!(text, "{before}{label}=\"{}\"", escaped(value))?;
    }
    match sample.value {
        Value::Count(count) => writeln!(text, "}} {count}"),
        Value::Seconds(seconds) => writeln!(text, "}} {seconds:?}"),
    }
}

/// Escapes what ends the value of a label.
fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::super::families::families;
    use super::*;
    use crate::error::Error;
    use crate::programs::ctl::bridges::{Survey, Unread, example};

    const TEXT: &str = r#"# HELP vsock_bridge_up Whether the bridge serves, or its socket waits for the first peer.
# TYPE vsock_bridge_up gauge
vsock_bridge_up{bridge="vsock-bridge-ipv6@445"} 1
vsock_bridge_up{bridge="vsock-bridge@445"} 1
vsock_bridge_up{bridge="odd\"\\x"} 0
# HELP vsock_bridge_connections Open connections of each peer.
# TYPE vsock_bridge_connections gauge
vsock_bridge_connections{bridge="vsock-bridge@445",peer="3"} 2
vsock_bridge_connections{bridge="vsock-bridge@445",peer="::1"} 1
# HELP vsock_bridge_connections_served_total Connections that reached their target and are over.
# TYPE vsock_bridge_connections_served_total counter
vsock_bridge_connections_served_total{bridge="vsock-bridge@445"} 1204
# HELP vsock_bridge_refused_total Peers that were not let in.
# TYPE vsock_bridge_refused_total counter
vsock_bridge_refused_total{bridge="vsock-bridge@445",reason="max_connections"} 0
vsock_bridge_refused_total{bridge="vsock-bridge@445",reason="not_allowed"} 1
vsock_bridge_refused_total{bridge="vsock-bridge@445",reason="unknown"} 1
# HELP vsock_bridge_unreachable_total Peers whose target could not be reached.
# TYPE vsock_bridge_unreachable_total counter
vsock_bridge_unreachable_total{bridge="vsock-bridge@445",reason="other"} 0
vsock_bridge_unreachable_total{bridge="vsock-bridge@445",reason="refused"} 1
# HELP vsock_bridge_bytes_total Bytes that arrived: inbound at targets, outbound at peers.
# TYPE vsock_bridge_bytes_total counter
vsock_bridge_bytes_total{bridge="vsock-bridge@445",direction="inbound"} 1610613736
vsock_bridge_bytes_total{bridge="vsock-bridge@445",direction="outbound"} 6108
# HELP vsock_bridge_connect_duration_seconds Time from the accept of a peer until its target was connected.
# TYPE vsock_bridge_connect_duration_seconds histogram
vsock_bridge_connect_duration_seconds_bucket{bridge="vsock-bridge@445",le="0.001"} 1000
vsock_bridge_connect_duration_seconds_bucket{bridge="vsock-bridge@445",le="10.0"} 1205
vsock_bridge_connect_duration_seconds_bucket{bridge="vsock-bridge@445",le="+Inf"} 1206
vsock_bridge_connect_duration_seconds_sum{bridge="vsock-bridge@445"} 12.5
vsock_bridge_connect_duration_seconds_count{bridge="vsock-bridge@445"} 1206
"#;

    fn survey() -> Survey {
        Survey {
            bridges: example(),
            unread: vec![Unread {
                name: r#"odd"\x"#.to_owned(),
                error: Error::Usage(String::new()),
            }],
        }
    }

    #[test]
    fn every_number_has_its_name_and_labels() {
        assert_eq!(Format::Text.text(&families(&survey())), TEXT);
    }

    #[test]
    fn openmetrics_has_other_names_of_counters_and_units_and_an_end() {
        let mut expected = String::new();
        for line in TEXT.lines() {
            let line = match line.strip_prefix('#') {
                Some(_) => line
                    .replace("_total ", " ")
                    .replace(
                        "_bytes counter",
                        "_bytes counter\n# UNIT vsock_bridge_bytes bytes",
                    )
                    .replace(
                        "_seconds histogram",
                        "_seconds histogram\n# UNIT vsock_bridge_connect_duration_seconds seconds",
                    ),
                None => line.to_owned(),
            };
            expected += &format!("{line}\n");
        }
        let expected = expected + "# EOF\n";
        let written = Format::OpenMetrics.text(&families(&survey()));
        assert_eq!(written, expected);
        let units = written.lines().filter(|line| line.starts_with("# UNIT "));
        assert_eq!(units.count(), 2);
    }
}
