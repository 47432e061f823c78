//! From a name to its machine, and from an address back.

use std::net::Ipv6Addr;
use std::path::Path;

use vsock_bridge_values::configured::{self, System};
use vsock_bridge_values::known::Known;
use vsock_bridge_values::names::{GivenNames, Machine, Names, SUFFIX};
use vsock_bridge_values::prefix::Prefix;
use vsock_bridge_values::unusable::Unusable;
use vsock_bridge_values::vsock::Cid;

use crate::machine_id;

/// Begins every prefix of ours (RFC 4193), and few other addresses.
const UNIQUE_LOCAL: u8 = 0xfd;

/// A machine with its address and all its names, the best one first.
pub(crate) struct Host {
    pub address: Ipv6Addr,
    pub names: Vec<String>,
}

/// Finds the machine with that name; names without `.vsock` cost nothing and are not ours.
pub(crate) fn by_name(name: &str) -> Result<Option<Host>, Unusable> {
    let is_ours = name.to_ascii_lowercase().ends_with(SUFFIX);
    let Some(machine) = name.parse::<Machine>().ok().filter(|_| is_ours) else {
        return Ok(None);
    };
    let given = names();
    let names = Known::settled(Some(&given));
    let Ok(cid) = names.cid(&machine) else {
        return Ok(None);
    };
    let prefix = prefix()?;
    Ok(Some(Host {
        address: prefix.address(cid),
        names: names.names_of(cid),
    }))
}

/// Finds the machine with that address; addresses that begin otherwise cost nothing and are not ours.
pub(crate) fn by_address(address: Ipv6Addr) -> Result<Option<Host>, Unusable> {
    if address.octets()[0] != UNIQUE_LOCAL {
        return Ok(None);
    }
    let cid: Option<Cid> = prefix()?.cid(address);
    Ok(cid.map(|cid| Host {
        address,
        names: Known::now(Some(&names())).names_of(cid),
    }))
}

/// Asks no environment: the process may run for others.
fn prefix() -> Result<Prefix, Unusable> {
    let system = System {
        credentials: || None,
        app_specific: |machine, application| Ok(machine_id::app_specific(machine, application)),
    };
    configured::prefix(None, Path::new("/"), &system).map(|(prefix, _)| prefix)
}

/// Names that are not valid are none: `host.vsock` must go on working after a slip of the pen.
fn names() -> GivenNames {
    Names::read().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_others_are_not_ours() {
        for name in [
            "",
            "3",
            "host",
            "web",
            ".vsock",
            "vsock",
            "3.example",
            "0.vsock",
            "a.b.vsock",
            "3.vsock.",
        ] {
            assert!(by_name(name).unwrap().is_none(), "{name:?}");
        }
        for address in ["::1", "fe80::3", "2001:db8::3", "::ffff:192.0.2.1"] {
            assert!(
                by_address(address.parse().unwrap()).unwrap().is_none(),
                "{address}"
            );
        }
    }
}
