//! Whether the sandbox of a service lets it reach its target, and the drop-in that does.
//!
//! The rights of a socket are looked at elsewhere ([`super::rights`]).

use std::net::IpAddr;
use std::path::Path;

use super::finding::{Finding, Level};
use crate::endpoint::{Endpoint, UnixName};
use crate::unix_path::{HOMES, TEMPORARY, is_below};

const FAMILIES: &str = "RestrictAddressFamilies";
const IP_FAMILIES: [&str; 2] = ["AF_INET", "AF_INET6"];

/// What a unit lets its processes reach, in the words of `systemctl show`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// ProtectHome=.
    pub(crate) protect_home: String,
    /// PrivateTmp=.
    pub(crate) private_tmp: String,
    /// RestrictAddressFamilies=; empty for all.
    pub(crate) families: String,
    /// IPAddressAllow=.
    pub(crate) ip_allow: String,
    /// IPAddressDeny=.
    pub(crate) ip_deny: String,
    /// BindPaths= and BindReadOnlyPaths=, each `SOURCE:DESTINATION:OPTIONS`.
    pub(crate) bound: String,
}

impl Sandbox {
    /// Takes a property of a unit.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let place = match name {
            "ProtectHome" => &mut self.protect_home,
            "PrivateTmp" => &mut self.private_tmp,
            "RestrictAddressFamilies" => &mut self.families,
            "IPAddressAllow" => &mut self.ip_allow,
            "IPAddressDeny" => &mut self.ip_deny,
            "BindPaths" | "BindReadOnlyPaths" => {
                self.bound.extend([" ", value]);
                return;
            }
            _ => return,
        };
        value.clone_into(place);
    }

    /// Returns the settings that would let a target be reached; none if it is already.
    pub(crate) fn lacks(&self, target: &Endpoint) -> Vec<String> {
        let family = match target {
            Endpoint::Tcp(address) if address.is_ipv4() => Some("AF_INET"),
            Endpoint::Tcp(_) | Endpoint::TcpMapped(_) => Some("AF_INET6"),
            Endpoint::Unix(_) | Endpoint::Mux { .. } => Some("AF_UNIX"),
            Endpoint::Vsock(_) | Endpoint::VsockName { .. } | Endpoint::VsockMapped(_) => {
                Some("AF_VSOCK")
            }
            // Of a family that only the resolver knows.
            Endpoint::TcpName { .. } | Endpoint::Gateway => None,
            Endpoint::Inbound => Some("AF_INET6"),
        };
        let family = family.filter(|family| !self.allows_family(family));
        let family = family.map(|family| format!("{FAMILIES}={family}"));
        let place = match target {
            Endpoint::Tcp(address) if !self.allows_address(address.ip()) => {
                Some(format!("IPAddressAllow={}", address.ip()))
            }
            Endpoint::Unix(UnixName::Path(path))
            | Endpoint::Mux {
                path: UnixName::Path(path),
                ..
            } => self.hides(path),
            _ => None,
        };
        family.into_iter().chain(place).collect()
    }

    /// Returns the settings that would let addresses with so many bits in common be reached; none if they are already.
    pub(super) fn lacks_network(&self, network: IpAddr, bits: u8) -> Vec<String> {
        let family = match network {
            IpAddr::V4(_) => "AF_INET",
            IpAddr::V6(_) => "AF_INET6",
        };
        let family = (!self.allows_family(family)).then(|| format!("{FAMILIES}={family}"));
        let filter =
            (!self.allows_address(network)).then(|| format!("IPAddressAllow={network}/{bits}"));
        family.into_iter().chain(filter).collect()
    }

    /// Returns the settings that would let something outside of this machine be reached; none if there may be something
    /// already.
    pub(super) fn lacks_outside(&self) -> Vec<String> {
        let is_shut = !IP_FAMILIES.iter().any(|family| self.allows_family(family));
        let family = is_shut.then(|| format!("{FAMILIES}={}", IP_FAMILIES.join(" ")));
        let is_all =
            |list: &str| ["0.0.0.0/0", "::/0"].map(|all| list.split(' ').any(|one| one == all));
        let is_loopback = |network: &str| ["127.0.0.0/8", "::1/128", ""].contains(&network);
        let is_shut =
            is_all(&self.ip_deny) == [true; 2] && self.ip_allow.split(' ').all(is_loopback);
        let filter = is_shut.then(|| "IPAddressAllow=any".to_owned());
        family.into_iter().chain(filter).collect()
    }

    fn allows_family(&self, family: &str) -> bool {
        match self.families.strip_prefix('~') {
            Some(denied) => !denied.split(' ').any(|one| one == family),
            None => self.families.is_empty() || self.families.split(' ').any(|one| one == family),
        }
    }

    fn allows_address(&self, address: IpAddr) -> bool {
        let is_in = |list: &str| list.split(' ').any(|network| contains(network, address));
        is_in(&self.ip_allow) || !is_in(&self.ip_deny)
    }

    fn hides(&self, path: &Path) -> Option<String> {
        let is_bound = |place: &str| {
            let folder = place.trim_start_matches('-').split(':').next();
            folder.is_some_and(|folder| !folder.is_empty() && path.starts_with(folder))
        };
        if self.bound.split(' ').any(is_bound) {
            return None;
        }
        if is_below(path, &HOMES) && ["yes", "tmpfs"].contains(&&*self.protect_home) {
            return Some("ProtectHome=no".to_owned());
        }
        let has_own_tmp = !["", "no"].contains(&&*self.private_tmp);
        (is_below(path, &TEMPORARY) && has_own_tmp).then(|| "PrivateTmp=no".to_owned())
    }
}

