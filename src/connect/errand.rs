//! From what a peer of the gateway has asked for to the addresses that are tried for it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::address::{Address, Source};
use super::{Attempt, Dialer, source_towards};
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway;
use crate::gateway::step::{Form, Request};
use crate::gateway_rules::Who;
use crate::peer::{Destination, Peer};

/// What a peer has asked for, and what came of it.
#[derive(Debug)]
pub(crate) struct Errand {
    /// Where it wants to go.
    pub asked: Endpoint,
    /// The rule that lets it, `FILE:LINE`.
    pub rule: Option<Arc<str>>,
    /// Which address that was, once it was reached.
    pub address: Option<Endpoint>,
    /// How it is answered.
    pub form: Form,
    /// Bytes of the request, which are the peer's first.
    pub length: usize,
}

impl Errand {
    /// Begins with a request that nobody has looked at.
    pub(crate) fn new(request: Request) -> Errand {
        Errand {
            asked: request.asked,
            rule: None,
            address: None,
            form: request.form,
            length: request.length,
        }
    }
}

impl Dialer {
    /// Returns the number of the target of a peer if that is the gateway.
    pub(crate) fn gateway_for(&self, peer: &Peer, destination: Destination) -> Option<usize> {
        let number = self.targets.choose(peer, destination)?;
        self.targets.get(number).is_gateway().then_some(number)
    }

    /// Begins to connect to a place that needs no resolver. `target`: what [`Dialer::gateway_for`] gave; `is_here`: it is a
    /// service of this machine, which sees who the peer is.
    pub(crate) fn run(
        &self,
        target: usize,
        peer: &Peer,
        endpoint: &Endpoint,
        is_here: bool,
        now: Moment,
    ) -> Attempt {
        let source = match is_here {
            true => self.targets.get(target).source,
            false => Source::Kernel,
        };
        let source = self.source_address(source, peer);
        let addresses: Arc<[Address]> = Address::new(endpoint).into_iter().collect();
        Attempt::new(self, target, Some(addresses), source, None, now)
    }

    /// Begins to connect to the addresses that a name has led to, those that are outside or named by a rule.
    ///
    /// Errors: [`Error::NotAllowed`] if there is none of these.
    pub(crate) fn run_to_found(
        &self,
        target: usize,
        who: Who,
        (asked, found): (&Endpoint, Vec<SocketAddr>),
        now: Moment,
    ) -> Result<Attempt> {
        let is_own = |ip| source_towards(ip) == Some(ip);
        let vetted = (self.gateway.as_ref()).map(|gateway| gateway.vet(who, found, is_own));
        let found = vetted.unwrap_or_else(|| Err("no gateway".to_owned()));
        let found = found.map_err(|problem| {
            let who = gateway::name(who);
            Error::NotAllowed(format!("{asked}, asked for by {who}, leads to {problem}"))
        })?;
        let addresses: Arc<[Address]> = found.into_iter().map(Address::Tcp).collect();
        Ok(Attempt::new(self, target, Some(addresses), None, None, now))
    }
}
