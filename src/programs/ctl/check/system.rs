//! What the services need of the system: IPv6 on lo, their user, and namespaces of users.

use std::fs;
use std::path::Path;

use nix::unistd::User;

use super::finding::{Finding, Level};
use super::units::{Unit, Use};

/// The user of the services (sysusers.d/vsock-bridge.conf).
const USER: &str = "vsock-bridge";

/// Applies to all our services, by the beginning of their names (systemd.unit(5)).
const WITHOUT_NAMESPACES: &str = "/etc/systemd/system/vsock-.service.d/50-no-user-namespaces.conf";

/// What is known of these.
#[derive(Debug)]
pub(super) struct Facts {
    /// The user is known.
    pub has_user: bool,
    /// `disable_ipv6` of lo; none without IPv6 in the kernel.
    pub ipv6_disabled: Option<bool>,
    /// A user namespace can be made.
    pub has_namespaces: bool,
}

/// Asks the user database and /proc/sys.
pub(super) fn gather() -> Facts {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").ok();
    // Missing in a kernel without them.
    let namespaces = fs::read_to_string("/proc/sys/user/max_user_namespaces");
    Facts {
        // A user database that fails is told as a user that is missing.
        has_user: User::from_name(USER).ok().flatten().is_some(),
        ipv6_disabled: disabled.map(|text| text.trim() == "1"),
        has_namespaces: namespaces.is_ok_and(|text| text.trim() != "0"),
    }
}

/// Checks that lo may have addresses of IPv6.
pub(super) fn ipv6(facts: &Facts, is_used: &Use) -> Finding {
    let fault = |text: &str| Finding::new(Level::of_fault(is_used.ipv6), "IPv6", text);
    match facts.ipv6_disabled {
        Some(false) => Finding::ok("IPv6", "is enabled on lo"),
        Some(true) => fault("is disabled on lo").run("sysctl -w net.ipv6.conf.lo.disable_ipv6=0"),
        None => fault("is not in this kernel: boot without ipv6.disable=1"),
    }
}

/// Checks that the user of the services is there; without systemd they may have any.
pub(super) fn user(facts: &Facts, is_used: &Use) -> Option<Finding> {
    if facts.has_user {
        return Some(Finding::ok("user", format!("{USER} is there")));
    }
    let level = Level::of_fault(is_used.prefix);
    let missing = Finding::new(level, "user", format!("{USER} is missing"));
    is_used.systemd.then(|| missing.run("systemd-sysusers"))
}

/// Checks that the sandboxes can be made: PrivateUsers= of a service fails where nobody may make a user namespace.
pub(super) fn namespaces(facts: &Facts, units: &[Unit]) -> Option<Finding> {
    let wants = |unit: &&Unit| unit.is("vsock-bridge", ".service") && unit.has_private_users;
    let service = units.iter().find(wants)?;
    if facts.has_namespaces {
        return None;
    }
    let text = format!(
        "cannot be made (user.max_user_namespaces), so systemd cannot start {}, which has PrivateUsers=yes",
        service.id
    );
    let folder = Path::new(WITHOUT_NAMESPACES).parent()?.display();
    let write = format!(
        "sh -c \"mkdir -p {folder} && printf '[Service]\\nPrivateUsers=no\\n' >{WITHOUT_NAMESPACES}\""
    );
    let finding = Finding::new(Level::Fail, "user namespaces", text);
    Some(finding.run(write).run("systemctl daemon-reload"))
}

#[cfg(test)]
mod tests {
    use super::super::prefix::tests::{USED, expect};
    use super::super::units::tests::inactive;
    use super::*;

    const GOOD: Facts = Facts {
        has_user: true,
        ipv6_disabled: Some(false),
        has_namespaces: true,
    };

    #[test]
    fn a_good_machine_has_no_fault() {
        expect(&ipv6(&GOOD, &USED), "IPv6", Level::Ok, "");
        expect(&user(&GOOD, &USED).unwrap(), "user", Level::Ok, "");
    }

    #[test]
    fn ipv6_that_is_off_fails_what_is_in_use() {
        let off = Facts {
            ipv6_disabled: Some(true),
            ..GOOD
        };
        let command = "sysctl -w net.ipv6.conf.lo.disable_ipv6=0";
        expect(&ipv6(&off, &USED), "IPv6", Level::Fail, command);
        expect(&ipv6(&off, &Use::NOTHING), "IPv6", Level::Warn, command);
        let none = Facts {
            ipv6_disabled: None,
            ..GOOD
        };
        expect(&ipv6(&none, &USED), "IPv6", Level::Fail, "");
    }

    #[test]
    fn a_missing_user_fails_what_is_in_use() {
        let facts = Facts {
            has_user: false,
            ..GOOD
        };
        let command = "systemd-sysusers";
        let user = |is_used| user(&facts, &is_used);
        expect(&user(USED).unwrap(), "user", Level::Fail, command);
        expect(&user(Use::NOTHING).unwrap(), "user", Level::Warn, command);
        let without_systemd = Use {
            systemd: false,
            ..Use::NOTHING
        };
        assert_eq!(user(without_systemd), None);
    }

    #[test]
    fn a_sandbox_that_cannot_be_made_fails_until_a_drop_in_takes_the_namespace_out() {
        let facts = Facts {
            has_namespaces: false,
            ..GOOD
        };
        let unit = |has_private_users| Unit {
            has_private_users,
            ..inactive("vsock-bridge@445.service")
        };
        let finding = namespaces(&facts, &[unit(true)]).unwrap();
        let command = "sh -c \"mkdir -p /etc/systemd/system/vsock-.service.d && \
            printf '[Service]\\nPrivateUsers=no\\n' \
            >/etc/systemd/system/vsock-.service.d/50-no-user-namespaces.conf\" && systemctl daemon-reload";
        expect(&finding, "user namespaces", Level::Fail, command);
        assert_eq!(namespaces(&facts, &[unit(false)]), None);
        assert_eq!(namespaces(&GOOD, &[unit(true)]), None);
    }
}
