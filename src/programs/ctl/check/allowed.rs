//! Who may come in over vsock, where that is more than an administrator may think of: the users of this machine.
//!
//! A TCP target asks them for a name and a password, or they could connect to it themselves. The permissions of a unix
//! socket keep them out, and a bridge that lets them in undoes that.

use super::finding::Finding;
use super::settings::{Setting, services, setting, sockets_of};
use super::targets;
use super::units::Unit;
use crate::allow_list::{AllowList, VARIABLE};
use crate::config_file;
use crate::connect;
use crate::endpoint::Endpoint;
use crate::known::Known;
use crate::programs::bridge::lets_everybody_in;
use crate::target_list::TargetList;

/// Returns a line for each bridge in use whose list has no effect, or lets this machine itself in to a unix socket.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    let look = |service: &Unit| {
        // A file that cannot be read has its line already, with the target.
        let list = setting(service, VARIABLE, " --allow-cid").ok()??;
        let sockets = sockets_of(service, units);
        let is_common = list.place.starts_with(config_file::PATH);
        match lets_everybody_in(&list.text, &sockets) {
            true if !is_common => Some(without_effect(service, &list)),
            true => None,
            false => look(service, &list),
        }
    };
    services(units).filter_map(look).collect()
}

fn without_effect(service: &Unit, list: &Setting) -> Finding {
    let text = format!(
        "{}: {VARIABLE}={} has no effect: it is for vsock, which no listener of {} is; whoever reaches them comes in",
        list.place, list.text, service.id
    );
    Finding::warn("allowed", text)
}

fn look(service: &Unit, list: &Setting) -> Option<Finding> {
    // What is none, or has names that nobody has, has its line with the settings.
    let given = targets::given(service);
    let names = Known::now(given.as_ref());
    let allowed = list.text.parse::<AllowList>().ok()?;
    let (allowed, _) = allowed.resolve_present(&names).ok()?;
    let targets: TargetList = targets::target(service).ok()??.text.parse().ok()?;
    let name = connect::machines(&targets, &names)
        .ok()?
        .into_iter()
        // It gets in to its own target alone.
        .filter(|(machines, _)| {
            let machines = machines.as_ref();
            machines.is_none_or(|(_, machines)| machines.contains_local())
        })
        .find_map(|(_, target)| match target {
            Endpoint::Unix(name) => Some(name),
            _ => None,
        })?;
    let text = format!(
        "whoever can make a vsock connection on this machine reaches {name} through {}, whatever the permissions of \
         that socket: `local` is in {VARIABLE}={} ({})",
        service.id, list.text, list.place
    );
    (allowed.contains_local()).then(|| Finding::warn("allowed", text))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::units::tests::{active, inactive};
    use super::*;

    fn findings(listen: &str, to: &str, list: &str) -> Vec<Finding> {
        let environment = [
            ("VSOCK_BRIDGE_TO", to),
            (VARIABLE, list),
            (crate::names::VARIABLE, "web=3 me=1"),
        ];
        let assignment = |(name, value)| format!("{name}={value}");
        let service = Unit {
            environment: environment.map(assignment).into(),
            ..inactive("vsock-bridge@2375.service")
        };
        let socket = Unit {
            listen: vec![listen.to_owned()],
            ..active("vsock-bridge@2375.socket")
        };
        check(&[socket, service])
    }

    #[test]
    fn this_machine_itself_let_in_to_a_unix_socket_is_a_warning() {
        for list in ["any,local", "local", "3,1", "web,me"] {
            let [finding] = &findings("vsock::2375", "/run/docker.sock", list)[..] else {
                panic!("{list}: not one finding")
            };
            assert_eq!(finding.level, Level::Warn);
            for part in [
                "/run/docker.sock",
                "vsock-bridge@2375.service",
                "`local`",
                list,
            ] {
                assert!(finding.text.contains(part), "{part}: {}", finding.text);
            }
        }
    }

    #[test]
    fn what_lets_nobody_past_permissions_is_no_warning() {
        for (listen, to, list) in [
            ("vsock::2375", "/run/docker.sock", "any"),
            ("vsock::2375", "/run/docker.sock", "3,web"),
            ("vsock::2375", "/run/docker.sock", "1-9"),
            ("vsock::2375", "[::1]:2375", "any,local"),
            ("[fd00::2]:2375", "/run/docker.sock", "any"),
        ] {
            assert_eq!(findings(listen, to, list), [], "{listen} {to} {list}");
        }
    }

    #[test]
    fn a_target_for_each_machine_counts_where_this_one_has_it() {
        for (to, count) in [
            ("local=/run/a.sock", 1),
            ("3=[::1]:1 me=/run/a.sock", 1),
            ("3=/run/a.sock local=[::1]:1", 0),
            ("3=/run/a.sock", 0),
            ("any=/run/a.sock", 0),
        ] {
            let found = findings("vsock::2375", to, "any,local");
            assert_eq!(found.len(), count, "{to}: {found:?}");
        }
    }

    #[test]
    fn a_list_that_is_none_has_a_line_of_its_own() {
        for list in ["", "7-3", "0", "nobody"] {
            assert_eq!(findings("vsock::2375", "[::1]:2375", list), [], "{list:?}");
        }
    }

    #[test]
    fn a_list_on_no_vsock_listener_is_a_warning() {
        for listen in ["[fd00::2]:2375", "/run/x.sock"] {
            let [finding] = &findings(listen, "[::1]:2375", "3")[..] else {
                panic!("{listen}: not one finding")
            };
            assert_eq!(finding.level, Level::Warn);
            assert!(finding.text.contains("has no effect"), "{finding:?}");
        }
    }
}
