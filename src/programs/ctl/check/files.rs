//! What is wrong in the files of settings, in use or not, and in the Environment= of what is in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Level};
use super::settings::services;
use super::units::Unit;
use crate::config_file;
use crate::prefix;
use crate::programs::bridge::variables::{FOLDER, Variables};

/// Returns a line for each wrong setting, or one for all files if there are any.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    let mut paths = files_in(Path::new(FOLDER));
    let read = services(units).flat_map(|service| service.environment_files.iter().cloned());
    paths.extend(read.filter(|path| path.exists()));
    let mut findings: Vec<Finding> = (paths.iter())
        .flat_map(|path| look(path, is_in_use(path, units)))
        .collect();
    findings.extend(services(units).flat_map(of_unit));
    if findings.is_empty() && !paths.is_empty() {
        let text = format!("in {FOLDER} are all known and valid");
        findings.push(Finding::ok("settings", text));
    }
    findings
}

/// Returns whether a service cannot start because of its settings.
pub(super) fn keep_down(service: &Unit) -> bool {
    let files = service.environment_files.iter();
    let is_wrong = |path: &PathBuf| !look(path, true).is_empty();
    !of_unit(service).is_empty() || files.filter(|path| path.exists()).any(is_wrong)
}

fn files_in(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .collect()
}

fn look(path: &Path, is_in_use: bool) -> Vec<Finding> {
    let mut variables = Variables::default();
    if let Err(error) = variables.read(path) {
        return vec![Finding::warn("settings", error.report())];
    }
    if path == Path::new(config_file::PATH) {
        // It has a line of its own.
        variables
            .assigned
            .retain(|one| one.name != prefix::VARIABLE);
    }
    // What the names of one bridge come to is told with its list and its target.
    let problems = match path == Path::new(config_file::PATH) {
        true => variables.complaints(),
        false => variables.problems(),
    };
    let level = Level::of_fault(is_in_use);
    let finding = |problem| Finding::new(level, "settings", problem);
    problems.into_iter().map(finding).collect()
}

fn of_unit(service: &Unit) -> Vec<Finding> {
    let variables = Variables::of_environment(&service.environment, &service.id);
    let finding = |problem| Finding::new(Level::Fail, "settings", problem);
    variables.problems().into_iter().map(finding).collect()
}

/// Returns whether some unit in use reads the file; all of them read the common one.
fn is_in_use(path: &Path, units: &[Unit]) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let is_its = |unit: &&Unit| unit.id.rsplit_once('.').map(|(name, _)| name) == stem;
    path == Path::new(config_file::PATH)
        || units.iter().filter(is_its).any(Unit::is_in_use)
        || services(units).any(|service| service.environment_files.iter().any(|read| read == path))
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::{active, inactive};
    use super::*;

    fn levels(text: &str, is_in_use: bool) -> Vec<(Level, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock-bridge@445.conf");
        fs::write(&path, text).unwrap();
        let of_file = |text: String| text.replace(&*folder.path().to_string_lossy(), "");
        let findings = look(&path, is_in_use).into_iter();
        findings.map(|one| (one.level, of_file(one.text))).collect()
    }

    #[test]
    fn each_wrong_line_is_a_line_and_fails_what_is_in_use() {
        let text = "VSOCK_BRIDGE_TO=[::1]:445\nnonsense\nVSOCK_BRIDGE_ALOW_CID=3\n";
        for (is_in_use, level) in [(true, Level::Fail), (false, Level::Warn)] {
            let [line, name] = &levels(text, is_in_use)[..] else {
                panic!("not two lines")
            };
            assert_eq!((line.0, name.0), (level, level));
            assert!(line.1.starts_with("/vsock-bridge@445.conf:2: "), "{line:?}");
            assert!(name.1.starts_with("/vsock-bridge@445.conf:3: "), "{name:?}");
        }
        assert_eq!(levels("VSOCK_BRIDGE_TO=[::1]:445\n", true), []);
    }

    #[test]
    fn a_file_is_in_use_with_its_unit() {
        let units = [
            active("vsock-bridge@445.socket"),
            inactive("vsock-bridge@445.service"),
        ];
        for (name, expected) in [
            ("vsock-bridge", true),
            ("vsock-bridge@445", true),
            ("vsock-bridge@80", false),
        ] {
            let path = Path::new(FOLDER).join(format!("{name}.conf"));
            assert_eq!(is_in_use(&path, &units), expected, "{name}");
        }
    }

    #[test]
    fn the_environment_of_a_unit_counts() {
        let service = Unit {
            environment: vec![
                "VSOCK_BRIDGE_TO=nonsense".into(),
                "VSOCK_BRIDGE_XY=1".into(),
            ],
            ..inactive("vsock-bridge@445.service")
        };
        let texts: Vec<String> = of_unit(&service).into_iter().map(|one| one.text).collect();
        assert!(
            texts[0].starts_with("vsock-bridge@445.service: VSOCK_BRIDGE_TO: "),
            "{texts:?}"
        );
        assert!(
            texts[1].contains("VSOCK_BRIDGE_XY is not a setting"),
            "{texts:?}"
        );
    }
}