/// Returns whether an address is in a network such as `127.0.0.0/8`.
fn contains(network: &str, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let Some((base, length)) = network.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    let ((base, base_width), (address, width)) = (bits(base), bits(address));
    let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
    base_width == width && (base & mask) == (address & mask)
}

/// Returns a line for a target that the service is kept from, with the commands that make a drop-in and restart it.
pub(super) fn check(id: &str, sandbox: &Sandbox, target: &Endpoint) -> Option<Finding> {
    let settings = sandbox.lacks(target);
    if settings.is_empty() {
        return None;
    }
    let needed = settings.join(" and ");
    let text = format!("{id} cannot reach {target}: its sandbox needs {needed} in a drop-in");
    let finding = Finding::new(Level::Fail, "target", text);
    Some(finding.run_all(drop_in(id, "50-target.conf", &settings.join("\\n"))))
}

/// Returns the commands that give a service these lines in a drop-in, and start it again if it runs.
pub(super) fn drop_in(id: &str, name: &str, lines: &str) -> [String; 4] {
    let folder = format!("/etc/systemd/system/{id}.d");
    [
        format!("mkdir -p '{folder}'"),
        format!("sh -c \"printf '[Service]\\n{lines}\\n' >'{folder}/{name}'\""),
        "systemctl daemon-reload".to_owned(),
        format!("systemctl try-restart '{id}'"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Sandbox {
        Sandbox {
            protect_home: "yes".into(),
            private_tmp: "yes".into(),
            families: "AF_INET AF_INET6 AF_UNIX".into(),
            ip_allow: "127.0.0.0/8 ::1/128".into(),
            ip_deny: "0.0.0.0/0 ::/0".into(),
            bound: String::new(),
        }
    }

    #[test]
    fn what_the_sandbox_keeps_from_the_service_is_found_and_the_setting_lets_it_through() {
        for (target, setting) in [
            ("/home/me/x.sock", "ProtectHome=no"),
            ("/run/user/1000/agent.sock", "ProtectHome=no"),
            ("vsock-mux:/root/vm.vsock:445", "ProtectHome=no"),
            ("/tmp/.X11-unix/X0", "PrivateTmp=no"),
            ("/var/tmp/x.sock", "PrivateTmp=no"),
            ("vsock:4:80", "RestrictAddressFamilies=AF_VSOCK"),
            ("vsock:mapped", "RestrictAddressFamilies=AF_VSOCK"),
            ("192.0.2.1:80", "IPAddressAllow=192.0.2.1"),
            ("[2001:db8::1]:80", "IPAddressAllow=2001:db8::1"),
        ] {
            let endpoint = target.parse().unwrap();
            assert_eq!(shipped().lacks(&endpoint), [setting], "{target}");
            let (name, value) = setting.split_once('=').unwrap();
            let mut sandbox = shipped();
            match name {
                "RestrictAddressFamilies" => sandbox.families += &format!(" {value}"),
                "IPAddressAllow" => {
                    let length = if value.contains(':') { 128 } else { 32 };
                    sandbox.ip_allow += &format!(" {value}/{length}");
                }
                _ => sandbox.set(name, value),
            }
            assert_eq!(sandbox.lacks(&endpoint), [""; 0], "{target}");
        }
    }

    #[test]
    fn what_is_outside_is_within_reach_where_anything_may_be() {
        let outside = |families: &str, ip_allow: &str, ip_deny: &str| {
            let sandbox = Sandbox {
                families: families.into(),
                ip_allow: ip_allow.into(),
                ip_deny: ip_deny.into(),
                ..Sandbox::default()
            };
            sandbox.lacks_outside().join(" ")
        };
        let (both, all) = ("AF_INET AF_INET6", "0.0.0.0/0 ::/0");
        for (families, ip_allow, ip_deny, lacks) in [
            ("", "", "", ""),
            (both, "", "224.0.0.0/4 ff00::/8", ""),
            (both, "", "0.0.0.0/0", ""),
            ("AF_INET6 AF_UNIX", "", "", ""),
            (both, "192.0.2.0/24", all, ""),
            (both, all, all, ""),
            (both, "", all, "IPAddressAllow=any"),
            (both, "127.0.0.0/8 ::1/128", all, "IPAddressAllow=any"),
            (
                "AF_UNIX",
                "",
                "",
                "RestrictAddressFamilies=AF_INET AF_INET6",
            ),
            (
                "~AF_INET AF_INET6",
                "",
                "",
                "RestrictAddressFamilies=AF_INET AF_INET6",
            ),
        ] {
            assert_eq!(
                outside(families, ip_allow, ip_deny),
                lacks,
                "{families}, {ip_allow}, {ip_deny}"
            );
        }
        let network: IpAddr = "10.1.0.0".parse().unwrap();
        assert_eq!(
            shipped().lacks_network(network, 16),
            ["IPAddressAllow=10.1.0.0/16"]
        );
        let sandbox = Sandbox {
            families: "AF_INET6".into(),
            ..Sandbox::default()
        };
        assert_eq!(
            sandbox.lacks_network(network, 16),
            ["RestrictAddressFamilies=AF_INET"]
        );
    }

    #[test]
    fn a_folder_that_is_bound_is_not_hidden() {
        let mut sandbox = shipped();
        sandbox.set("ProtectHome", "tmpfs");
        let lacks = |sandbox: &Sandbox, path: &str| sandbox.lacks(&path.parse().unwrap()).len();
        sandbox.set("BindReadOnlyPaths", "");
        assert_eq!(lacks(&sandbox, "/run/user/1000/x"), 1);
        sandbox.set(
            "BindReadOnlyPaths",
            "/srv:/srv:rbind -/run/user/1000:/run/user/1000:rbind",
        );
        assert_eq!(lacks(&sandbox, "/run/user/1000/x"), 0);
        assert_eq!(lacks(&sandbox, "/run/user/100/x"), 1);
    }

    #[test]
    fn what_is_within_reach_has_no_line() {
        for target in [
            "[::1]:445",
            "[::1]:mapped",
            "127.0.0.2:80",
            "name:80",
            "/run/x.sock",
            "/homes/x.sock",
            "/var/lib/x.sock",
            "@x",
        ] {
            let endpoint = target.parse().unwrap();
            assert_eq!(shipped().lacks(&endpoint), [""; 0], "{target}");
        }
        let denied = Sandbox {
            families: "~AF_PACKET AF_VSOCK".into(),
            ..Sandbox::default()
        };
        assert!(!denied.lacks(&"vsock:4:80".parse().unwrap()).is_empty());
        assert!(denied.lacks(&"192.0.2.1:80".parse().unwrap()).is_empty());
    }

    #[test]
    fn one_line_has_all_that_a_target_needs() {
        let sandbox = Sandbox {
            families: "AF_UNIX AF_VSOCK".into(),
            ip_deny: "0.0.0.0/0 ::/0".into(),
            ..Sandbox::default()
        };
        let finding = check(
            "vsock-bridge-ipv6@445.service",
            &sandbox,
            &"[::1]:445".parse().unwrap(),
        )
        .unwrap();
        let lines = r"[Service]\nRestrictAddressFamilies=AF_INET6\nIPAddressAllow=::1\n";
        assert!(finding.commands[1].contains(lines), "{finding:?}");
    }
}
