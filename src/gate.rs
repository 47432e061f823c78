//! Who may come in, decided before the target hears of a connection: CIDs, limits, foreign networks.
//!
//! Pure: it counts and compares, and knows nothing of sockets.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::allow_list::{self, AllowedCids};
use crate::peer::{Destination, Peer};
use crate::prefix::Prefix;
use crate::vsock::Cid;

/// Who a limit for each peer counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PeerKey {
    /// A machine.
    Cid(Cid),
    /// An IP address, whatever the port.
    Ip(IpAddr),
    /// A user of this machine.
    Uid(u32),
    /// A process of this machine whose user is not known.
    Unknown,
}

impl PeerKey {
    /// Reduces a peer to what counts.
    pub(crate) fn new(peer: &Peer) -> PeerKey {
        match peer {
            Peer::Vsock(addr) => addr.cid.map_or(PeerKey::Unknown, PeerKey::Cid),
            Peer::Tcp(ip, _) => PeerKey::Ip(*ip),
            Peer::Unix(uid) => uid.map_or(PeerKey::Unknown, PeerKey::Uid),
            Peer::Stdio => PeerKey::Unknown,
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerKey::Cid(cid) => write!(f, "CID {cid}"),
            PeerKey::Ip(ip) => ip.fmt(f),
            PeerKey::Uid(uid) => write!(f, "uid {uid}"),
            PeerKey::Unknown => write!(f, "unknown"),
        }
    }
}

/// Why a peer may not come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its CID is not in `--allow-cid`.
    Cid,
    /// It is a process of this machine, which `--allow-cid`, given here, does not name.
    Local(Arc<str>),
    /// Its CID names no machine, so no list can have it and no address can stand for it.
    NoMachine,
    /// Each machine has a target of its own, and this one has none.
    NoTarget,
    /// It came from another network to an address of the prefix, which is for this machine alone.
    Foreign,
    /// `--max-connections` are open.
    Full(usize),
    /// `--max-connections-per-peer` of this peer are open.
    PeerFull(usize),
    /// No rule of the gateway lets it go where it asks to.
    NoRule,
    /// As many are open of all peers that cannot be told apart.
    UnknownFull(usize),
}

impl Refusal {
    /// By what refusals are counted. The place is that in the ledger, so a new one comes last.
    pub(crate) const REASONS: [&str; 8] = [
        "not_allowed",
        "local",
        "no_machine",
        "foreign",
        "max_connections",
        "max_connections_per_peer",
        "no_target",
        "no_rule",
    ];

    /// Returns the place of its reason.
    pub(crate) fn reason(&self) -> usize {
        match self {
            Refusal::Cid => 0,
            Refusal::Local(_) => 1,
            Refusal::NoMachine => 2,
            Refusal::Foreign => 3,
            Refusal::Full(_) => 4,
            Refusal::PeerFull(_) | Refusal::UnknownFull(_) => 5,
            Refusal::NoTarget => 6,
            Refusal::NoRule => 7,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Cid => write!(f, "its CID is not in --allow-cid"),
            Refusal::Local(list) => write!(
                f,
                "this machine itself is not in --allow-cid; {}={list},local lets it in",
                allow_list::VARIABLE
            ),
            Refusal::NoTarget => write!(f, "VSOCK_BRIDGE_TO has no target for it"),
            Refusal::NoRule => write!(f, "no rule lets it go there"),
            Refusal::NoMachine => write!(f, "its CID names no machine"),
            Refusal::Foreign => write!(f, "it reached the prefix from another machine"),
            Refusal::Full(limit) => write!(f, "the limit --max-connections={limit} is reached"),
            Refusal::PeerFull(limit) => write!(
                f,
                "the limit --max-connections-per-peer={limit} is reached for this peer"
            ),
            Refusal::UnknownFull(limit) => write!(
                f,
                "the limit --max-connections-per-peer={limit} is reached for users that cannot be told apart"
            ),
        }
    }
}

/// A limit that will soon be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Near {
    /// So many of all connections are open, of so many that there may be.
    All(usize, usize),
    /// Of those of one peer.
    Peer(PeerKey, usize, usize),
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Near::All(open, limit) => write!(
                f,
                "{open} connections are open, of {limit} that --max-connections allows; whoever comes over it is refused"
            ),
            Near::Peer(key, open, limit) => write!(
                f,
                "{open} connections of {key} are open, of {limit} that --max-connections-per-peer allows; more are refused"
            ),
        }
    }
}

/// Lets peers in and counts them.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The machines that may connect.
    pub allowed: AllowedCids,
    /// Connections in all.
    pub limit: usize,
    /// Connections of one peer.
    pub peer_limit: usize,
    /// The prefix whose addresses only this machine may use.
    pub prefix: Option<Prefix>,
    open: HashMap<PeerKey, usize>,
    total: usize,
    /// Whose limit was told of; none for that of all.
    told: HashSet<Option<PeerKey>>,
}

