//! Files in /etc/vsock-bridge that nobody reads because of a slip in their names: what they fence off is open.

use std::fs;
use std::path::Path;

use super::files::is_in_use;
use super::finding::Finding;
use super::settings::services;
use super::units::Unit;
use crate::gateway_rules;

/// Units of which there is one.
const SINGLE: [&str; 5] = [
    "vsock-bridge",
    "vsock-bridge-any",
    "vsock-bridge-gateway",
    "vsock-bridge-inbound",
    "vsock-bridge-proxy",
];
/// Units of which there are many.
const TEMPLATES: [&str; 4] = [
    "vsock-bridge@",
    "vsock-bridge-ipv6@",
    "vsock-bridge-mux@",
    "vsock-exec@",
];
/// What editors and package managers leave.
const OLD: [&str; 10] = [
    "~",
    ".bak",
    ".old",
    ".new",
    ".orig",
    ".save",
    ".swp",
    ".pacnew",
    ".pacsave",
    ".disabled",
];
const OLD_WITHIN: [&str; 3] = [".dpkg-", ".rpm", ".ucf-"];

/// Returns a line for each file that has settings and is of no bridge, or whose name is nearly that of one in use.
pub(super) fn check(units: &[Unit], folder: &Path) -> Vec<Finding> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let problems = paths.iter().filter_map(|path| problem(path, units));
    problems
        .map(|text| Finding::warn("settings", text))
        .collect()
}

fn problem(path: &Path, units: &[Unit]) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    if is_old(name) || path == Path::new(gateway_rules::PATH) || is_in_use(path, units) {
        return None;
    }
    if !name.strip_suffix(".conf").is_some_and(is_unit) {
        let text = format!(
            "{} is read by no bridge: the file of one has the name of its unit, such as vsock-bridge@445.conf",
            path.display()
        );
        return has_settings(path).then_some(text);
    }
    let near = near(path.parent()?, name, units)?;
    Some(format!(
        "{} is of no bridge in use, and {near}, which is, has no file: is the name misspelt?",
        path.display()
    ))
}

/// Returns whether nobody is to read a file of that name.
pub(super) fn is_old(name: &str) -> bool {
    name.starts_with('.')
        || OLD.iter().any(|end| name.ends_with(end))
        || OLD_WITHIN.iter().any(|part| name.contains(part))
}

/// A name without instance has a line of its own.
fn is_unit(stem: &str) -> bool {
    let is_suffixed = stem.ends_with(".socket") || stem.ends_with(".service");
    let is_known = SINGLE.contains(&stem) || TEMPLATES.iter().any(|name| stem.starts_with(name));
    is_known && !is_suffixed
}

fn has_settings(path: &Path) -> bool {
    // A folder has none.
    let text = fs::read_to_string(path).unwrap_or_default();
    (text.lines()).any(|line| line.trim_start().starts_with("VSOCK_BRIDGE_"))
}

/// Finds a bridge in use without a file of its own whose name differs in one letter.
fn near<'a>(folder: &Path, name: &str, units: &'a [Unit]) -> Option<&'a str> {
    let bridges = services(units).filter_map(|service| service.id.strip_suffix(".service"));
    let mut lonely = bridges.filter(|bridge| {
        let file = format!("{bridge}.conf");
        strsim::osa_distance(&file, name) == 1 && !folder.join(file).exists()
    });
    lonely.next()
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::{active, inactive};
    use super::*;

    #[test]
    fn a_file_has_the_name_of_a_unit_and_copies_of_one_have_not() {
        for (name, is_one) in [
            ("vsock-bridge", true),
            ("vsock-bridge@445", true),
            ("vsock-bridge-mux@run-vm.vsock_445", true),
            ("vsock-exec@22", true),
            ("vsock-bridge@445.socket", false),
            ("445", false),
            ("vsock-bridge-445", false),
        ] {
            assert_eq!(is_unit(name), is_one, "{name}");
        }
        for name in [
            "vsock-bridge@445.conf~",
            ".vsock-bridge@445.conf.swp",
            "vsock-bridge@445.conf.dpkg-old",
        ] {
            assert!(is_old(name), "{name}");
        }
        assert!(!is_old("vsock-bridge@445"));
    }

    #[test]
    fn each_file_that_a_unit_reads_has_such_a_name() {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("units");
        let mut count = 0;
        for entry in fs::read_dir(units).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
            let files = text
                .lines()
                .filter_map(|line| line.strip_prefix("EnvironmentFile=-/etc/vsock-bridge/"));
            for file in files {
                assert!(file.strip_suffix(".conf").is_some_and(is_unit), "{file}");
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn a_name_that_is_nearly_that_of_a_bridge_in_use_is_one() {
        let units = [
            active("vsock-bridge@7445.socket"),
            inactive("vsock-bridge@7445.service"),
        ];
        for (name, expected) in [
            ("vsock-bridge@7455.conf", Some("vsock-bridge@7445")),
            ("vsock-bridge@80.conf", None),
            ("vsock-bridge-any.conf", None),
        ] {
            assert_eq!(
                near(Path::new("/missing"), name, &units),
                expected,
                "{name}"
            );
        }
    }
}
