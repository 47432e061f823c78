//! nft(8), without which `vsock-bridge-any.socket` does not start, and no rules are loaded.

use std::path::Path;

use super::finding::{Finding, Level};
use super::units::{ANY, RULES, Unit};

/// Where the units look for it (AssertPathExists=, ConditionPathExists=).
const PLACES: [&str; 2] = ["/usr/sbin/nft", "/usr/bin/nft"];
/// The units that do nothing without it.
const UNITS: [&str; 2] = [ANY, RULES];
/// Who installs packages, and how.
const INSTALLERS: [(&str, &str); 5] = [
    ("apt-get", "apt-get install nftables"),
    ("dnf", "dnf install nftables"),
    ("zypper", "zypper install nftables"),
    ("pacman", "pacman -S nftables"),
    ("apk", "apk add nftables"),
];
const FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/sbin"];

/// What is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// It is where the units look for it.
    is_there: bool,
    /// The command that installs it.
    install: Option<&'static str>,
}

/// Looks at the files.
pub(super) fn gather() -> Facts {
    let is_installed =
        |program: &str| (FOLDERS.iter()).any(|folder| Path::new(folder).join(program).exists());
    let installer = INSTALLERS.iter().find(|(program, _)| is_installed(program));
    Facts {
        is_there: PLACES.iter().any(|place| Path::new(place).exists()),
        install: installer.map(|&(_, command)| command),
    }
}

impl Facts {
    /// Returns whether a unit is down because of this.
    pub(super) fn keep_down(&self, unit: &Unit) -> bool {
        !self.is_there && UNITS.contains(&&*unit.id)
    }
}

/// Returns a line where a unit in use needs it and it is missing.
pub(super) fn check(facts: &Facts, units: &[Unit]) -> Option<Finding> {
    let is_down = |unit: &&Unit| unit.is_in_use() && !unit.is_masked() && facts.keep_down(unit);
    let down: Vec<&str> = (units.iter().filter(is_down))
        .map(|unit| &*unit.id)
        .collect();
    let first = down.first()?;
    let text = format!("is missing, which {first} needs: it is in the package nftables");
    let finding = Finding::new(Level::Fail, "nft", text);
    Some(match facts.install {
        Some(install) => finding
            .run(install)
            .run(format!("systemctl start {}", down.join(" "))),
        None => finding,
    })
}

#[cfg(test)]
mod tests {
    use super::super::prefix::tests::expect;
    use super::super::units::tests::{active, inactive};
    use super::*;

    const MISSING: Facts = Facts {
        is_there: false,
        install: Some("apt-get install nftables"),
    };

    #[test]
    fn it_is_missed_where_it_is_needed() {
        let units = [
            inactive("vsock-bridge-any.socket"),
            active("vsock-bridge@445.socket"),
        ];
        let finding = check(&MISSING, &units).unwrap();
        let commands = "apt-get install nftables && systemctl start vsock-bridge-any.socket";
        expect(&finding, "nft", Level::Fail, commands);
        assert!(MISSING.keep_down(&units[0]) && !MISSING.keep_down(&units[1]));
        let elsewhere = Facts {
            install: None,
            ..MISSING
        };
        expect(&check(&elsewhere, &units).unwrap(), "nft", Level::Fail, "");
        let there = Facts {
            is_there: true,
            ..MISSING
        };
        assert_eq!(check(&there, &units), None);
        assert_eq!(check(&MISSING, &units[1..]), None);
    }
}