/// Four fifths of a limit are worth a warning, if that leaves some; it is told again after less than half was open.
fn is_near(open: usize, limit: usize) -> bool {
    limit >= 10 && open >= limit - limit / 5
}

impl Gate {
    /// Begins with nobody in.
    pub(crate) fn new(
        allowed: AllowedCids,
        limit: usize,
        peer_limit: usize,
        prefix: Option<Prefix>,
    ) -> Gate {
        Gate {
            allowed,
            limit,
            peer_limit,
            prefix,
            open: HashMap::new(),
            total: 0,
            told: HashSet::new(),
        }
    }

    /// Returns which limit is near since this peer came in, once.
    pub(crate) fn near(&mut self, peer: &Peer) -> Option<Near> {
        let key = PeerKey::new(peer);
        let open = self.open.get(&key).copied().unwrap_or(0);
        if is_near(self.total, self.limit) && self.told.insert(None) {
            return Some(Near::All(self.total, self.limit));
        }
        if is_near(open, self.peer_limit) && self.told.insert(Some(key)) {
            return Some(Near::Peer(key, open, self.peer_limit));
        }
        None
    }

    /// Counts the peer in; [`Gate::leave`] counts it out.
    pub(crate) fn enter(&mut self, peer: &Peer, destination: Destination) -> Result<(), Refusal> {
        self.check_machine(peer, destination)?;
        if self.is_foreign(peer, destination.tcp()) {
            return Err(Refusal::Foreign);
        }
        if self.total >= self.limit {
            return Err(Refusal::Full(self.limit));
        }
        let key = PeerKey::new(peer);
        let count = self.open.entry(key).or_insert(0);
        if *count >= self.peer_limit {
            return Err(match key {
                PeerKey::Unknown => Refusal::UnknownFull(self.peer_limit),
                _ => Refusal::PeerFull(self.peer_limit),
            });
        }
        *count += 1;
        self.total += 1;
        Ok(())
    }

    /// Counts a peer in that was let in by the process before this one.
    pub(crate) fn enter_again(&mut self, peer: &Peer) {
        *self.open.entry(PeerKey::new(peer)).or_insert(0) += 1;
        self.total += 1;
    }

    /// Returns who is in, and how often; whoever is there most comes first.
    pub(crate) fn peers(&self) -> Vec<(PeerKey, usize)> {
        let mut peers: Vec<_> = self
            .open
            .iter()
            .map(|(key, count)| (*key, *count))
            .collect();
        peers.sort_unstable_by_key(|&(key, count)| (std::cmp::Reverse(count), key));
        peers
    }

    /// Counts the peer out.
    pub(crate) fn leave(&mut self, peer: &Peer) {
        let key = PeerKey::new(peer);
        if let Some(count) = self.open.get_mut(&key) {
            *count -= 1;
            self.total -= 1;
            if *count * 2 < self.peer_limit {
                self.told.remove(&Some(key));
            }
            if self.total * 2 < self.limit {
                self.told.remove(&None);
            }
            if *count == 0 {
                self.open.remove(&key);
            }
        }
    }

    fn check_machine(&self, peer: &Peer, destination: Destination) -> Result<(), Refusal> {
        let Peer::Vsock(addr) = peer else {
            return Ok(());
        };
        let cid = addr.cid.ok_or(Refusal::NoMachine)?;
        match destination.is_own(cid) {
            true if self.allowed.contains_local() => Ok(()),
            true => Err(Refusal::Local(self.allowed.list().clone())),
            false if self.allowed.contains(cid) => Ok(()),
            false => Err(Refusal::Cid),
        }
    }

    /// The local route is valid on every interface, so a neighbour who routes the prefix here would get in.
    fn is_foreign(&self, peer: &Peer, destination: Option<SocketAddr>) -> bool {
        let (Some(prefix), Peer::Tcp(from, _), Some(to)) = (self.prefix, peer, destination) else {
            return false;
        };
        let is_ours = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if prefix.contains(ip));
        is_ours(to.ip()) && !is_ours(*from) && !from.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allow_list::AllowList;
    use crate::known::Known;
    use crate::vsock::{Cid, VsockAddr};

    fn guest(number: u32) -> Peer {
        Peer::Vsock(VsockAddr {
            cid: Cid::new(number),
            port: 1000u16.into(),
        })
    }

    fn gate(allowed: &str, limit: usize, peer_limit: usize) -> Gate {
        let allowed: AllowList = allowed.parse().unwrap();
        Gate::new(
            allowed.resolve(&Known::now(None)).unwrap(),
            limit,
            peer_limit,
            Some("fd00:1::/64".parse().unwrap()),
        )
    }

