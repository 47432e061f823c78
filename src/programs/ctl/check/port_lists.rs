//! Whether the sockets of bridges listen on the ports that their files name (`VSOCK_BRIDGE_PORTS`).

use std::collections::BTreeSet;

use super::finding::{Finding, Level};
use super::settings::{services, setting, sockets_of};
use super::units::Unit;
use crate::port_list::{PortList, VARIABLE};

/// Returns a line for each bridge in use that has a list.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    services(units)
        .filter_map(|service| look(service, units))
        .collect()
}

fn look(service: &Unit, units: &[Unit]) -> Option<Finding> {
    // What is wrong with the file or with the list has its line with the settings.
    let setting = setting(service, VARIABLE, " --ports").ok()??;
    let list: PortList = setting.text.parse().ok()?;
    let sockets = sockets_of(service, units);
    let ports: BTreeSet<u16> = sockets
        .iter()
        .filter_map(|socket| socket.named_port())
        .collect();
    let name = service.id.trim_end_matches(".service");
    let place = &setting.place;
    if ports == *list.ports() {
        let text = format!("{name}.socket listens on the ports of {place}");
        return Some(Finding::ok("ports", text));
    }
    let text =
        format!("{name}.socket does not listen on the ports that {VARIABLE} names in {place}");
    // A socket is not started beside its service; the service brings it back.
    Some(
        Finding::new(Level::Fail, "ports", text)
            .run("systemctl daemon-reload")
            .run(format!("systemctl stop {name}.socket"))
            .run(format!("systemctl restart {name}.service")),
    )
}
