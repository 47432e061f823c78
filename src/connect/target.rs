//! One place where connections go, with its name resolved, and from where they go there.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use super::address::{Address, Source};
use super::circle::{self, Place};
use super::renewal::Renewal;
use super::via::Route;
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::known::Known;
use crate::prefix::Prefix;
use crate::unusable::Unusable;
use crate::vsock::VsockPort;

/// A target with its name resolved.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As it was given, but the machine of a name by its CID or socket.
    pub endpoint: Endpoint,
    /// The source address of connections to it.
    pub source: Source,
    /// In the order in which they are tried; none for a mapped target and a gateway, which each connection has anew.
    pub(super) addresses: Vec<Address>,
    /// Where the name leads by now, if it is one that a resolver knows.
    pub(super) renewal: Option<Arc<Renewal>>,
    /// The same as `addresses` for the name of a machine, which may be another's later, or nobody's.
    pub(super) machine: Option<Arc<[Address]>>,
    /// What is wrong with the line that should have named the machine, if it is not there now.
    pub(super) problem: Option<String>,
}

impl Target {
    /// Resolves once; blocks while a name is resolved. The source address is the kernel's choice.
    ///
    /// Errors: [`Error::Resolve`]; those of [`Known::endpoint`];
    /// [`Error::Invalid`] for a machine that is named as if it were a host, and for a port that is still to be taken from a
    /// listener.
    pub(crate) fn resolve(endpoint: Endpoint, names: &Known<'_>) -> Result<Target> {
        endpoint.no_machine_as_host(names)?;
        let endpoint = match endpoint {
            Endpoint::VsockName { name, port } => names.endpoint(&name, port)?,
            endpoint => endpoint,
        };
        let addresses = match &endpoint {
            Endpoint::TcpName { name, port } => {
                let fail = |source| Error::Resolve {
                    name: name.clone(),
                    source,
                };
                (name.as_str(), *port)
                    .to_socket_addrs()
                    .map_err(fail)?
                    .map(Address::Tcp)
                    .collect()
            }
            Endpoint::VsockMapped(_) | Endpoint::Gateway | Endpoint::Inbound => Vec::new(),
            Endpoint::TcpMapped(_) => {
                let hint = "there is no listener whose port could be taken";
                return Err(Error::invalid("target", &endpoint.to_string(), hint));
            }
            known => Address::new(known).into_iter().collect(),
        };
        let is_name = matches!(endpoint, Endpoint::TcpName { .. });
        Ok(Target {
            endpoint,
            source: Source::Kernel,
            addresses,
            renewal: is_name.then(Arc::default),
            machine: None,
            problem: None,
        })
    }

    /// Resolves for a program of one connection, which reaches other machines by a route; see [`Target::resolve`]. A machine may
    /// have no address now.
    pub(crate) fn resolve_led(
        endpoint: Endpoint,
        names: &Known<'_>,
        route: &Route,
    ) -> Result<Target> {
        let target = match endpoint {
            Endpoint::VsockName { name, port } => Target::of_machine(&name, port, names)?,
            endpoint => Target::resolve(endpoint, names)?,
        };
        Ok(target.led(route))
    }

    /// Looks up who has a name by now, if it is the name of a machine; nobody has one that cannot be told.
    pub(crate) fn renamed_led(
        endpoint: &Endpoint,
        names: &Known<'_>,
        route: &Route,
    ) -> Option<Target> {
        let Endpoint::VsockName { name, port } = endpoint else {
            return None;
        };
        let target = Target::of_machine(name, *port, names);
        let target = target.unwrap_or_else(|_| Target::absent(name, *port));
        Some(target.led(route))
    }

    /// Makes one of the name of a machine, which may have no address now.
    ///
    /// Errors: those of [`Known::endpoint`] but an absence.
    pub(super) fn of_machine(name: &str, port: VsockPort, names: &Known<'_>) -> Result<Target> {
        let endpoint = match names.endpoint(name, port) {
            Err(Unusable::UnknownMachine { problem, .. }) => {
                return Ok(Target {
                    problem,
                    ..Target::absent(name, port)
                });
            }
            found => found?,
        };
        let addresses: Vec<Address> = Address::new(&endpoint).into_iter().collect();
        Ok(Target {
            endpoint,
            source: Source::Kernel,
            machine: Some(addresses.clone().into()),
            addresses,
            renewal: None,
            problem: None,
        })
    }

