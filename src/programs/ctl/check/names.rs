//! Whether the names in /etc/hosts, if there are any of ours, are there still and right.

use super::finding::Finding;
use crate::names::Names;
use crate::prefix::Prefix;
use crate::programs::ctl::hosts::{self, PATH, State};

/// Returns a line where names were written. Names that are not valid have a line of their own.
pub(super) fn check(prefix: Prefix) -> Option<Finding> {
    let names = Names::read().ok()?;
    finding(&hosts::state(prefix, &names))
}

fn finding(state: &State) -> Option<Finding> {
    let warn = |text: String| Some(Finding::warn("names", text));
    let again =
        |text: &str| warn(format!("{PATH} {text}")).map(|f| f.run("vsockctl hosts --write"));
    match state {
        State::Unused => None,
        State::Right => Some(Finding::ok("names", format!("are in {PATH}"))),
        State::Gone => again(
            "has no names of machines any more: something else has written it anew, such as cloud-init \
             (manage_etc_hosts)",
        ),
        State::Stale => again("has names or addresses of machines that have changed since"),
        State::Broken(problem) => warn(format!("{PATH}: {problem}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn names_that_are_gone_or_stale_are_written_again() {
        for state in [State::Gone, State::Stale] {
            let finding = finding(&state).unwrap();
            assert_eq!(finding.level, Level::Warn);
            assert_eq!(finding.commands, ["vsockctl hosts --write"]);
        }
        assert_eq!(finding(&State::Right).unwrap().level, Level::Ok);
        assert_eq!(finding(&State::Unused), None);
        let broken = finding(&State::Broken("line 2: x".into())).unwrap();
        assert_eq!(broken.text, "/etc/hosts: line 2: x");
    }
}
