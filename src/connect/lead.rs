//! Where the rules of a gateway lead a peer.

use super::own_cid::is_own;
use super::{Attempt, Dialer, Errand};
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway::{self, Allowed, Gateway, Way};
use crate::gateway_rules::Who;
use crate::peer::Peer;

/// Where the rules lead a peer.
pub(crate) enum Lead {
    To(Box<Attempt>),
    /// The name of a host is to be looked up first.
    LookUp(Who, String, u16),
}

impl Dialer {
    /// Asks the rules of a gateway, which is the target with that number.
    ///
    /// Errors: [`Error::NotAllowed`].
    pub(crate) fn lead(
        &self,
        gateway: &Gateway,
        (target, who): (usize, Option<Who>),
        name: &Peer,
        errand: &mut Errand,
        now: Moment,
    ) -> Result<Lead> {
        errand.from = gateway::machine_of(name, who);
        let (who, allowed) = gateway
            .decide(who, &errand.asked, is_own)
            .map_err(Error::NotAllowed)?;
        let Allowed { rule, way } = allowed;
        errand.rule = Some(rule);
        errand.by_name =
            matches!(errand.asked, Endpoint::VsockName { .. }).then_some((target, who));
        let attempt = match way {
            Way::Direct(endpoint) => self.run(target, name, &endpoint, false, now),
            Way::Here(endpoint) => self.run(target, name, &endpoint, true, now),
            Way::AsPeer(place, port) => {
                self.run_as_peer(target, (who, name), (&place, port), errand, now)?
            }
            Way::Named(host, port) => return Ok(Lead::LookUp(who, host, port)),
        };
        Ok(Lead::To(Box::new(attempt)))
    }
}
