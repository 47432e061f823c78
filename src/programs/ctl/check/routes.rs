//! What the kernel has of the prefix: the route, this machine's address, and other uses.

use std::net::Ipv6Addr;

use super::finding::{Finding, Level};
use super::prefix::{Facts, take_over};
use super::units::{PREFIX_SERVICE, Unit, Use};
use crate::configured::Origin;
use crate::prefix::Prefix;
use crate::route::State;
use crate::vsock::Cid;

/// Returns a line for each of the three. `own`: this machine's CID or that it has none, if that is known.
pub(super) fn check(
    facts: &Facts,
    is_used: &Use,
    own: Option<Option<Cid>>,
    units: &[Unit],
) -> Vec<Finding> {
    let Ok((prefix, origin)) = &facts.found else {
        return Vec::new();
    };
    // What follows from that has no line of its own.
    if facts.is_changing() {
        return Vec::new();
    }
    let state = match &facts.state {
        Some(Ok(state)) => state,
        Some(Err(error)) => return vec![Finding::warn("route", error.report())],
        None => return Vec::new(),
    };
    let own = own.map(|cid| prefix.address(cid.unwrap_or(Cid::LOCAL)));
    let clash = clash(*prefix, origin, state, is_used, units);
    // Looked at between two moments of a start, nothing is wrong yet; the start has a time limit.
    let is_starting = |unit: &Unit| unit.id == PREFIX_SERVICE && unit.active == "activating";
    if state.clash.is_none() && units.iter().any(is_starting) {
        return vec![clash, Finding::ok("route", "is just being added")];
    }
    let route = route(*prefix, state, is_used);
    if state.has_route {
        vec![clash, route, address(*prefix, state, own, is_used)]
    } else if state.clash.is_some() {
        // Why there is no route.
        vec![clash]
    } else {
        vec![clash, route]
    }
}

fn clash(prefix: Prefix, origin: &Origin, state: &State, is_used: &Use, units: &[Unit]) -> Finding {
    let Some(by) = &state.clash else {
        return Finding::ok("clash", format!("nothing else uses {prefix}"));
    };
    let text = format!("{prefix} is used on this machine already ({by}): choose another");
    let finding = Finding::new(Level::of_fault(is_used.prefix), "clash", text);
    match origin {
        Origin::Option => finding,
        _ => finding
            .run("vsockctl prefix generate --write")
            .run_all(match is_used.systemd {
                true => take_over(units),
                false => Vec::new(),
            }),
    }
}

fn route(prefix: Prefix, state: &State, is_used: &Use) -> Finding {
    match (state.has_route, is_used.route) {
        (true, _) => Finding::ok("route", format!("local {prefix} dev lo")),
        (false, true) => Finding::new(
            Level::Fail,
            "route",
            format!("local {prefix} dev lo is missing"),
        )
        .run(bring_up(is_used)),
        (false, false) => Finding::ok("route", "not needed yet"),
    }
}

/// Returns the command that adds route and address, or puts others in the place of those that are there.
fn bring_up(is_used: &Use) -> String {
    match is_used.systemd {
        true => format!("systemctl restart {PREFIX_SERVICE}"),
        false => "vsockctl prefix up".to_owned(),
    }
}