    /// As which CID a peer has reached this machine.
    fn reached(cid: Option<Cid>) -> Destination {
        Destination::Vsock(VsockAddr {
            cid,
            port: 445u16.into(),
        })
    }

    #[test]
    fn only_allowed_cids_come_in() {
        let mut gate = gate("3,100-200", 100, 100);
        assert!(gate.enter(&guest(3), Destination::Unnamed).is_ok());
        assert_eq!(
            gate.enter(&guest(4), Destination::Unnamed),
            Err(Refusal::Cid)
        );
    }

    #[test]
    fn this_machine_itself_comes_in_only_where_it_is_named() {
        let host = Some(Cid::HOST);
        for (list, number, own, result) in [
            ("any", 1, host, Err("any,local")),
            ("any", 1, None, Err("any,local")),
            ("any", 2, host, Err("any,local")),
            ("any", 3, Cid::new(3), Err("any,local")),
            ("3", 3, Cid::new(3), Err("3,local")),
            ("1-9", 1, host, Err("1-9,local")),
            ("any,local", 1, host, Ok(())),
            ("local", 3, Cid::new(3), Ok(())),
            // A guest whose host is a guest with the same CID.
            ("any", 3, host, Ok(())),
            ("any", 2, Cid::new(3), Ok(())),
            // A transport that does not tell.
            ("any", 2, None, Ok(())),
        ] {
            let result = result.map_err(|list: &str| {
                format!(
                    "this machine itself is not in --allow-cid; VSOCK_BRIDGE_ALLOW_CID={list} lets it in"
                )
            });
            let entered = gate(list, 9, 9).enter(&guest(number), reached(own));
            let entered = entered.map_err(|refusal| refusal.to_string());
            assert_eq!(entered, result, "{list}: {number} to {own:?}");
        }
        let stranger = gate("local", 9, 9).enter(&guest(4), reached(host));
        assert_eq!(stranger, Err(Refusal::Cid));
    }

    #[test]
    fn a_vsock_peer_whose_cid_names_no_machine_comes_in_nowhere() {
        for list in ["any", "any,local", "3", "1-4294967294"] {
            let entered = gate(list, 9, 9).enter(&guest(0), reached(Some(Cid::HOST)));
            assert_eq!(entered, Err(Refusal::NoMachine), "{list}");
        }
    }

    #[test]
    fn a_peer_at_its_limit_leaves_room_for_others_and_comes_back_after_leaving() {
        let mut gate = gate("any", 3, 2);
        gate.enter(&guest(3), Destination::Unnamed).unwrap();
        gate.enter(&guest(3), Destination::Unnamed).unwrap();
        assert_eq!(
            gate.enter(&guest(3), Destination::Unnamed),
            Err(Refusal::PeerFull(2))
        );
        gate.enter(&guest(4), Destination::Unnamed).unwrap();
        assert_eq!(
            gate.enter(&guest(5), Destination::Unnamed),
            Err(Refusal::Full(3))
        );
        gate.leave(&guest(3));
        assert!(gate.enter(&guest(3), Destination::Unnamed).is_ok());
    }

    #[test]
    fn the_prefix_is_for_this_machine_alone() {
        let mut gate = gate("any", 10, 10);
        let mut enter = |from: &str, to: &str| {
            let to = Destination::Tcp(to.parse().unwrap());
            gate.enter(&Peer::Tcp(from.parse().unwrap(), 5), to)
        };
        assert_eq!(
            enter("2001:db8::1", "[fd00:1::2]:445"),
            Err(Refusal::Foreign)
        );
        assert!(enter("fd00:1::3", "[fd00:1::2]:445").is_ok());
        assert!(enter("::1", "[fd00:1::2]:445").is_ok());
        assert!(enter("2001:db8::1", "[2001:db8::2]:445").is_ok());
    }

    #[test]
    fn a_limit_that_is_near_is_told_once_until_half_of_it_is_free() {
        let mut gate = gate("any", 20, 10);
        let mut told = Vec::new();
        let mut come = |gate: &mut Gate, number: u32| {
            gate.enter(&guest(number), Destination::Unnamed).unwrap();
            told.extend(gate.near(&guest(number)).map(|near| near.to_string()));
        };
        (0..9).for_each(|_| come(&mut gate, 3));
        (0..7).for_each(|_| come(&mut gate, 4));
        (0..5).for_each(|_| gate.leave(&guest(3)));
        (0..4).for_each(|_| come(&mut gate, 3));
        let words = [
            "8 connections of CID 3 are open, of 10",
            "16 connections are open, of 20",
        ];
        let again = "8 connections of CID 3 are open, of 10";
        assert!(
            told[0].starts_with(words[0]) && told[1].starts_with(words[1]),
            "{told:?}"
        );
        assert!(told[2].starts_with(again) && told.len() == 3, "{told:?}");
    }
}
