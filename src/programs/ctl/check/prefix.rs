//! The prefix that the programs find, and the one that the units were told.

use std::fs;
use std::io;
use std::path::Path;

use super::finding::{Finding, Level};
use super::units::{METRICS, NAMES_SERVICE, Unit, Use};
use crate::configured::{self, Origin};
use crate::error::{Error, Result};
use crate::prefix::Prefix;
use crate::programs::generator;
use crate::route::{self, State};
use crate::this_machine;
use crate::unusable::Unusable;

/// Where systemd lets generators write.
const GENERATED: &str = "/run/systemd/generator";

/// What is known of the prefix on this machine.
#[derive(Debug)]
pub(super) struct Facts {
    /// What the programs find.
    pub found: Result<(Prefix, Origin)>,
    /// A credential could be found by root only.
    pub may_be_hidden: bool,
    /// What the socket units were told, if there is systemd to tell them.
    pub generated: Generated,
    /// What the kernel has of the prefix.
    pub state: Option<Result<State>>,
}

/// What vsock-bridge-generator wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generated {
    /// There is no systemd.
    NotAsked,
    /// Nothing.
    Nothing,
    /// The units have this prefix.
    Prefix(Prefix),
}

/// Reads files and the routes.
pub(super) fn gather(given: Option<Prefix>, has_systemd: bool) -> Facts {
    let found = this_machine::prefix(given, Path::new("/"));
    Facts {
        may_be_hidden: credentials_are_hidden(),
        generated: if has_systemd {
            generated()
        } else {
            Generated::NotAsked
        },
        state: found.as_ref().ok().map(|(prefix, _)| route::state(*prefix)),
        found,
    }
}

fn generated() -> Generated {
    let drop_in = Path::new(GENERATED).join(generator::DROP_IN);
    let text = fs::read_to_string(drop_in).unwrap_or_default();
    generator::prefix_in(&text).map_or(Generated::Nothing, Generated::Prefix)
}