    /// Makes one of a machine that is not there now.
    pub(super) fn absent(name: &str, port: VsockPort) -> Target {
        let name = name.to_owned();
        Target {
            endpoint: Endpoint::VsockName { name, port },
            source: Source::Kernel,
            addresses: Vec::new(),
            renewal: None,
            machine: Some([].into()),
            problem: None,
        }
    }

    /// Returns it as it is reached by a route.
    pub(super) fn led(self, route: &Route) -> Target {
        let lead = |address| route.lead(address);
        let mut addresses: Vec<Address> = self.addresses.into_iter().map(lead).collect();
        if let (true, Endpoint::VsockName { name, port }) = (addresses.is_empty(), &self.endpoint) {
            addresses.extend(route.by_name(name, *port));
        }
        Target {
            machine: self.machine.map(|_| addresses.clone().into()),
            addresses,
            ..self
        }
    }

    /// Returns the addresses of a name that leads elsewhere than at the start, or may.
    pub(super) fn renewed(&self) -> Option<Arc<[Address]>> {
        match &self.machine {
            Some(addresses) => Some(addresses.clone()),
            None => self.renewal.as_ref()?.addresses(),
        }
    }

    /// Returns whether it is a machine that is not there now.
    pub(super) fn is_absent(&self) -> bool {
        self.addresses.is_empty() && matches!(self.endpoint, Endpoint::VsockName { .. })
    }

    /// Returns why it has no address.
    pub(super) fn absence(&self) -> Error {
        let name = match &self.endpoint {
            Endpoint::VsockName { name, .. } => name.clone(),
            endpoint => endpoint.to_string(),
        };
        let problem = self.problem.clone();
        Unusable::UnknownMachine { name, problem }.into()
    }

    /// Returns whether each connection brings its own.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.endpoint, Endpoint::VsockMapped(_))
    }

    /// Returns whether each peer says where it wants to go.
    pub(crate) fn is_gateway(&self) -> bool {
        self.endpoint == Endpoint::Gateway
    }

    /// Returns whether the gateway of the host says where each peer goes.
    pub(crate) fn is_inbound(&self) -> bool {
        self.endpoint == Endpoint::Inbound
    }

    /// Returns whether services of this machine are reached over IPv6, which can see who comes by the source address.
    pub(crate) fn sees_machines(&self) -> bool {
        self.is_ipv6_loopback() || self.is_gateway() || self.is_inbound()
    }

    /// Returns whether it is reached over vsock, or may be.
    pub(crate) fn is_vsock(&self) -> bool {
        let may_be = self.is_mapped() || self.is_gateway() || self.machine.is_some();
        may_be || matches!(self.endpoint, Endpoint::Vsock(_))
    }

    /// Returns whether it is a TCP service of this machine, reached over IPv6.
    pub(crate) fn is_ipv6_loopback(&self) -> bool {
        let is_loopback = |a: &Address| matches!(a, Address::Tcp(SocketAddr::V6(addr)) if addr.ip().is_loopback());
        !self.addresses.is_empty() && self.addresses.iter().all(is_loopback)
    }

    /// Finds out in the background whether the name of one that cannot be reached leads elsewhere by now.
    pub(super) fn look_up_again(&self, now: Moment) {
        if let Some(renewal) = &self.renewal {
            renewal.look_up(&self.endpoint, &self.addresses, self.source, now);
        }
    }

    /// Checks that no address, now or later, is one where a peer has come from, or can come to.
    ///
    /// Errors: [`Error::Usage`].
    pub(crate) fn check_circle(&self, places: &[Place], prefix: Option<Prefix>) -> Result<()> {
        if let Some(renewal) = &self.renewal {
            renewal.remember(places, prefix);
        }
        circle::check(&self.endpoint, &self.addresses, places, prefix)
    }

    /// Checks that the source fits.
    ///
    /// Errors: [`Error::Usage`].
    pub(super) fn check(&self) -> Result<()> {
        if let (Source::Address(_), true) = (self.source, self.is_gateway() || self.is_inbound()) {
            return Err(Error::Usage(
                "`--source` of a gateway, and of `inbound`, is `none` or `mapped`, with which services of this machine see who it is"
                    .to_owned(),
            ));
        }
        let has_none = self.is_mapped() || self.machine.is_some();
        let has_use = self.source == Source::Kernel || !has_none;
        match has_use
            && self
                .addresses
                .iter()
                .all(|address| self.source.fits(address))
        {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "`--source` needs a TCP target of the same IP version, and `mapped` one over IPv6; {} is not",
                self.endpoint
            ))),
        }
    }
}
