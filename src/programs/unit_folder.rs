//! The folder that a bridge has below that of all bridges (RuntimeDirectory= of its unit), and the name of the unit by it.
//!
//! It has the name of the unit. Where the instance is a path, as of hybrid vsock, it has that path as it is and not as it is
//! escaped, `vsock-bridge-mux@run/my-vm/guest.vsock`: systemd 255 to 261 starts no service with a backslash in its
//! RuntimeDirectory= (systemd#41853).

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::{env, fs};

use libsystemd::unit::escape_name;

/// The folder of all bridges of the machine.
pub(super) const OF_MACHINE: &str = "/run/vsock-bridge";
/// Where systemd has that of a user's services (RuntimeDirectory=, systemd.exec(5)).
pub(super) const OF_USER: &str = "XDG_RUNTIME_DIR";
/// So many folders a path may go through.
const DEPTH_MAX: usize = 64;

/// Returns the folder of all bridges of this user; none without a session.
pub(super) fn of_user() -> Option<PathBuf> {
    Some(Path::new(&env::var_os(OF_USER)?).join("vsock-bridge"))
}

/// Returns the name of the unit, without `.service`, whose folder that is.
pub(super) fn unit(folder: &Path) -> Option<String> {
    unit_below(
        folder,
        &[OF_MACHINE.into()]
            .into_iter()
            .chain(of_user())
            .collect::<Vec<_>>(),
    )
}

/// Elsewhere it is the name of the folder.
fn unit_below(folder: &Path, of_all: &[PathBuf]) -> Option<String> {
    let below = of_all.iter().find_map(|all| folder.strip_prefix(all).ok());
    let own = below.filter(|own| own.file_name().is_some());
    let own = own.or(folder.file_name().map(Path::new))?;
    let parts: PathBuf = own.components().collect();
    parts.to_str().map(unit_of)
}

/// Takes the path of a folder below that of all bridges.
fn unit_of(path: &str) -> String {
    match path.split_once('@') {
        Some((template, instance)) if instance.contains('/') => {
            format!("{template}@{}", escape_name(instance))
        }
        _ => path.to_owned(),
    }
}

/// Returns the folders of all units below that of all bridges; there are none where it is missing. `file` is in each that is
/// below another one's.
///
/// Errors: it cannot be read.
pub(super) fn all(of_all: &Path, file: &str) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(of_all) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries.flatten() {
        // What is no UTF-8 is no name of a unit.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.contains('@') {
            collect(&entry, (&name, file), 1, &mut found);
        }
        // A package before this one had the escaped name for a path: what is left of that gives way.
        found.entry(name).or_insert_with(|| entry.path());
    }
    Ok(found)
}

/// Adds the folders below one, of that path below the folder of all, which have the file.
fn collect(
    folder: &fs::DirEntry,
    (path, file): (&str, &str),
    depth: usize,
    found: &mut BTreeMap<String, PathBuf>,
) {
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    if depth > DEPTH_MAX || !is_folder(folder) {
        return;
    }
    // That of a bridge itself may be for its user alone.
    for entry in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string();
        if let (Ok(name), true) = (name, is_folder(&entry)) {
            let path = format!("{path}/{name}");
            collect(&entry, (&path, file), depth + 1, found);
            if entry.path().join(file).try_exists().unwrap_or(true) {
                found.insert(unit_of(&path), entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_the_name_of_its_unit() {
        for (folder, name) in [
            ("/run/vsock-bridge/vsock-bridge@445", "vsock-bridge@445"),
            ("/run/vsock-bridge/vsock-bridge-any", "vsock-bridge-any"),
            (
                "/run/user/7/vsock-bridge/vsock-bridge@445/",
                "vsock-bridge@445",
            ),
            ("/home/me/vsock-bridge/x/vsock-bridge@1", "vsock-bridge@1"),
            ("/run/vsock-bridge", "vsock-bridge"),
            (
                "/run/vsock-bridge/vsock-bridge-mux@run/web/guest.vsock_445",
                "vsock-bridge-mux@run-web-guest.vsock_445",
            ),
            (
                "/run/vsock-bridge/vsock-bridge-mux@run/my-vm/vsock-bridge/a b@c",
                r"vsock-bridge-mux@run-my\x2dvm-vsock\x2dbridge-a\x20b\x40c",
            ),
            (
                r"/run/vsock-bridge/vsock-bridge-mux@run-my\x2dvm",
                r"vsock-bridge-mux@run-my\x2dvm",
            ),
        ] {
            let of_all = ["/run/vsock-bridge", "/run/user/7/vsock-bridge"].map(PathBuf::from);
            let found = unit_below(Path::new(folder), &of_all);
            assert_eq!(found.as_deref(), Some(name), "{folder}");
        }
        assert_eq!(unit_below(Path::new(""), &[]), None);
    }

    #[test]
    fn folders_are_found_at_any_depth_and_what_is_left_of_an_older_package_gives_way() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            all(&root.path().join("missing"), "control")
                .unwrap()
                .is_empty()
        );
        for folder in [
            "names.d",
            "vsock-bridge@1",
            "vsock-bridge-mux@run-a_1",
            "vsock-bridge-mux@run/a_1",
            "vsock-bridge-mux@run/my-vm/b_1",
            "vsock-bridge-mux@run/my-vm/b_1/c_1",
        ] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for folder in ["a_1", "my-vm/b_1", "my-vm/b_1/c_1"] {
            let folder = root.path().join("vsock-bridge-mux@run").join(folder);
            fs::write(folder.join("control"), "").unwrap();
        }
        let found = all(root.path(), "control").unwrap();
        let found: Vec<(&str, &str)> = (found.iter())
            .map(|(name, path)| {
                (
                    &**name,
                    path.strip_prefix(root.path()).unwrap().to_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("names.d", "names.d"),
                ("vsock-bridge-mux@run", "vsock-bridge-mux@run"),
                ("vsock-bridge-mux@run-a_1", "vsock-bridge-mux@run/a_1"),
                (
                    r"vsock-bridge-mux@run-my\x2dvm-b_1",
                    "vsock-bridge-mux@run/my-vm/b_1"
                ),
                (
                    r"vsock-bridge-mux@run-my\x2dvm-b_1-c_1",
                    "vsock-bridge-mux@run/my-vm/b_1/c_1"
                ),
                ("vsock-bridge@1", "vsock-bridge@1"),
            ]
        );
    }
}
