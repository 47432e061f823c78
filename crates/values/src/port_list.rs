//! The ports of one bridge: a list with ranges.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::invalid::Invalid;
use crate::vsock::decimal;

/// The list as a variable, which is read for socket units.
pub const VARIABLE: &str = "VSOCK_BRIDGE_PORTS";
/// The most ports of one bridge: each is a socket that systemd passes to it.
pub const PORTS_MAX: usize = 1024;

/// Ports from 1 to 65535, each once.
///
/// Text form: a list such as `8000-8010,9000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortList(BTreeSet<u16>);

impl PortList {
    /// Returns each, the lowest first; there is at least one, and at most [`PORTS_MAX`].
    pub fn ports(&self) -> &BTreeSet<u16> {
        &self.0
    }
}

impl FromStr for PortList {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<PortList, Invalid> {
        let fail = |hint: String| Invalid::new("list of ports", text, hint);
        let mut ports = BTreeSet::new();
        for item in text.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let range = port(first)
                .zip(port(last))
                .filter(|(first, last)| first <= last);
            let Some((first, last)) = range else {
                return Err(fail(format!(
                    "{item:?} is neither a port from 1 to 65535 nor a range of them; expected e.g. 8000-8010,9000"
                )));
            };
            ports.extend(first..=last);
            if ports.len() > PORTS_MAX {
                return Err(fail(format!("more than {PORTS_MAX} ports")));
            }
        }
        Ok(PortList(ports))
    }
}

fn port(text: &str) -> Option<u16> {
    decimal(text).filter(|&port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_ports_are_a_set() {
        for (text, ports) in [
            ("80", &[80][..]),
            ("9000,8000-8002", &[8000, 8001, 8002, 9000]),
            ("5-7,6-8,6", &[5, 6, 7, 8]),
            ("65535", &[65535]),
        ] {
            let list: PortList = text.parse().unwrap();
            assert!(list.ports().iter().eq(ports), "{text}: {list:?}");
        }
        assert_eq!(
            "1-1024".parse::<PortList>().unwrap().ports().len(),
            PORTS_MAX
        );
    }

    #[test]
    fn what_is_no_list_of_ports_is_refused() {
        for text in [
            "",
            ",",
            "80,",
            "0",
            "65536",
            "80-",
            "-80",
            "90-80",
            "80 81",
            "80, 81",
            "smb",
            "80-81-82",
            "+80",
            "1-1025",
            "1-1000,2000-2024",
            "080",
        ] {
            let problem = text.parse::<PortList>().unwrap_err().to_string();
            assert!(
                problem.contains("is not a valid list of ports"),
                "{text}: {problem}"
            );
        }
    }
}
