//! The gateway: each peer says where it wants to go, and the rules decide.
//!
//! What a peer has asked for is [read](request) without a byte of it being taken, the [rules] find who may go there, a name
//! is looked up by a [resolver] of the machine's own, and a [guard] looks at every address that comes back. Nothing here
//! moves bytes or connects.

mod comer;
pub(crate) mod guard;
mod http;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod resolver;
pub(crate) mod rules;
mod socks;
pub(crate) mod step;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::gateway_rules::Who;
use crate::known::Known;
use crate::names::GivenNames;
use crate::peer::{Destination, Peer};
use crate::vsock::{Cid, VsockAddr, VsockPort};
pub(crate) use comer::cid_of;
use resolver::Resolver;
use rules::RuleFiles;

/// What all connections of a gateway share.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Who may go where.
    pub rules: RuleFiles,
    /// What looks names of hosts up.
    pub resolver: Resolver,
    names: Option<GivenNames>,
    /// Who comes through a unix listener.
    machine: Option<Cid>,
    /// Machines see who comes, whatever the rule says.
    is_as_peer: bool,
}

/// Where a peer may go, and by which rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// `FILE:LINE`.
    pub rule: Arc<str>,
    /// How to get there.
    pub way: Way,
}

/// How to get to what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// That is the place.
    Direct(Endpoint),
    /// A service of this machine itself.
    Here(Endpoint),
    /// A name is to be looked up first.
    Named(String, u16),
    /// The bridge of the machine that sees who comes is there, and brings them to that port.
    AsPeer(Endpoint, u16),
}

/// Where vsock-bridge-inbound listens.
pub(crate) const INBOUND_PORT: u16 = 1081;

impl Gateway {
    /// Begins with the rules of these files. `machine`: who the peers of a unix listener are; `is_as_peer`: machines see who
    /// comes, whatever the rule says.
    pub(crate) fn new(
        rules: RuleFiles,
        names: Option<GivenNames>,
        machine: Option<Cid>,
        is_as_peer: bool,
    ) -> Result<Gateway> {
        Ok(Gateway {
            rules,
            resolver: Resolver::new()?,
            names,
            machine,
            is_as_peer,
        })
    }

    /// Returns whether peers of a unix listener are somebody.
    pub(crate) fn knows_unix_peers(&self) -> bool {
        self.machine.is_some()
    }

    /// Returns who a peer is that came to `destination`, if it is a machine.
    pub(crate) fn who(&self, peer: &Peer, destination: Destination) -> Option<Who> {
        match peer {
            Peer::Vsock(addr) => addr.cid.map(|cid| match destination.is_own(cid) {
                true => Who::Local,
                false => Who::Machine(cid),
            }),
            Peer::Unix(_) => self.machine.map(|cid| match cid {
                Cid::LOCAL => Who::Local,
                cid => Who::Machine(cid),
            }),
            Peer::Tcp(..) | Peer::Stdio => None,
        }
    }

    /// Finds the rule that lets a peer go where it asks to. `is_own`: whether a CID is this machine's.
    ///
    /// Errors: why none does, in a line.
    pub(crate) fn decide(
        &self,
        who: Option<Who>,
        asked: &Endpoint,
        is_own: impl Fn(Cid) -> bool,
    ) -> Result<(Who, Allowed), String> {
        let Some(who) = who else {
            return Err(
                "it came over unix or TCP, where no machine is known; --machine names the one behind a unix listener"
                    .to_owned(),
            );
        };
        let rules = self.rules.current();
        let located = self
            .located(asked)
            .map(|asked| seen_from_inside(asked, is_own));
        let is_here =
            matches!(&located, Some(Endpoint::Vsock(addr)) if addr.cid == Some(Cid::HOST));
        let found = located.and_then(|asked| {
            let rule = rules.find(who, &asked)?;
            let allowed = Allowed {
                rule: rule.place().into(),
                way: way(&asked, self.is_as_peer || rule.is_as_peer())?,
            };
            Some((who, allowed))
        });
        found.ok_or_else(|| {
            let may_be_hybrid = |port| {
                let mut own = rules.iter().filter(|rule| rule.is_for(who));
                own.any(|rule| rule.leads_to_hybrid(port))
            };
            let hint = match asked {
                // Whoever asks for the host means the host.
                Endpoint::Vsock(addr) if addr.cid == Some(Cid::HOST) => String::new(),
                Endpoint::Vsock(_) if is_here => {
                    ", which is this machine itself, `host` in a rule".to_owned()
                }
                Endpoint::Vsock(addr) if may_be_hybrid(addr.port) => {
                    "; a machine behind hybrid vsock has no CID here: ask for its name, as in db.vsock"
                        .to_owned()
                }
                Endpoint::TcpName { name, port } if !name.contains('.') => {
                    format!(", a host outside; a machine is asked for as {name}.vsock:{port}")
                }
                _ => String::new(),
            };
            let (files, who) = (rules.files(), name(who));
            format!("no rule of {files} lets {who} reach {asked}{hint}")
        })
    }

