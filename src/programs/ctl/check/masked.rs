//! Units that their administrator keeps from starting, which is no fault of theirs: what they leave, and what depends on them.
//!
//! Where they are masked, in /etc, /run or by a template, is not known here: no command is given that might unmask nothing.

use super::finding::{Finding, Level};
use super::states::running_service;
use super::units::{ANY, RULES, Unit};

/// Returns a line for each that is not the end of the matter.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    let masked = units.iter().filter(|unit| unit.is_masked());
    let vain = units
        .iter()
        .filter(|unit| unit.is_in_use() && !unit.is_masked());
    masked
        .filter_map(|unit| left_by(unit, units))
        .chain(vain.filter_map(|unit| in_vain(unit, units)))
        .collect()
}

/// Takes the commands away that would start a masked unit, which systemd refuses, and says so.
pub(super) fn spare(finding: &mut Finding, units: &[Unit]) {
    let is_started = |unit: &&Unit| finding.commands.iter().any(|command| starts(command, unit));
    let mut masked = units.iter().filter(|unit| unit.is_masked());
    if let Some(unit) = masked.find(is_started) {
        finding.commands.clear();
        finding.text = format!(
            "{}; {} is masked, so unmask that first",
            finding.text, unit.id
        );
    }
}

/// A socket does not start without its service, and a service brings its socket along.
fn starts(command: &str, unit: &Unit) -> bool {
    let mut words = command.split(' ').map(|word| word.trim_matches('\''));
    words.next() == Some("systemctl")
        && words
            .next()
            .is_some_and(|verb| verb == "enable" || verb.ends_with("start"))
        && words.any(|word| stem(word) == stem(&unit.id))
}

fn stem(id: &str) -> &str {
    let stem = id
        .strip_suffix(".socket")
        .or_else(|| id.strip_suffix(".service"));
    stem.unwrap_or(id)
}

fn left_by(unit: &Unit, units: &[Unit]) -> Option<Finding> {
    let warn = |text: &str| Some(Finding::warn(&unit.id, text));
    match &*unit.active {
        // It has a line with its reason.
        _ if unit.keeps_failing() => None,
        "inactive" | "failed" if running_service(unit, units).is_some() => {
            warn("is masked, and its service runs on without it until that is stopped")
        }
        "failed" => warn("is masked, and has failed before: systemd goes on counting it as failed")
            .map(|finding| finding.run(format!("systemctl reset-failed {}", unit.id))),
        "inactive" => None,
        _ => warn(
            "is masked, but runs, and may have lost its settings by that: stop it, or unmask it and start it again",
        ),
    }
}

fn in_vain(unit: &Unit, units: &[Unit]) -> Option<Finding> {
    let find = |id: &str| {
        let found = units.iter().find(|other| other.id == id);
        found.filter(|other| other.is_masked() && !other.is_active())
    };
    if let Some(name) = unit.id.strip_suffix(".socket") {
        if let Some(service) = find(&format!("{name}.service")) {
            let text = format!("lets nobody in, since {} is masked", service.id);
            return Some(Finding::new(Level::Fail, &unit.id, text));
        }
    }
    if unit.id == ANY && find(RULES).is_some() {
        let text = format!("gets connections by rules of your own alone, since {RULES} is masked");
        return Some(Finding::warn(ANY, text));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::{active, inactive};
    use super::*;

    fn masked(id: &str, active: &str) -> Unit {
        Unit {
            load: "masked".into(),
            file_state: "masked".into(),
            active: active.into(),
            ..inactive(id)
        }
    }

    fn lines(units: &[Unit]) -> Vec<(Level, String, Vec<String>)> {
        let findings = check(units).into_iter();
        findings
            .map(|finding| (finding.level, finding.subject, finding.commands))
            .collect()
    }

    #[test]
    fn one_that_is_down_is_no_matter_and_what_another_leaves_is_told() {
        let socket = "vsock-bridge@445.socket";
        assert_eq!(lines(&[masked(socket, "inactive")]), []);
        let warning = |commands: &[&str]| {
            let commands = commands.iter().map(|&command| command.to_owned());
            [(Level::Warn, socket.to_owned(), commands.collect())]
        };
        assert_eq!(lines(&[masked(socket, "active")]), warning(&[]));
        let forget = ["systemctl reset-failed vsock-bridge@445.socket"];
        assert_eq!(lines(&[masked(socket, "failed")]), warning(&forget));
        let service = active("vsock-bridge@445.service");
        for state in ["inactive", "failed"] {
            let both = [masked(socket, state), service.clone()];
            assert_eq!(lines(&both), warning(&[]), "{state}");
        }
    }

    #[test]
    fn a_socket_without_its_service_and_any_without_rules_are_in_vain() {
        let socket = active("vsock-bridge@445.socket");
        let service = masked("vsock-bridge@445.service", "inactive");
        let expected = (Level::Fail, socket.id.clone(), vec![]);
        assert_eq!(lines(&[socket.clone(), service]), [expected]);
        assert_eq!(lines(&[socket, active("vsock-bridge@445.service")]), []);
        let any = [active(ANY), masked(RULES, "inactive")];
        assert_eq!(lines(&any), [(Level::Warn, ANY.to_owned(), vec![])]);
    }

    #[test]
    fn no_command_starts_a_masked_unit() {
        let units = [masked("vsock-bridge@445.service", "inactive")];
        for (command, is_kept) in [
            ("systemctl restart vsock-bridge@445.socket", false),
            ("systemctl try-restart 'vsock-bridge@445.service'", false),
            ("systemctl enable --now vsock-bridge@445.socket", false),
            ("systemctl stop vsock-bridge@445.socket", true),
            ("systemctl start vsock-bridge@44.socket", true),
            ("modprobe vsock", true),
        ] {
            let mut finding = Finding::warn("x", "y").run("modprobe vsock").run(command);
            spare(&mut finding, &units);
            assert_eq!(!finding.commands.is_empty(), is_kept, "{command}");
            assert_eq!(finding.text.contains("unmask"), !is_kept, "{command}");
        }
    }
}
