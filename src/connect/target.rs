//! One place where connections go, with its name resolved, and from where they go there.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use super::address::{Address, Source};
use super::circle::{self, Place};
use super::renewal::Renewal;
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::known::Known;
use crate::prefix::Prefix;

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
            Endpoint::VsockMapped(_) | Endpoint::Gateway => Vec::new(),
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
        })
    }

    /// Returns the addresses of a name that leads elsewhere than at the start.
    pub(super) fn renewed(&self) -> Option<Arc<[Address]>> {
        self.renewal.as_ref()?.addresses()
    }

    /// Returns whether each connection brings its own.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.endpoint, Endpoint::VsockMapped(_))
    }

    /// Returns whether each peer says where it wants to go.
    pub(crate) fn is_gateway(&self) -> bool {
        self.endpoint == Endpoint::Gateway
    }

    /// Returns whether it is reached over vsock.
    pub(crate) fn is_vsock(&self) -> bool {
        self.is_mapped() || self.is_gateway() || matches!(self.endpoint, Endpoint::Vsock(_))
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
        if let (Source::Address(_), true) = (self.source, self.is_gateway()) {
            return Err(Error::Usage(
                "`--source` of a gateway is `none` or `mapped`, with which services of this machine see who it is"
                    .to_owned(),
            ));
        }
        let has_use = self.source == Source::Kernel || !self.is_mapped();
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