fn address(prefix: Prefix, state: &State, own: Option<Ipv6Addr>, is_used: &Use) -> Finding {
    let present = state
        .addresses
        .iter()
        .find(|address| own.is_none_or(|own| **address == own));
    let mend = |level, text: String| Finding::new(level, "address", text).run(bring_up(is_used));
    match (present, own, state.addresses.first()) {
        (Some(address), ..) => Finding::ok("address", format!("{address} is on lo")),
        (None, Some(own), Some(other)) => mend(
            Level::Warn,
            format!("{other} is on lo instead of {own}, of this machine's CID"),
        ),
        (None, Some(own), None) => mend(
            Level::of_fault(is_used.route),
            format!("{own}, of this machine, is missing on lo"),
        ),
        (None, None, _) => mend(
            Level::of_fault(is_used.route),
            format!("an address of {prefix} is missing on lo"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::slice::from_ref;

    use super::super::prefix::Generated;
    use super::super::prefix::tests::{SOCKET, USED, expect, good, p, with_state};
    use super::super::units::tests::active;
    use super::*;
    use crate::error::Error;

    fn states(facts: &Facts, is_used: &Use) -> Vec<Finding> {
        check(facts, is_used, Some(Cid::new(3)), &[active(SOCKET)])
    }

    /// The findings that are not OK.
    fn faults(facts: &Facts, is_used: &Use) -> Vec<Finding> {
        let mut findings = states(facts, is_used);
        findings.retain(|finding| finding.level != Level::Ok);
        findings
    }

    #[test]
    fn a_good_machine_has_no_fault() {
        assert_eq!(states(&good(), &USED).len(), 3);
        assert_eq!(faults(&good(), &USED), []);
    }

    #[test]
    fn what_another_line_explains_has_no_line() {
        let broken = || with_state(|state| state.has_route = false);
        for facts in [
            Facts {
                generated: Generated::Prefix("fd00:2::/64".parse().unwrap()),
                ..broken()
            },
            Facts {
                found: Err(Error::Usage("x".into())),
                ..broken()
            },
        ] {
            assert_eq!(states(&facts, &USED), []);
        }
    }

    #[test]
    fn a_missing_route_fails_once_it_is_needed() {
        let facts = with_state(|state| {
            state.has_route = false;
            state.addresses.clear();
        });
        let [fault] = &faults(&facts, &USED)[..] else {
            panic!("not one fault")
        };
        expect(
            fault,
            "route",
            Level::Fail,
            "systemctl restart vsock-bridge-prefix.service",
        );
        assert_eq!(faults(&facts, &Use::NOTHING), []);
    }

    #[test]
    fn what_is_just_being_added_is_no_fault() {
        let starting = Unit {
            active: "activating".into(),
            ..active(PREFIX_SERVICE)
        };
        for has_route in [false, true] {
            let facts = with_state(|state| {
                state.has_route = has_route;
                state.addresses.clear();
            });
            let findings = check(&facts, &USED, Some(Cid::new(3)), from_ref(&starting));
            assert!(findings.iter().all(|one| one.level == Level::Ok));
            assert!(!faults(&facts, &USED).is_empty());
        }
    }

    #[test]
    fn a_missing_or_old_address_is_a_fault() {
        let command = "systemctl restart vsock-bridge-prefix.service";
        let missing = with_state(|state| state.addresses.clear());
        expect(&faults(&missing, &USED)[0], "address", Level::Fail, command);
        let old = with_state(|state| state.addresses = vec![p().address(Cid::LOCAL)]);
        expect(&faults(&old, &USED)[0], "address", Level::Warn, command);
        // Who cannot ask for the CID takes any address of the prefix.
        let findings = check(&old, &USED, None, &[]);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok));
    }

    #[test]
    fn without_systemd_nothing_is_done_by_systemctl() {
        let is_used = Use {
            systemd: false,
            ..USED
        };
        let missing = with_state(|state| state.has_route = false);
        let command = "vsockctl prefix up";
        expect(
            &faults(&missing, &is_used)[0],
            "route",
            Level::Fail,
            command,
        );
        let used = with_state(|state| state.clash = Some("x".into()));
        let command = "vsockctl prefix generate --write";
        expect(&faults(&used, &is_used)[0], "clash", Level::Fail, command);
    }

    #[test]
    fn another_use_of_the_prefix_fails_with_the_way_to_another() {
        let facts = with_state(|state| state.clash = Some("route fd00:1::/64".into()));
        let command = "vsockctl prefix generate --write && systemctl daemon-reload && \
            systemctl stop vsock-bridge-ipv6@445.socket && systemctl start vsock-bridge-ipv6@445.socket";
        expect(&faults(&facts, &USED)[0], "clash", Level::Fail, command);
        expect(
            &faults(&facts, &Use::NOTHING)[0],
            "clash",
            Level::Warn,
            command,
        );
        let without_route = with_state(|state| {
            state.clash = Some("route fd00:1::/64".into());
            state.has_route = false;
        });
        assert_eq!(faults(&without_route, &USED).len(), 1);
    }

    #[test]
    fn routes_that_cannot_be_listed_are_a_warning() {
        let error = Error::Route {
            operation: "list the routes".into(),
            source: io::Error::other("x"),
        };
        let facts = Facts {
            state: Some(Err(error)),
            ..good()
        };
        expect(&states(&facts, &USED)[0], "route", Level::Warn, "");
    }
}
