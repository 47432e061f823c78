//! What the services need of the system: IPv6 on lo, and their user.

use std::fs;

use nix::unistd::User;

use super::finding::{Finding, Level};
use super::units::Use;

/// The user of the services (sysusers.d/vsock-bridge.conf).
const USER: &str = "vsock-bridge";

/// What is known of both.
#[derive(Debug)]
pub struct Facts {
    /// The user is known.
    pub has_user: bool,
    /// `disable_ipv6` of lo; none without IPv6 in the kernel.
    pub ipv6_disabled: Option<bool>,
}

/// Asks the user database and /proc/sys.
pub fn gather() -> Facts {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").ok();
    Facts {
        // A user database that fails is told as a user that is missing.
        has_user: User::from_name(USER).ok().flatten().is_some(),
        ipv6_disabled: disabled.map(|text| text.trim() == "1"),
    }
}

/// Checks that lo may have addresses of IPv6.
pub fn ipv6(facts: &Facts, is_used: &Use) -> Finding {
    let fault = |text: &str| Finding::new(Level::of_fault(is_used.prefix), "IPv6", text);
    match facts.ipv6_disabled {
        Some(false) => Finding::ok("IPv6", "is enabled on lo"),
        Some(true) => fault("is disabled on lo").run("sysctl -w net.ipv6.conf.lo.disable_ipv6=0"),
        None => fault("is not in this kernel: boot without ipv6.disable=1"),
    }
}

/// Checks that the user of the services is there.
pub fn user(facts: &Facts, is_used: &Use) -> Finding {
    if facts.has_user {
        return Finding::ok("user", format!("{USER} is there"));
    }
    let level = Level::of_fault(is_used.prefix);
    Finding::new(level, "user", format!("{USER} is missing")).run("systemd-sysusers")
}

#[cfg(test)]
mod tests {
    use super::super::prefix::tests::{USED, expect};
    use super::*;

    const GOOD: Facts = Facts {
        has_user: true,
        ipv6_disabled: Some(false),
    };

    #[test]
    fn a_good_machine_has_no_fault() {
        expect(&ipv6(&GOOD, &USED), "IPv6", Level::Ok, "");
        expect(&user(&GOOD, &USED), "user", Level::Ok, "");
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
        expect(&user(&facts, &USED), "user", Level::Fail, command);
        expect(&user(&facts, &Use::NOTHING), "user", Level::Warn, command);
    }
}
