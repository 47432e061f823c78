//! From what a peer of the gateway has asked for to the addresses that are tried for it.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::address::{Address, Source};
use super::inbound::Counted;
use super::{Attempt, Dialer, source_towards};
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway::step::{Form, Request};
use crate::gateway::{self, Gateway};
use crate::gateway_rules::Who;
use crate::peer::{Destination, Peer};
use crate::proxy_protocol;
use crate::proxy_protocol::read::Header;
use crate::vsock::{Cid, VsockAddr};

/// Whom a peer asks where it is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// A gateway, as that machine if it is one.
    Gateway(Option<Who>),
    /// This machine, as the gateway of the host.
    Inbound,
}

/// What a peer has asked for, and what came of it.
#[derive(Debug)]
pub(crate) struct Errand {
    /// Who comes, if the peer is a gateway that brings somebody, or a socket behind which a machine is.
    pub from: Option<Peer>,
    /// Where it wants to go.
    pub asked: Endpoint,
    /// The rule that lets it, `FILE:LINE`.
    pub rule: Option<Arc<str>>,
    /// The number of the gateway, and as whom it was asked, if that was for a machine by its name.
    pub by_name: Option<(usize, Who)>,
    /// Which address that was, once it was reached.
    pub address: Option<Endpoint>,
    /// How it is answered.
    pub form: Form,
    /// Bytes of the request, which are the peer's first.
    pub length: usize,
    /// What the target is told before the first byte.
    pub header: Vec<u8>,
    /// Who comes is counted as long as it is here.
    counted: Option<Counted>,
}

impl Errand {
    /// Begins with a request that nobody has looked at.
    pub(crate) fn new(request: Request) -> Errand {
        Errand {
            from: None,
            asked: request.asked,
            rule: None,
            by_name: None,
            address: None,
            form: request.form,
            length: request.length,
            header: Vec::new(),
            counted: None,
        }
    }

    /// Begins with what a gateway has said of whom it brings.
    pub(crate) fn inbound(header: &Header) -> Errand {
        let request = Request {
            form: Form::Proxy,
            asked: Endpoint::Tcp((Ipv6Addr::LOCALHOST, header.port).into()),
            length: header.length,
        };
        Errand {
            from: Some(Peer::Vsock(header.from)),
            ..Errand::new(request)
        }
    }
}

impl Dialer {
    /// Returns what is still known of an errand of the process before, on which that peer has reached that place; none
    /// where peers are not asked where they go.
    pub(crate) fn recall(&self, peer: &Peer, place: Option<Endpoint>) -> Option<Errand> {
        let is_asked =
            |endpoint: &Endpoint| matches!(endpoint, Endpoint::Gateway | Endpoint::Inbound);
        if !self.targets.iter().any(|target| is_asked(&target.endpoint)) {
            return None;
        }
        let counted =
            (self.inbound.as_ref().zip(peer.cid())).map(|(inbound, cid)| inbound.enter_again(cid));
        // Nothing is answered any more.
        let request = Request {
            form: Form::Proxy,
            asked: place?,
            length: 0,
        };
        let gateway = self.gateway.as_ref();
        let who = gateway.and_then(|gateway| gateway.who(peer, Destination::Unnamed));
        Some(Errand {
            from: gateway::machine_of(peer, who),
            counted,
            ..Errand::new(request)
        })
    }

    /// Returns the number of the target of a peer if that is to say where it goes, and whom it asks.
    pub(crate) fn asked_by(&self, peer: &Peer, destination: Destination) -> Option<(usize, Asks)> {
        let number = self.targets.choose(peer, destination)?;
        let who = |gateway: &Arc<Gateway>| gateway.who(peer, destination);
        match self.targets.get(number).endpoint {
            Endpoint::Gateway => {
                let who = self.gateway.as_ref().and_then(who);
                Some((number, Asks::Gateway(who)))
            }
            Endpoint::Inbound => Some((number, Asks::Inbound)),
            _ => None,
        }
    }

    /// Sees whether a peer is the gateway of the host, whose word it is who comes.
    ///
    /// Errors: [`Error::NotAllowed`].
    pub(crate) fn believe(&self, peer: &Peer) -> Result<()> {
        match peer.cid() {
            Some(Cid::HOST) => Ok(()),
            _ => Err(Error::NotAllowed(
                "who comes is believed from the gateway of the host alone, CID 2".to_owned(),
            )),
        }
    }

    /// Begins to connect on behalf of a machine that the gateway of the host brings.
    ///
    /// Errors: [`Error::PeerFull`].
    pub(crate) fn run_inbound(
        &self,
        target: usize,
        peer: &Peer,
        errand: &mut Errand,
        now: Moment,
    ) -> Result<Attempt> {
        let from = errand.from.unwrap_or(*peer);
        if let (Some(inbound), Some(cid)) = (&self.inbound, from.cid()) {
            errand.counted = Some(inbound.enter(cid)?);
        }
        Ok(self.run(target, &from, &errand.asked, true, now))
    }

    /// Begins to connect to the bridge of a machine that sees who comes, and brings them to that port.
    ///
    /// Errors: [`Error::NotAllowed`] if this machine has no prefix.
    pub(super) fn run_as_peer(
        &self,
        target: usize,
        (who, peer): (Who, &Peer),
        (place, port): (&Endpoint, u16),
        errand: &mut Errand,
        now: Moment,
    ) -> Result<Attempt> {
        let Some(prefix) = self.prefix else {
            let problem = "machines cannot see who comes: this machine has no prefix";
            return Err(Error::NotAllowed(problem.to_owned()));
        };
        let from = VsockAddr {
            cid: Some(match who {
                Who::Machine(cid) => cid,
                Who::Local => Cid::HOST,
            }),
            port: match peer {
                Peer::Vsock(addr) => addr.port,
                _ => 0u16.into(),
            },
        };
        let ip = match place {
            Endpoint::Vsock(VsockAddr { cid: Some(cid), .. }) => prefix.address(*cid),
            _ => Ipv6Addr::LOCALHOST,
        };
        errand.header = proxy_protocol::of_machine(&from, (ip, port).into(), prefix);
        Ok(self.run(target, peer, place, false, now))
    }

    /// Begins to connect to a place that needs no resolver. `target`: what [`Dialer::asked_by`] gave; `is_here`: it is a
    /// service of this machine, which sees who the peer is.
    pub(super) fn run(
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
