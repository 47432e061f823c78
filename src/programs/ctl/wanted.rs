//! The bridges that are meant by UNIT arguments, as systemctl(1) takes them: names with or without suffix, and patterns.

use std::str::FromStr;

use glob::Pattern;

use crate::error::{Error, Result};

/// A bridge, or a pattern of bridges; `.socket` and `.service` behind it say nothing more.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pattern: Pattern,
    is_name: bool,
}

impl FromStr for Unit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Unit> {
        let name = [".socket", ".service"]
            .iter()
            .find_map(|suffix| text.strip_suffix(suffix))
            .unwrap_or(text);
        let fail = |hint| Err(Error::invalid("bridge", text, hint));
        if name.is_empty() || name.contains(['/', '\0']) {
            return fail("expected the name of a unit, such as vsock-bridge@445, or a pattern");
        }
        match Pattern::new(name) {
            Ok(pattern) => Ok(Unit {
                is_name: Pattern::escape(name) == name,
                pattern,
            }),
            Err(_) => fail("expected a pattern with *, ? and [...], such as 'vsock-bridge@*'"),
        }
    }
}

/// Returns whether the bridge is meant; without units, all are.
pub(super) fn is_wanted(units: &[Unit], bridge: &str) -> bool {
    units.is_empty() || units.iter().any(|unit| unit.pattern.matches(bridge))
}

/// Returns the names that none of the bridges has; a pattern that fits none is none of them.
pub(super) fn missing<'a>(units: &'a [Unit], bridges: &[&str]) -> Vec<&'a str> {
    let names = units.iter().filter(|unit| unit.is_name);
    names
        .map(|unit| unit.pattern.as_str())
        .filter(|name| !bridges.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_mean_bridges() {
        let mux = r"vsock-bridge-mux@run-a\x2db.vsock_445";
        let all = [
            "vsock-bridge@445",
            "vsock-bridge@8080",
            "vsock-bridge-any",
            mux,
        ];
        for (text, wanted) in [
            ("vsock-bridge@445", &all[..1]),
            ("vsock-bridge@445.socket", &all[..1]),
            ("vsock-bridge@445.service", &all[..1]),
            ("vsock-bridge@*", &all[..2]),
            ("vsock-bridge@*.service", &all[..2]),
            ("vsock-bridge@???", &all[..1]),
            ("vsock-bridge@[48]*", &all[..2]),
            ("*any", &all[2..3]),
            (mux, &all[3..]),
            ("vsock-bridge", &[]),
            ("VSOCK-BRIDGE@445", &[]),
        ] {
            let units = [text.parse().unwrap()];
            let found = all.iter().filter(|name| is_wanted(&units, name));
            assert!(found.eq(wanted), "{text}");
        }
        assert!(is_wanted(&[], "anything"));
        for text in ["", ".socket", "a/b", "vsock-bridge@[", "***"] {
            assert!(text.parse::<Unit>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_missed_and_a_pattern_is_not() {
        let units = ["vsock-bridge@445.service", "vsock-bridge@80", "x*"];
        let units = units.map(|text| text.parse().unwrap());
        assert_eq!(missing(&units, &["vsock-bridge@445"]), ["vsock-bridge@80"]);
        assert_eq!(missing(&[], &[]), [""; 0]);
    }
}
