//! Whether the registry of names is right: its lines, names with two machines, and who may write there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Group;

use super::super::publish::NO_NAMES;
use super::finding::Finding;
use super::units::{self, NAMES_SERVICE, Unit};
use crate::config_file;
use crate::names::{self, Names};
use crate::registry::Registry;

/// The group of the service, which may add files to the folder, and change no other ones there.
const GROUP: &str = "vsock-bridge-names";

/// What the folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    owner: u32,
    /// Its group is that of the service.
    is_shared: bool,
    mode: u32,
}

/// Returns a line for each fault; a registry that is right has none, since few machines have one.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    let folder = Path::new(names::REGISTRY);
    let rights = fs::metadata(folder).ok().map(|metadata| Rights {
        owner: metadata.uid(),
        is_shared: Group::from_name(GROUP)
            .is_ok_and(|group| group.is_some_and(|group| group.gid.as_raw() == metadata.gid())),
        mode: metadata.mode(),
    });
    // What is wrong with the administrator's names has its own line.
    let administrators = Names::read_with_line().unwrap_or_default();
    let mut findings = Vec::from_iter(rights.and_then(open_to_others));
    findings.extend(unpublished(units));
    findings.extend(look(&Registry::read(folder), &administrators));
    findings
}

fn open_to_others(rights: Rights) -> Option<Finding> {
    let folder = names::REGISTRY;
    let text = format!(
        "others than root may write to {folder}, and so say which machines come in where a list has their names"
    );
    // Whoever may write to a folder may remove files of others there, unless it is sticky.
    let allowed = match rights.is_shared && rights.mode & 0o1000 != 0 {
        true => 0o002,
        false => 0o022,
    };
    (rights.owner != 0 || rights.mode & allowed != 0).then(|| {
        let finding = Finding::warn("names", text);
        match units::has_systemd() {
            true => finding.run(format!("systemd-tmpfiles --create --prefix={folder}")),
            false => finding
                .run(format!("chown root:root {folder}"))
                .run(format!("chmod 755 {folder}")),
        }
    })
}

/// Returns a line for each manager whose machines the service cannot name, as it says itself.
fn unpublished(units: &[Unit]) -> Vec<Finding> {
    let service = units.iter().find(|unit| unit.id == NAMES_SERVICE);
    let said = service.filter(|unit| unit.is_active());
    let parts = said.into_iter().flat_map(|unit| unit.status.split("; "));
    let parts = parts.filter(|part| part.starts_with(NO_NAMES));
    parts
        .map(|part| {
            Finding::warn(
                "names",
                format!("{NAMES_SERVICE} has {part}: see vsock-bridge-names(8), DIAGNOSTICS"),
            )
        })
        .collect()
}

fn look(registry: &Registry, (names, line): &(Names, usize)) -> Vec<Finding> {
    let wrong = registry.problems().map(|problem| {
        let text = format!("{problem}: have the program that writes it put that right");
        Finding::warn("names", text)
    });
    let (holding, overruled) = registry.sorted();
    let others = overruled.into_iter().map(|(placed, earlier)| {
        let (name, location) = (&placed.entry.name, &placed.entry.location);
        let (place, holds) = (placed.place(), &earlier.entry.location);
        let earlier = earlier.place();
        let text = format!(
            "{place}: {name} is {location} there, and {holds} in {earlier}, which holds: remove the one that is wrong"
        );
        Finding::warn("names", text)
    });
    let administrators = holding.into_iter().filter_map(|placed| {
        let (name, location) = (&placed.entry.name, &placed.entry.location);
        let holds = names.location(name)?;
        if holds == location {
            return None;
        }
        let (place, path) = (placed.place(), config_file::PATH);
        let text = format!(
            "{place}: {name} is {location} there, and {holds} in {path}:{line}, which holds: remove it from {}",
            names::VARIABLE
        );
        Some(Finding::warn("names", text))
    });
    wrong.chain(others).chain(administrators).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::units::tests::active;
    use super::*;

    #[test]
    fn each_collision_and_each_wrong_line_is_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("a.conf", "web=3\ndb=/run/db/guest.vsock\nup=9\n");
        write("b.conf", "db=4\nnonsense\nweb=3\n");
        let names = ("web=3 up=5".parse().unwrap(), 2);
        let found = look(&Registry::read(folder.path()), &names);
        let expected = [
            "b.conf:2: \"nonsense\" is not a valid line: ",
            "b.conf:1: db is CID 4 there, and /run/db/guest.vsock in ",
            "a.conf:3: up is CID 9 there, and CID 5 in /etc/vsock-bridge/vsock-bridge.conf:2, which holds",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (finding, words) in found.iter().zip(expected) {
            assert!(finding.text.contains(words), "{}", finding.text);
            assert_eq!(finding.level, Level::Warn);
        }
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_a_line() {
        for (owner, is_shared, mode, is_open) in [
            (0, false, 0o40755, false),
            (0, true, 0o41775, false),
            (0, true, 0o40775, true),
            (0, true, 0o41777, true),
            (0, false, 0o41775, true),
            (1000, false, 0o40755, true),
        ] {
            let rights = Rights {
                owner,
                is_shared,
                mode,
            };
            assert_eq!(open_to_others(rights).is_some(), is_open, "{rights:?}");
        }
    }

    #[test]
    fn each_manager_that_the_service_cannot_ask_is_a_line() {
        let status = "no names of libvirt: virsh is not there; no names of machined: no bus";
        let service = |status: &str| Unit {
            status: status.to_owned(),
            ..active(NAMES_SERVICE)
        };
        let found = unpublished(&[service(status)]);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[1].text.contains("no names of machined: no bus"));
        assert_eq!(unpublished(&[service("names of machines: 2")]).len(), 0);
    }
}
