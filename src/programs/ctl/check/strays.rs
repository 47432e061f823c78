//! Files of rules and of names that nobody reads, as their names end otherwise or their folder has another name; and files of names
//! that few can read.
//!
//! What editors and package managers leave is nobody's, and not told, as systemd does with its folders of that kind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::finding::{Finding, is_plain};
use super::misnamed::is_old;
use crate::gateway_rules;
use crate::names;
use crate::programs::bridge::variables::FOLDER;
use crate::programs::unit_folder::OF_MACHINE;
use crate::registry::ENDING;

/// The folders whose files are read one by one, and what is in them.
const READ: [(&str, &str, &str); 2] = [
    (gateway_rules::FOLDER, "gateway", "rules"),
    (names::REGISTRY, "names", "names"),
];
/// What may be meant by a folder beside these.
const ENDINGS: [&str; 2] = [".d", "names"];

/// Returns a line for each.
pub(super) fn check() -> Vec<Finding> {
    let mut findings = Vec::new();
    for (folder, subject, what) in READ {
        let strays = entries(Path::new(folder)).into_iter();
        findings.extend(strays.filter_map(|path| stray(&path, subject, what)));
    }
    findings.extend(closed(Path::new(names::REGISTRY)));
    for folder in [FOLDER, OF_MACHINE] {
        findings.extend(
            entries(Path::new(folder))
                .iter()
                .filter_map(|path| other_folder(path)),
        );
    }
    findings
}

/// Returns what is in a folder, in the order of the names, but for what nobody wants to be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| !is_old(&name(path)) && !name(path).starts_with("README"));
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn stray(path: &Path, subject: &str, what: &str) -> Option<Finding> {
    let shown = path.display();
    if path.is_dir() {
        let text = format!("{shown} is a folder, in which nobody looks for {what}");
        return Some(Finding::warn(subject, text));
    }
    if let (Ok(target), false) = (path.read_link(), path.exists()) {
        let text = format!(
            "{shown} is a link to {}, where no file is",
            target.display()
        );
        return Some(Finding::warn(subject, text));
    }
    if name(path).ends_with(ENDING) {
        return None;
    }
    let text =
        format!("{shown} is read by nobody: the name of a file with {what} ends in {ENDING}");
    let finding = Finding::warn(subject, text);
    Some(match is_plain(path) {
        true => finding.run(format!("mv {shown} {shown}{ENDING}")),
        false => finding,
    })
}

/// Returns a line for each file of names that only some may read: root finds its names, and the services and users do not.
fn closed(folder: &Path) -> Vec<Finding> {
    let is_closed = |path: &PathBuf| {
        let file = path.metadata();
        name(path).ends_with(ENDING)
            && file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o004 == 0)
    };
    let told = |path: PathBuf| {
        let shown = path.display();
        let text = format!(
            "{shown} is not for everybody to read, so services and users find none of its names"
        );
        Finding::warn("names", text).open(&path)
    };
    let paths = entries(folder).into_iter();
    paths.filter(is_closed).map(told).collect()
}

/// Tells of a folder that looks like one of those that are read, and is none.
fn other_folder(path: &Path) -> Option<Finding> {
    let is_read = READ.iter().any(|(folder, ..)| path == Path::new(folder));
    let is_like_one = ENDINGS.iter().any(|ending| name(path).ends_with(ending));
    let is_one = !is_read && is_like_one && path.is_dir() && !entries(path).is_empty();
    is_one.then(|| {
        let text = format!(
            "{} is read by nobody: rules are in {}, names in {}, and settings in a file for each unit",
            path.display(),
            gateway_rules::FOLDER,
            names::REGISTRY
        );
        Finding::warn("settings", text)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_nobody_reads_is_a_line_and_what_nobody_wants_is_none() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in [
            "a.conf",
            "web",
            "web.rules",
            "it's",
            "README",
            ".web.conf",
            "b.conf~",
            "b.conf.dpkg-old",
            "b.conf.swp",
        ] {
            fs::write(at(name), "web=3\n").unwrap();
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(at(name), open).unwrap();
        }
        fs::create_dir(at("sub.conf")).unwrap();
        symlink("a.conf", at("there.conf")).unwrap();
        symlink("nowhere", at("gone.conf")).unwrap();
        symlink("/dev/null", at("off.conf")).unwrap();
        let paths = entries(root.path()).into_iter();
        let found: Vec<Finding> = paths
            .filter_map(|path| stray(&path, "names", "names"))
            .collect();
        let told = |finding: &Finding| {
            let text = finding
                .text
                .replace(&format!("{}/", root.path().display()), "");
            let end = text.find(" is ").unwrap();
            (text[..end].to_owned(), finding.commands.len())
        };
        let told: Vec<_> = found.iter().map(told).collect();
        let expected = [
            ("gone.conf", 0),
            ("it's", 0),
            ("sub.conf", 0),
            ("web", 1),
            ("web.rules", 1),
        ];
        assert_eq!(told, expected.map(|(name, count)| (name.to_owned(), count)));
        assert_eq!(closed(root.path()), []);
        fs::set_permissions(at("a.conf"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(
            closed(root.path())[0]
                .text
                .contains("a.conf is not for everybody")
        );
    }

    #[test]
    fn a_folder_of_nearly_the_right_name_is_a_line() {
        let root = tempfile::tempdir().unwrap();
        for (name, is_told) in [
            ("names.conf.d", true),
            ("gateway.d", true),
            ("vsock-bridge@445.conf.d", true),
            ("names", true),
            ("vsock-bridge@445", false),
        ] {
            let folder = root.path().join(name);
            fs::create_dir(&folder).unwrap();
            assert_eq!(other_folder(&folder), None, "{name} is empty");
            fs::write(folder.join("a.conf"), "").unwrap();
            assert_eq!(other_folder(&folder).is_some(), is_told, "{name}");
        }
        assert_eq!(other_folder(Path::new(names::REGISTRY)), None);
    }
}