    /// Keeps those addresses of a name that are outside, or that a rule names. `is_own`: whether one is this machine's.
    ///
    /// Errors: what is wrong with one of them, if none is left.
    pub(crate) fn vet(
        &self,
        who: Who,
        found: Vec<SocketAddr>,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Result<Vec<SocketAddr>, String> {
        let rules = self.rules.current();
        let mut problem = "no address".to_owned();
        let mut outside = Vec::new();
        for addr in found {
            let ip = addr.ip().to_canonical();
            let kind = guard::kind(ip).or_else(|| is_own(ip).then_some("this machine's own"));
            match kind.filter(|_| !rules.names_address(who, ip, addr.port())) {
                None => outside.push(SocketAddr::new(ip, addr.port())),
                Some(kind) => {
                    let files = rules.files();
                    problem = format!("{ip}, which is {kind}, and no rule of {files} names it");
                }
            }
        }
        match outside.is_empty() {
            false => Ok(outside),
            true => Err(problem),
        }
    }

    /// Says where a machine is; none if nobody has the name.
    fn located(&self, asked: &Endpoint) -> Option<Endpoint> {
        match asked {
            Endpoint::VsockName { name, port } => {
                let names = Known::now(self.names.as_ref());
                names.endpoint(name, *port).ok()
            }
            other => Some(other.clone()),
        }
    }
}

/// Returns a place as guests see it: a host that is a guest itself has a CID above 2 as well, by which a connection would come
/// back to it, and which no range of machines means.
pub(crate) fn seen_from_inside(place: Endpoint, is_own: impl Fn(Cid) -> bool) -> Endpoint {
    match place {
        Endpoint::Vsock(VsockAddr {
            cid: Some(cid),
            port,
        }) if cid > Cid::HOST && is_own(cid) => Endpoint::Vsock(VsockAddr {
            cid: Some(Cid::HOST),
            port,
        }),
        place => place,
    }
}

/// The host is asked for by its services, which listen on loopback.
fn way(asked: &Endpoint, is_as_peer: bool) -> Option<Way> {
    Some(match asked {
        Endpoint::Vsock(VsockAddr {
            cid: Some(Cid::HOST),
            port,
        }) => {
            let port = tcp_port(*port)?;
            Way::Here(Endpoint::Tcp((Ipv6Addr::LOCALHOST, port).into()))
        }
        Endpoint::Vsock(VsockAddr { port, .. }) | Endpoint::Mux { port, .. } if is_as_peer => {
            Way::AsPeer(inbound(asked)?, tcp_port(*port)?)
        }
        Endpoint::TcpName { name, port } => Way::Named(name.clone(), *port),
        other => Way::Direct(other.clone()),
    })
}

/// Returns where the bridge of another machine is that sees who comes, for any place there.
pub(crate) fn inbound(place: &Endpoint) -> Option<Endpoint> {
    let port = INBOUND_PORT.into();
    match place {
        Endpoint::Vsock(addr) if addr.cid > Some(Cid::HOST) => {
            Some(Endpoint::Vsock(VsockAddr { port, ..*addr }))
        }
        Endpoint::Mux { path, .. } => Some(Endpoint::Mux {
            path: path.clone(),
            port,
        }),
        _ => None,
    }
}

/// Returns a port as TCP has it.
fn tcp_port(port: VsockPort) -> Option<u16> {
    u16::try_from(port.number()).ok()
}

/// Returns the machine that a peer of a unix listener is, as whom people know it.
pub(crate) fn machine_of(peer: &Peer, who: Option<Who>) -> Option<Peer> {
    match (peer, who) {
        (Peer::Unix(_), Some(Who::Machine(cid))) => Some(Peer::Vsock(VsockAddr {
            cid: Some(cid),
            port: 0u16.into(),
        })),
        _ => None,
    }
}

/// Returns the words for a peer.
pub(crate) fn name(who: Who) -> String {
    match who {
        Who::Machine(cid) => format!("CID {cid}"),
        Who::Local => "this machine itself".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asked;

    fn gateway(rules: &str, machine: Option<u32>) -> Gateway {
        let names: GivenNames = "web=3 db=4".parse().unwrap();
        let rules = RuleFiles::of_text(rules, &names);
        Gateway::new(rules, Some(names), machine.and_then(Cid::new), false).unwrap()
    }

    fn guest(number: u32) -> Option<Who> {
        Cid::new(number).map(Who::Machine)
    }

    /// A rule may have the host beside machines, and the host of a host is none of them.
    #[test]
    fn only_other_machines_have_a_bridge_that_sees_who_comes() {
        for (text, bridge) in [
            ("vsock:6:22", Some("vsock:6:1081")),
            (
                "vsock-mux:/run/db.vsock:22",
                Some("vsock-mux:/run/db.vsock:1081"),
            ),
            ("vsock:2:53", None),
            ("vsock:1:53", None),
            ("[::1]:53", None),
        ] {
            let found = inbound(&text.parse().unwrap()).map(|bridge| bridge.to_string());
            assert_eq!(found.as_deref(), bridge, "{text}");
        }
    }

    #[test]
    fn a_rule_leads_to_a_way() {
        let gateway = gateway(
            "web db:5432 host:53 mirror.example.net:443 10.0.0.0/8:1\n\
             web 6:22 host:54 as-peer",
            None,
        );
        for (text, line, way) in [
            ("db.vsock:5432", 1, "Direct(vsock:4:5432)"),
            ("4.vsock:5432", 1, "Direct(vsock:4:5432)"),
            ("host.vsock:53", 1, "Here([::1]:53)"),
            ("mirror.example.net:443", 1, "Named(mirror.example.net:443)"),
            ("10.1.2.3:1", 1, "Direct(10.1.2.3:1)"),
            ("6.vsock:22", 2, "AsPeer(vsock:6:1081 22)"),
            ("host.vsock:54", 2, "Here([::1]:54)"),
        ] {
            let asked = asked::authority(text).unwrap();
            let (_, allowed) = gateway.decide(guest(3), &asked, |_| false).unwrap();
            assert_eq!(*allowed.rule, format!("gateway.conf:{line}"));
            let found = match allowed.way {
                Way::Direct(endpoint) => format!("Direct({endpoint})"),
                Way::Here(endpoint) => format!("Here({endpoint})"),
                Way::Named(name, port) => format!("Named({name}:{port})"),
                Way::AsPeer(place, port) => format!("AsPeer({place} {port})"),
            };
            assert_eq!(found, way);
            let refusal = gateway.decide(guest(5), &asked, |_| false).unwrap_err();
            let words = format!("no rule of gateway.conf lets CID 5 reach {asked}");
            assert_eq!(refusal, words);
        }
        for asked in [
            "nobody.vsock:5432",
            "local.vsock:53",
            "db.vsock:1",
            "[::1]:53",
        ] {
            let asked = asked::authority(asked).unwrap();
            assert!(
                gateway.decide(guest(3), &asked, |_| false).is_err(),
                "{asked}"
            );
        }
    }

    /// A connection to it would come back: it is the host, whatever the rule says of machines.
    #[test]
    fn the_cid_that_a_host_has_as_a_guest_is_the_host_alone() {
        let gateway = gateway("web 3-200:22 *.vsock:23 db:24 4:25 host:26", None);
        let is_own = |cid| Some(cid) == Cid::new(4);
        for port in 22..=25 {
            for machine in ["4.vsock", "db.vsock"] {
                let asked = asked::authority(&format!("{machine}:{port}")).unwrap();
                assert!(gateway.decide(guest(3), &asked, |_| false).is_ok());
                let refusal = gateway.decide(guest(3), &asked, is_own).unwrap_err();
                assert!(refusal.contains("no rule of"), "{refusal}");
            }
        }
        let asked = asked::authority("4.vsock:22").unwrap();
        assert_eq!(
            gateway.decide(guest(3), &asked, is_own).unwrap_err(),
            "no rule of gateway.conf lets CID 3 reach vsock:4:22, which is this machine itself, `host` in a rule"
        );
        let asked = asked::authority("db:24").unwrap();
        let refusal = gateway.decide(guest(3), &asked, is_own).unwrap_err();
        let hint = "reach db:24, a host outside; a machine is asked for as db.vsock:24";
        assert!(refusal.ends_with(hint), "{refusal}");
        let asked = asked::authority("4.vsock:26").unwrap();
        let (_, allowed) = gateway.decide(guest(3), &asked, is_own).unwrap();
        assert!(matches!(allowed.way, Way::Here(_)));
    }

    #[test]
    fn who_cannot_be_told_is_nobody() {
        let asked = asked::authority("host.vsock:53").unwrap();
        let (unix, tcp) = (
            Peer::Unix(Some(0)),
            Peer::Tcp(Ipv6Addr::LOCALHOST.into(), 1),
        );
        let named = gateway("any host:53", Some(9));
        let unnamed = gateway("any,local host:53", None);
        let own = gateway("any host:53", Some(1));
        assert_eq!(own.who(&unix, Destination::Unnamed), Some(Who::Local));
        assert!(own.decide(Some(Who::Local), &asked, |_| false).is_err());
        for (gateway, peer, who) in [
            (&named, unix, guest(9)),
            (&named, tcp, None),
            (&unnamed, unix, None),
            (&unnamed, Peer::Stdio, None),
        ] {
            let found = gateway.who(&peer, Destination::Unnamed);
            assert_eq!(found, who, "{peer}");
            assert_eq!(
                gateway.decide(found, &asked, |_| false).is_ok(),
                who.is_some()
            );
        }
        let vsock = |cid| {
            Peer::Vsock(VsockAddr {
                cid: Cid::new(cid),
                port: 1u16.into(),
            })
        };
        let nowhere = Destination::Unnamed;
        assert_eq!(unnamed.who(&vsock(1), nowhere), Some(Who::Local));
        assert_eq!(unnamed.who(&vsock(3), nowhere), guest(3));
    }

    #[test]
    fn a_name_leads_inside_only_where_a_rule_names_the_address() {
        let gateway = gateway(
            "web *.example.net:80 10.1.0.0/16:80 169.254.169.254:81",
            None,
        );
        let vet = |list: &str| {
            let found = list
                .split(' ')
                .map(|ip| SocketAddr::new(ip.parse().unwrap(), 80));
            let own: IpAddr = "203.0.113.9".parse().unwrap();
            gateway.vet(Who::Machine(Cid::new(3).unwrap()), found.collect(), |ip| {
                ip == own
            })
        };
        let kept = |list: &str| {
            let kept = vet(list).unwrap_or_default();
            kept.iter()
                .map(|addr| addr.ip().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(kept("192.0.2.1 2001:db8::1"), "192.0.2.1 2001:db8::1");
        assert_eq!(
            kept("127.0.0.1 192.0.2.1 10.1.2.3 10.2.0.1"),
            "192.0.2.1 10.1.2.3"
        );
        for list in [
            "127.0.0.1",
            "169.254.169.254",
            "203.0.113.9",
            "::ffff:127.0.0.1",
            "10.2.0.1 ::1",
        ] {
            assert!(vet(list).is_err(), "{list}");
        }
        let problem = vet("169.254.169.254").unwrap_err();
        assert_eq!(
            problem,
            "169.254.169.254, which is link-local, and no rule of gateway.conf names it"
        );
    }
}
