//! What is wrong in the files of settings, in use or not, and in the Environment= of what is in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Level};
use super::settings::services;
use super::units::Unit;
use crate::gateway_rules;
use crate::prefix;
use crate::programs::bridge::complaints;
use crate::programs::bridge::variables::{Complaint, Variables};

/// The file of all bridges.
const COMMON: &str = "vsock-bridge.conf";

/// Returns a line for each wrong setting, or one for all files of the folder if there are any. `misnamed`: those that nobody
/// reads.
pub(super) fn check(units: &[Unit], folder: &Path, misnamed: Vec<Finding>) -> Vec<Finding> {
    let mut paths = files_in(folder);
    let read = services(units).flat_map(|service| service.environment_files.iter().cloned());
    paths.extend(read.filter(|path| path.exists()));
    let mut findings = misnamed;
    findings.extend((paths.iter()).flat_map(|path| look(path, is_in_use(path, units))));
    findings.extend(services(units).flat_map(of_unit));
    findings.extend(services(units).filter_map(listens_twice));
    let idle = paths.iter().filter(|path| !is_in_use(path, units));
    findings.extend(idle.flat_map(|path| together_idle(path, units)));
    for finding in services(units).flat_map(together) {
        // What the file of all bridges has is told once.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    if findings.is_empty() && !paths.is_empty() {
        let text = format!("in {} are all known and valid", folder.display());
        findings.push(Finding::ok("settings", text));
    }
    findings
}

/// Returns whether a service cannot start because of its settings.
pub(super) fn keep_down(service: &Unit) -> bool {
    let files = service.environment_files.iter();
    let fails = |findings: Vec<Finding>| findings.iter().any(|one| one.level == Level::Fail);
    fails(of_unit(service))
        || files
            .filter(|path| path.exists())
            .any(|path| fails(look(path, true)))
        || fails(together(service))
        || listens_twice(service).is_some()
}

fn is_common(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == COMMON)
}

fn files_in(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    // Rules of the gateway are no settings.
    let is_for_settings = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "conf") && path != Path::new(gateway_rules::PATH)
    };
    paths.filter(is_for_settings).collect()
}

fn look(path: &Path, is_in_use: bool) -> Vec<Finding> {
    let mut variables = Variables::default();
    if let Err(error) = variables.read(path) {
        return vec![Finding::warn("settings", error.report())];
    }
    if is_common(path) {
        // It has a line of its own.
        variables
            .assigned
            .retain(|one| one.name != prefix::VARIABLE);
    }
    // What the settings of one bridge come to is told when all of them are known.
    let level = Level::of_fault(is_in_use);
    if is_common(path) {
        let complaints = variables.complaints().into_iter();
        return complaints.map(|one| finding(one, level)).collect();
    }
    let finding = |problem| Finding::new(level, "settings", problem);
    variables.problems().into_iter().map(finding).collect()
}

fn of_unit(service: &Unit) -> Vec<Finding> {
    let variables = Variables::of_environment(&service.environment, &service.id);
    let finding = |problem| Finding::new(Level::Fail, "settings", problem);
    variables.problems().into_iter().map(finding).collect()
}

/// Tells of a service in use that is to listen beside its socket.
fn listens_twice(service: &Unit) -> Option<Finding> {
    let mut variables = Variables::of_environment(&service.environment, &service.id);
    // What cannot be read has its line.
    let _ = (service.environment_files.iter()).try_for_each(|path| variables.read(path));
    let socket = service.id.replace(".service", ".socket");
    let problem = complaints::listens_twice(&variables, &socket)?;
    Some(Finding::new(Level::Fail, "settings", problem))
}

/// Tells what the settings of a service in use come to, such as names of machines that nobody has: each alone is valid.
fn together(service: &Unit) -> Vec<Finding> {
    // The command line overrules them, and is not read.
    let options = [
        " --to",
        " --allow-cid",
        " --names",
        " --listen",
        " --rules",
        " --machine",
        " --as-peer",
    ];
    if options
        .iter()
        .any(|option| service.command.contains(option))
    {
        return Vec::new();
    }
    let mut variables = Variables::of_environment(&service.environment, &service.id);
    let is_read = |path: &PathBuf| variables.read(path).is_ok();
    // What cannot be read, or is wrong alone, has its line.
    if !service.environment_files.iter().all(is_read) || !variables.problems().is_empty() {
        return Vec::new();
    }
    let complaints = variables.complaints().into_iter();
    complaints.map(|one| finding(one, Level::Fail)).collect()
}

/// A machine that is not there now keeps no bridge down.
fn finding(complaint: Complaint, level: Level) -> Finding {
    match complaint.is_absence {
        true => Finding::warn("settings", complaint.text),
        false => Finding::new(level, "settings", complaint.text),
    }
}

/// As [`together`], for the file of a bridge that is not in use.
fn together_idle(path: &Path, units: &[Unit]) -> Vec<Finding> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let id = format!("{}.service", stem.unwrap_or_default());
    let service = units.iter().find(|unit| unit.id == id);
    let together = together(&Unit {
        environment_files: vec![path.with_file_name(COMMON), path.to_owned()],
        ..service.cloned().unwrap_or_default()
    });
    let place = format!("{}:", path.display());
    let is_its = |finding: &Finding| finding.text.starts_with(&place);
    let warn = |finding: Finding| Finding::warn("settings", finding.text);
    together.into_iter().filter(is_its).map(warn).collect()
}

/// Returns whether some unit in use reads the file; all of them read the common one.
pub(super) fn is_in_use(path: &Path, units: &[Unit]) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let is_its = |unit: &&Unit| unit.id.rsplit_once('.').map(|(name, _)| name) == stem;
    is_common(path)
        || units.iter().filter(is_its).any(Unit::is_in_use)
        || services(units).any(|service| service.environment_files.iter().any(|read| read == path))
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::{active, inactive};
    use super::*;
    use crate::programs::bridge::variables::FOLDER;

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
    fn what_the_settings_of_a_bridge_come_to_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vsock-bridge@445.conf");
        for (to, list, said) in [
            (
                "[::1]:445",
                "nobody",
                "VSOCK_BRIDGE_ALLOW_CID: no machine is named",
            ),
            (
                "vsock:nobody:1",
                "any",
                "VSOCK_BRIDGE_TO: no machine is named",
            ),
            (
                "3=/run/a web=/run/b",
                "any",
                "VSOCK_BRIDGE_TO: machine 3 has two targets",
            ),
            ("3=/run/a db=/run/b", "web,db", ""),
        ] {
            fs::write(&file, format!("VSOCK_BRIDGE_TO=\"{to}\"\n")).unwrap();
            let service = Unit {
                environment: vec![
                    format!("VSOCK_BRIDGE_ALLOW_CID={list}"),
                    "VSOCK_BRIDGE_NAMES=web=3 db=4".into(),
                ],
                environment_files: vec![file.clone()],
                ..inactive("vsock-bridge@445.service")
            };
            let found = together(&service);
            let is_said = |finding: &Finding| finding.text.contains(said);
            assert_eq!(found.len(), usize::from(!said.is_empty()), "{found:?}");
            assert!(found.iter().all(is_said), "{found:?}");
            let is_absent = said.contains("no machine is named");
            let level = if is_absent { Level::Warn } else { Level::Fail };
            assert!(found.iter().all(|one| one.level == level), "{found:?}");
            assert_eq!(keep_down(&service), !found.is_empty() && !is_absent);
            let commanded = Unit {
                command: "x --to [::1]:445".into(),
                ..service
            };
            assert_eq!(together(&commanded), []);
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
