//! Ports that two want: a bridge and a server on one TCP port, two units on vsock port 22.

use std::net::SocketAddr;

use super::finding::{Finding, Level};
use super::listeners::{self, Listeners, TcpListener};
use super::states;
use super::units::Unit;

const SSHD: &str = "sshd-vsock.socket";
const BRIDGE_22: &str = "vsock-bridge@22.socket";

/// A socket unit that cannot listen, and who is in its place.
pub(super) struct Clash<'a> {
    /// The unit.
    pub unit: &'a Unit,
    address: SocketAddr,
    other: TcpListener,
}

/// Finds the units that are meant to listen and cannot, because somebody else does.
pub(super) fn clashes<'a>(units: &'a [Unit], listeners: &Listeners) -> Vec<Clash<'a>> {
    // One that was stopped beside its service has left its listener there.
    let is_held =
        |unit: &Unit| unit.active == "inactive" && states::running_service(unit, units).is_some();
    let waiting = units.iter().filter(|unit| {
        unit.is_in_use() && !unit.is_active() && !unit.is_masked() && !is_held(unit)
    });
    waiting
        .flat_map(|unit| {
            unit.listen
                .iter()
                .filter_map(move |text| text.parse().ok().map(|address| (unit, address)))
        })
        .filter_map(|(unit, address): (&Unit, SocketAddr)| {
            let is_in_place = |other: &&TcpListener| {
                other.address.ip().is_unspecified() || other.address == address
            };
            let other = listeners.on_port(address.port()).find(is_in_place)?;
            Some(Clash {
                unit,
                address,
                other: *other,
            })
        })
        .collect()
}

/// Returns a line for each clash, or one that says there is none.
pub(super) fn check(clashes: &[Clash<'_>], units: &[Unit]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = clashes
        .iter()
        .map(|clash| {
            let owner = listeners::owner(clash.other.inode);
            clashing(
                clash,
                &owner.unwrap_or_else(|| "another program".into()),
                units,
            )
        })
        .collect();
    findings.extend(two_on_22(units));
    if findings.is_empty() {
        findings.push(Finding::ok("ports", "no port is wanted by two"));
    }
    findings
}

fn clashing(clash: &Clash<'_>, owner: &str, units: &[Unit]) -> Finding {
    let (id, address, other) = (&clash.unit.id, clash.address, clash.other.address);
    let text = format!(
        "{id} cannot listen on {address}, because {owner} listens on {other}: stop that, or give it other addresses \
         (Samba: `bind interfaces only = yes`)"
    );
    Finding::new(Level::Fail, "ports", text).run_all(states::restart(clash.unit, units))
}

/// They exclude each other: which of them is up after a boot is left to chance.
fn two_on_22(units: &[Unit]) -> Option<Finding> {
    let find = |id| units.iter().find(|unit| unit.id == id);
    let (sshd, bridge) = (find(SSHD)?, find(BRIDGE_22)?);
    if !bridge.is_in_use() {
        return None;
    }
    if sshd.file_state == "generated" {
        let text = format!(
            "{BRIDGE_22} and {SSHD}, which systemd generates, exclude each other: boot with systemd.ssh_auto=no"
        );
        return Some(Finding::warn("ports", text));
    }
    let text = format!("{BRIDGE_22} and {SSHD} exclude each other: both are on vsock port 22");
    sshd.is_in_use()
        .then(|| Finding::warn("ports", text).run(format!("systemctl disable --now {BRIDGE_22}")))
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::{active, inactive};
    use super::*;

    const ID: &str = "vsock-bridge-ipv6@445.socket";

    fn socket(state: &str) -> Unit {
        Unit {
            active: state.into(),
            listen: vec!["[fd00::2]:445".into()],
            ..active(ID)
        }
    }

    fn listening(address: &str) -> Listeners {
        Listeners {
            tcp: vec![TcpListener {
                address: address.parse().unwrap(),
                inode: 0,
            }],
            unix: Vec::new(),
        }
    }

    #[test]
    fn a_wildcard_server_on_the_port_of_a_bridge_clashes() {
        for state in ["failed", "inactive"] {
            let units = [socket(state)];
            let clashes = clashes(&units, &listening("[::]:445"));
            let finding = clashing(&clashes[0], "smbd (process 9)", &units);
            assert_eq!(finding.level, Level::Fail);
            assert_eq!(finding.commands, [format!("systemctl restart {ID}")]);
            for word in [ID, "[fd00::2]:445", "smbd (process 9)", "[::]:445"] {
                assert!(finding.text.contains(word), "{word}: {}", finding.text);
            }
        }
    }

    #[test]
    fn other_ports_and_addresses_and_its_own_socket_do_not_clash() {
        let failed = [socket("failed")];
        for address in ["[::]:446", "[::1]:445", "127.0.0.1:445"] {
            assert!(
                clashes(&failed, &listening(address)).is_empty(),
                "{address}"
            );
        }
        assert!(clashes(&[socket("active")], &listening("[fd00::2]:445")).is_empty());
        assert_eq!(check(&[], &failed)[0].level, Level::Ok);
    }

    #[test]
    fn a_bridge_that_has_the_listener_of_its_socket_does_not_clash_with_it() {
        let service = active("vsock-bridge-ipv6@445.service");
        let units = [socket("inactive"), service.clone()];
        assert!(clashes(&units, &listening("[fd00::2]:445")).is_empty());
        let units = [socket("failed"), service];
        assert_eq!(clashes(&units, &listening("[::]:445")).len(), 1);
    }

    #[test]
    fn two_units_on_vsock_port_22_are_a_warning() {
        let found = |sshd: Unit, bridge: Unit| two_on_22(&[sshd, bridge]).map(|f| f.commands);
        assert_eq!(
            found(inactive(SSHD), active(BRIDGE_22)),
            Some(vec![format!("systemctl disable --now {BRIDGE_22}")])
        );
        let generated = Unit {
            file_state: "generated".into(),
            ..inactive(SSHD)
        };
        assert_eq!(found(generated, active(BRIDGE_22)), Some(vec![]));
        let disabled = |id| Unit {
            file_state: "disabled".into(),
            ..inactive(id)
        };
        assert_eq!(found(active(SSHD), disabled(BRIDGE_22)), None);
        assert_eq!(found(disabled(SSHD), active(BRIDGE_22)), None);
    }
}
