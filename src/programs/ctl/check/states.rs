//! Whether the units that are in use are well.

use std::num::NonZeroU16;

use super::finding::{Finding, Level};
use super::settings::configuration;
use super::units::{METRICS, Manager, PREFIX_SERVICE, Unit};
use crate::clock::Moment;
use crate::programs::ctl::rules;
use crate::programs::exec::command;
use crate::tool::{self, ANSWER_TIME};
use crate::vsock::VsockPort;

/// Of what a unit said, in letters.
const REASON_MAX: usize = 300;

/// Returns a line for each unit that is in use, or was meant to be. `is_explained`: another line tells why it failed;
/// `reason`: what the journal has of it.
pub(super) fn check(
    units: &[Unit],
    is_explained: impl Fn(&Unit) -> bool,
    reason: impl Fn(&Unit) -> Option<String>,
) -> Vec<Finding> {
    let findings: Vec<Finding> = units
        .iter()
        .filter(|unit| unit.is_in_use() || running_service(unit, units).is_some())
        .filter(|unit| unit.id != PREFIX_SERVICE && !is_explained(unit))
        .filter_map(|unit| state(unit, units, &reason))
        .collect();
    if findings.is_empty() && !units.iter().any(is_explained) {
        return vec![Finding::ok("units", "no bridge is enabled or running")];
    }
    findings
}

/// Asks the journal for the last error of a unit that says more than that it has failed; only who may read it hears.
pub(super) fn last_error(unit: &Unit, manager: Manager) -> Option<String> {
    let question = ["--boot", "--quiet", "--no-pager", "--output=cat"];
    let of_unit = match manager {
        Manager::System => "--unit",
        Manager::User => "--user-unit",
    };
    let lines = ["--priority=err", "--lines=20", of_unit, &unit.id];
    let deadline = Moment::now() + ANSWER_TIME;
    let said = tool::ask("journalctl", &[question, lines].concat(), deadline);
    last_reason(&said.ok()??.answer, &unit.id)
}

/// Finds the last line that is none of systemd's about the job.
fn last_reason(lines: &str, id: &str) -> Option<String> {
    let is_reason = |line: &&str| {
        !line.trim().is_empty() && !line.starts_with("Failed to ") && !line.contains("Failed with")
    };
    let line = lines.lines().rfind(is_reason)?.trim();
    let line = line.strip_prefix(&format!("{id}: ")).unwrap_or(line);
    Some(line.chars().take(REASON_MAX).collect())
}

fn state(unit: &Unit, units: &[Unit], reason: &dyn Fn(&Unit) -> Option<String>) -> Option<Finding> {
    let id = &unit.id;
    let fail = |text: String| Finding::new(Level::Fail, id, text);
    let reason = || reason(unit).unwrap_or_else(|| format!("see `journalctl -eu {id}`"));
    // One connection of many; the next one is another instance.
    let kinds = ["sshd-vsock@", METRICS, command::UNIT];
    if kinds.iter().any(|kind| unit.is(kind, ".service")) {
        return None;
    }
    if unit.is_masked() && !unit.keeps_failing() {
        return None;
    }
    let is_loaded = unit.load == "loaded" || unit.is_masked();
    if !is_loaded && !has_port(unit) {
        let text = "has no port in its name, which it takes that from: it is to be like vsock-bridge@445.socket";
        return Some(fail(text.to_owned()).run(format!("systemctl disable {id}")));
    }
    if !is_loaded {
        let finding = fail(format!("cannot be loaded ({}): {}", unit.load, reason()));
        return Some(
            finding
                .run("systemctl daemon-reload")
                .run_all(restart(unit, units)),
        );
    }
    if unit.keeps_failing() {
        // It has its status from the process that waits before it ends; between two of them the journal has the reason.
        let cause = match unit.status.split_once("`: ") {
            Some((_, cause)) => cause.to_owned(),
            None if unit.status.is_empty() => reason(),
            None => unit.status.clone(),
        };
        let text = format!(
            "cannot start: {cause}; put that right, in {} if it is a setting: it is tried again by itself, at the \
             latest after a minute",
            configuration(unit)
        );
        return Some(fail(text));
    }
    match &*unit.active {
        "failed" => {
            let reason = reason();
            let text = format!("failed ({}): {reason}", unit.result);
            Some(match reason.contains(rules::LACKING) {
                // Starting it again does not change the kernel.
                true => fail(format!(
                    "{text}; until a kernel with them is booted, vsock-bridge-any does not work, and any local user can \
                     pass for another machine: where that is accepted, mask {id}"
                )),
                false => fail(text).run_all(restart(unit, units)),
            })
        }
        "inactive" if running_service(unit, units).is_some() => {
            let text = "does not listen, so its port is gone when its service ends".to_owned();
            Some(fail(text).run_all(restart(unit, units)))
        }
        "inactive" => {
            Some(fail("is enabled, but not running".into()).run(format!("systemctl start {id}")))
        }
        _ if unit.is("", ".socket") => {
            let addresses = unit.listen.join(", ");
            Some(Finding::ok(id, format!("listens on {addresses}")))
        }
        _ if unit.sub == "exited" => Some(Finding::ok(id, "has done its work")),
        // Its socket has a line.
        _ => None,
    }
}

