//! How ports of other machines are reached: as they are, or through a gateway that this machine was told of.
//!
//! In a guest every CID but its own and the host's is another machine's, to which vsock itself does not lead.

use super::address::Address;
use super::own_cid;
use crate::endpoint::Endpoint;
use crate::vsock::{Cid, VsockPort};

/// The way to other machines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    gateway: Option<Address>,
}

impl Route {
    /// Makes one that leads through a gateway, if there is one.
    pub(crate) fn through(gateway: Option<&Endpoint>) -> Route {
        Route {
            gateway: gateway.and_then(Address::new),
        }
    }

    /// Returns the address by which a place is reached: another machine through the gateway, and all else as it is.
    pub(super) fn lead(&self, address: Address) -> Address {
        let (Some(gateway), Address::Vsock(asked)) = (&self.gateway, &address) else {
            return address;
        };
        match asked.cid.is_some_and(is_elsewhere) {
            true => tunnel(gateway, Endpoint::Vsock(*asked)),
            false => address,
        }
    }

    /// Returns the gateway through which a connection to a place has gone, whose socket has `reached` that address, if it still
    /// tells.
    pub(super) fn gone_through(
        &self,
        asked: &Endpoint,
        reached: impl FnOnce() -> Option<Endpoint>,
    ) -> Option<Endpoint> {
        // First: whether a CID is another machine's takes system calls.
        let gateway = self.gateway.as_ref()?.endpoint();
        let is_led = match asked {
            Endpoint::Vsock(addr) => addr.cid.is_some_and(is_elsewhere),
            Endpoint::VsockName { .. } => true,
            _ => false,
        };
        if !is_led {
            return None;
        }
        (reached().is_none_or(|reached| reached == gateway)).then_some(gateway)
    }

    /// Returns the address of a machine whose name this one does not know, and the gateway may.
    pub(super) fn by_name(&self, name: &str, port: VsockPort) -> Option<Address> {
        let name = name.to_owned();
        let asked = Endpoint::VsockName { name, port };
        self.gateway.as_ref().map(|gateway| tunnel(gateway, asked))
    }
}

fn tunnel(gateway: &Address, asked: Endpoint) -> Address {
    let gateway = gateway.clone().into();
    Address::Tunnel { gateway, asked }
}

fn is_elsewhere(cid: Cid) -> bool {
    cid > Cid::HOST && !own_cid::is_own(cid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_machine_is_reached_through_the_gateway() {
        let address = |text: &str| Address::new(&text.parse().unwrap()).unwrap();
        let gateway = "vsock:host:1080".parse().unwrap();
        let route = Route::through(Some(&gateway));
        for (text, is_led) in [
            ("vsock:4:22", true),
            ("vsock:2:22", false),
            ("vsock:1:22", false),
            ("[::1]:22", false),
            ("/run/x.sock", false),
            ("vsock-mux:/run/vm.vsock:22", false),
        ] {
            let led = route.lead(address(text));
            assert_eq!(matches!(led, Address::Tunnel { .. }), is_led, "{text}");
            assert_eq!(led.endpoint().to_string(), text);
            let as_it_is = Route::default().lead(address(text));
            assert_eq!(as_it_is, address(text));
        }
    }
}