fn credentials_are_hidden() -> bool {
    fs::read_dir(configured::SYSTEM_CREDENTIALS)
        .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Checks that a prefix can be found, and that the socket units were told the same one.
pub(super) fn check(facts: &Facts, is_used: &Use, units: &[Unit]) -> Finding {
    let (prefix, origin) = match &facts.found {
        Ok(found) => found,
        Err(error) => {
            let is_config = matches!(error, Error::Unusable(Unusable::Line { .. }));
            let level = Level::of_fault(is_used.prefix || is_config);
            return Finding::new(level, "prefix", error.report())
                .run("vsockctl prefix generate --write");
        }
    };
    let is_told = facts.generated == Generated::Prefix(*prefix);
    if !is_told && facts.may_be_hidden && matches!(origin, Origin::MachineId(_)) {
        let text = format!(
            "{prefix}, {origin}, unless a credential says otherwise, which root alone can read"
        );
        return Finding::warn("prefix", text);
    }
    match facts.generated {
        Generated::Prefix(generated) if generated != *prefix => Finding::warn(
            "prefix",
            format!("{prefix}, {origin}, but the socket units were told {generated}"),
        )
        .run_all(take_over(units)),
        Generated::Nothing => Finding::new(
            Level::of_fault(is_used.generated),
            "prefix",
            format!("{prefix}, {origin}, but the socket units were told none"),
        )
        .run_all(take_over(units)),
        _ => Finding::ok("prefix", format!("{prefix}, {origin}")),
    }
}

impl Facts {
    /// Returns whether everything still runs with another prefix than the programs find.
    pub(super) fn is_changing(&self) -> bool {
        match (&self.found, self.generated) {
            (Ok((prefix, _)), Generated::Prefix(generated)) => *prefix != generated,
            _ => false,
        }
    }
}

/// Returns the commands that make all units use the prefix that is found now.
pub(super) fn take_over(units: &[Unit]) -> Vec<String> {
    let mut commands = vec!["systemctl daemon-reload".to_owned()];
    let is_ours = |unit: &&Unit| {
        let is_bridge = !unit.is(METRICS, "") && unit.id != NAMES_SERVICE;
        unit.is("vsock-bridge", "") && is_bridge && unit.active != "inactive" && !unit.is_masked()
    };
    let names = |suffixes: &[&str]| {
        let chosen = units
            .iter()
            .filter(is_ours)
            .filter(|unit| suffixes.iter().any(|suffix| unit.id.ends_with(suffix)));
        chosen.map(|unit| unit.id.clone()).collect::<Vec<_>>()
    };
    let all = names(&[".socket", ".service"]);
    // Sockets first: one is not started while its service runs. What they need comes along.
    let again: Vec<String> = names(&[".socket"])
        .into_iter()
        .chain(
            all.iter()
                .filter(|id| !id.contains('@') && id.ends_with(".service"))
                .cloned(),
        )
        .collect();
    if !all.is_empty() {
        commands.push(format!("systemctl stop {}", all.join(" ")));
        commands.push(format!("systemctl start {}", again.join(" ")));
    }
    commands
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::units::PREFIX_SERVICE;
    use super::super::units::tests::{active, inactive};
    use super::*;
    use crate::vsock::Cid;

    /// Everything is in use.
    pub(crate) const USED: Use = Use {
        vsock: true,
        to_host: true,
        generated: true,
        prefix: true,
        ipv6: true,
        route: true,
        ..Use::NOTHING
    };
    /// A bridge that needs the prefix.
    pub(crate) const SOCKET: &str = "vsock-bridge-ipv6@445.socket";

    /// A prefix.
    pub(crate) fn p() -> Prefix {
        "fd00:1::/64".parse().unwrap()
    }

    /// A machine on which all is well.
    pub(crate) fn good() -> Facts {
        Facts {
            found: Ok((p(), Origin::MachineId("/etc/machine-id".into()))),
            may_be_hidden: false,
            generated: Generated::Prefix(p()),
            state: Some(Ok(State {
                has_route: true,
                addresses: vec![p().address(Cid::new(3).unwrap())],
                clash: None,
            })),
        }
    }

    /// One of which the kernel has something else.
    pub(crate) fn with_state(change: impl FnOnce(&mut State)) -> Facts {
        let mut facts = good();
        if let Some(Ok(state)) = &mut facts.state {
            change(state);
        }
        facts
    }

    /// Wants this finding.
    pub(crate) fn expect(finding: &Finding, subject: &str, level: Level, command: &str) {
        assert_eq!(
            (&*finding.subject, finding.level),
            (subject, level),
            "{finding:?}"
        );
        assert_eq!(finding.commands.join(" && "), command);
    }

    #[test]
    fn a_good_machine_has_no_fault() {
        assert_eq!(check(&good(), &USED, &[]).level, Level::Ok);
    }

    #[test]
    fn a_wrong_prefix_fails_with_file_and_line_even_without_use() {
        let facts = Facts {
            found: Err(Error::Unusable(Unusable::Line {
                path: "/etc/x.conf".into(),
                line: 3,
                problem: "no".into(),
            })),
            state: None,
            ..good()
        };
        let finding = check(&facts, &Use::NOTHING, &[]);
        expect(
            &finding,
            "prefix",
            Level::Fail,
            "vsockctl prefix generate --write",
        );
        assert_eq!(finding.text, "/etc/x.conf:3: no");
    }

    #[test]
    fn a_prefix_that_the_units_were_not_told_is_taken_over_by_a_reload() {
        let other = Facts {
            generated: Generated::Prefix("fd00:2::/64".parse().unwrap()),
            ..with_state(|state| state.has_route = false)
        };
        let units = [
            inactive("vsock-bridge@447.socket"),
            active(SOCKET),
            active("vsock-bridge-ipv6@445.service"),
            active(PREFIX_SERVICE),
            active(NAMES_SERVICE),
        ];
        let finding = check(&other, &USED, &units);
        let command = "systemctl daemon-reload && systemctl stop vsock-bridge-ipv6@445.socket \
            vsock-bridge-ipv6@445.service vsock-bridge-prefix.service && systemctl start \
            vsock-bridge-ipv6@445.socket vsock-bridge-prefix.service";
        expect(&finding, "prefix", Level::Warn, command);
        assert!(other.is_changing());
        let none = Facts {
            generated: Generated::Nothing,
            ..good()
        };
        let reload = "systemctl daemon-reload";
        expect(&check(&none, &USED, &[]), "prefix", Level::Fail, reload);
        expect(
            &check(&none, &Use::NOTHING, &[]),
            "prefix",
            Level::Warn,
            reload,
        );
    }

    #[test]
    fn a_user_is_told_that_a_credential_may_be_hidden() {
        let facts = Facts {
            may_be_hidden: true,
            generated: Generated::Prefix("fd00:2::/64".parse().unwrap()),
            ..good()
        };
        expect(&check(&facts, &USED, &[]), "prefix", Level::Warn, "");
        let told = Facts {
            generated: Generated::Prefix(p()),
            ..facts
        };
        assert_eq!(check(&told, &USED, &[]).level, Level::Ok);
    }
}