/// Returns whether the name of an instance is a port, where the unit takes that from it.
fn has_port(unit: &Unit) -> bool {
    let of_tcp = unit.id.strip_prefix("vsock-bridge-ipv6@");
    let instance = of_tcp.or_else(|| unit.id.strip_prefix("vsock-bridge@"));
    let port = instance.and_then(|instance| instance.strip_suffix(".socket"));
    port.is_none_or(|port| match of_tcp {
        Some(_) => port.parse::<NonZeroU16>().is_ok(),
        None => port.parse::<VsockPort>().is_ok(),
    })
}

/// Returns the commands that start a unit again; open connections go on.
pub(super) fn restart(unit: &Unit, units: &[Unit]) -> Vec<String> {
    let Some(service) = running_service(unit, units) else {
        return vec![format!("systemctl restart {}", unit.id)];
    };
    // systemd refuses to start a socket while its service runs. Whoever starts the service again brings the socket
    // before (Wants=), between the two processes.
    let stop = unit
        .is_active()
        .then(|| format!("systemctl stop {}", unit.id));
    let restart = format!("systemctl restart {}", service.id);
    stop.into_iter().chain([restart]).collect()
}

/// Finds the service of a socket unit, if it is not at rest.
pub(super) fn running_service<'a>(unit: &Unit, units: &'a [Unit]) -> Option<&'a Unit> {
    let service = format!("{}.service", unit.id.strip_suffix(".socket")?);
    units
        .iter()
        .find(|other| other.id == service && other.active != "inactive")
}

#[cfg(test)]
mod tests {
    use super::super::units::Use;
    use super::super::units::tests::{active, inactive};
    use super::*;

    fn failed(id: &str) -> Unit {
        Unit {
            active: "failed".into(),
            sub: "failed".into(),
            result: "resources".into(),
            ..active(id)
        }
    }

    fn check_all(units: &[Unit]) -> Vec<Finding> {
        check(units, |_| false, |_| None)
    }

    fn expect_failure(units: &[Unit], commands: &[&str]) {
        let findings = check_all(units);
        let [finding] = &findings[..] else {
            panic!("{findings:#?}")
        };
        assert_eq!(finding.level, Level::Fail);
        assert_eq!(finding.commands, commands);
    }

    #[test]
    fn active_units_are_well_and_idle_services_have_no_line() {
        let units = [
            active("vsock-bridge@445.socket"),
            inactive("vsock-bridge@445.service"),
            active(PREFIX_SERVICE),
        ];
        let findings = check_all(&units);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].level, Level::Ok);
        let rules = Unit {
            sub: "exited".into(),
            ..active("vsock-bridge-rules.service")
        };
        assert_eq!(check_all(&[rules])[0].level, Level::Ok);
    }

    #[test]
    fn nothing_in_use_is_well() {
        let disabled = Unit {
            file_state: "disabled".into(),
            ..inactive("vsock-bridge@445.socket")
        };
        let unknown = Unit {
            load: "not-found".into(),
            ..inactive("sshd-vsock.socket")
        };
        let units = [disabled, unknown];
        assert_eq!(Use::of(&units), Use::NOTHING);
        assert_eq!(check_all(&units)[0].level, Level::Ok);
    }

    #[test]
    fn an_enabled_socket_that_is_not_active_fails() {
        expect_failure(
            &[inactive("vsock-bridge@445.socket")],
            &["systemctl start vsock-bridge@445.socket"],
        );
    }

    #[test]
    fn a_failed_socket_fails_and_comes_back_with_its_running_service() {
        let socket = failed("vsock-bridge@445.socket");
        let alone = ["systemctl restart vsock-bridge@445.socket"];
        expect_failure(std::slice::from_ref(&socket), &alone);
        let both = ["systemctl restart vsock-bridge@445.service"];
        expect_failure(&[socket, active("vsock-bridge@445.service")], &both);
    }

    #[test]
    fn a_socket_that_does_not_listen_beside_its_service_fails() {
        let socket = Unit {
            file_state: "disabled".into(),
            ..inactive("vsock-bridge@445.socket")
        };
        let commands = ["systemctl restart vsock-bridge@445.service"];
        expect_failure(&[socket, active("vsock-bridge@445.service")], &commands);
    }

    #[test]
    fn a_socket_that_listens_with_an_old_setting_is_stopped_before_its_service_restarts() {
        let socket = Unit {
            load: "bad-setting".into(),
            ..active("vsock-bridge@445.socket")
        };
        let commands = [
            "systemctl daemon-reload",
            "systemctl stop vsock-bridge@445.socket",
            "systemctl restart vsock-bridge@445.service",
        ];
        expect_failure(&[socket, active("vsock-bridge@445.service")], &commands);
    }

    #[test]
    fn a_service_that_is_started_again_and_again_fails_with_its_reason_and_the_file() {
        let waiting = "Cannot start, next attempt in 4 s or by `systemctl restart x`: no such host";
        for (sub, restarts, status, cause) in [
            ("auto-restart", 0, "", "from the journal"),
            ("start", 3, waiting, "no such host"),
            (
                "start",
                9,
                "9 starts in a row have crashed",
                "9 starts in a row",
            ),
        ] {
            let unit = Unit {
                active: "activating".into(),
                sub: sub.into(),
                restarts,
                status: status.into(),
                ..active("vsock-bridge@445.service")
            };
            let journal = |_: &Unit| Some("from the journal".to_owned());
            let [finding] = &check(&[unit], |_| false, journal)[..] else {
                panic!("not one line")
            };
            let begin = format!("cannot start: {cause}");
            assert!(finding.text.starts_with(&begin), "{}", finding.text);
            assert!(
                finding
                    .text
                    .contains("/etc/vsock-bridge/vsock-bridge@445.conf")
            );
            assert_eq!((finding.level, finding.commands.len()), (Level::Fail, 0));
        }
    }

    #[test]
    fn the_reason_of_a_unit_is_the_last_line_that_is_not_about_its_job() {
        let said = "vsock-bridge@445.socket: Failed to create listening socket ([::1]:445): Address already in use\n\
            vsock-bridge@445.socket: Failed with result 'resources'.\n\
            Failed to listen on vsock-bridge@445.socket - Bridge.\n\n";
        assert_eq!(
            last_reason(said, "vsock-bridge@445.socket").as_deref(),
            Some("Failed to create listening socket ([::1]:445): Address already in use")
        );
        assert_eq!(last_reason("\nFailed to start x.\n", "x"), None);
        assert_eq!(
            last_reason("cannot read x\n", "x").as_deref(),
            Some("cannot read x")
        );
    }

    #[test]
    fn a_unit_that_cannot_be_loaded_fails() {
        let unit = Unit {
            load: "bad-setting".into(),
            ..inactive("vsock-bridge-ipv6@445.socket")
        };
        let commands = [
            "systemctl daemon-reload",
            "systemctl restart vsock-bridge-ipv6@445.socket",
        ];
        expect_failure(&[unit], &commands);
    }

    #[test]
    fn a_unit_whose_name_has_no_port_is_disabled() {
        for id in [
            "vsock-bridge@smb.socket",
            "vsock-bridge-ipv6@99999.socket",
            "vsock-bridge-ipv6@0.socket",
        ] {
            let unit = Unit {
                load: "bad-setting".into(),
                ..inactive(id)
            };
            expect_failure(&[unit], &[&format!("systemctl disable {id}")]);
        }
    }

    #[test]
    fn a_failed_oneshot_of_ours_fails_but_one_lost_connection_does_not() {
        let rules = failed("vsock-bridge-rules.service");
        expect_failure(&[rules], &["systemctl restart vsock-bridge-rules.service"]);
        for one_of_many in [
            "sshd-vsock@1-3:22-2:99.service",
            "vsock-bridge-metrics@7-0.service",
        ] {
            let findings = check_all(&[failed(one_of_many)]);
            assert_eq!(findings[0].level, Level::Ok, "{one_of_many}");
        }
    }

    #[test]
    fn rules_that_the_kernel_cannot_have_are_not_loaded_again() {
        let said = |_: &Unit| Some(format!("cannot load the rules ({}): x", rules::LACKING));
        let [finding] = &check(&[failed("vsock-bridge-rules.service")], |_| false, said)[..] else {
            panic!("not one line")
        };
        assert_eq!((finding.level, finding.commands.len()), (Level::Fail, 0));
        assert!(finding.text.contains("mask vsock-bridge-rules.service"));
    }

    #[test]
    fn a_unit_whose_fault_is_told_elsewhere_has_no_line() {
        let units = [failed("vsock-bridge@445.socket")];
        assert_eq!(check(&units, |_| true, |_| None), []);
    }
}
