//! One place of a rule: machines, addresses or names of a resolver, and the ports there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::asked;
use crate::endpoint::Endpoint;
use crate::invalid::{Invalid, is_nearly};
use crate::known::Known;
use crate::location::Location;
use crate::names::{Machine, SUFFIX};
use crate::unusable::Unusable;
use crate::vsock::{Cid, VsockAddr, VsockPort, decimal};

/// The word at the end of a rule whose machines see who comes.
pub(super) const AS_PEER: &str = "as-peer";

/// The first CID of another machine.
const FIRST_GUEST: u32 = 3;

/// A place and its ports, as written; a machine's name is looked up before it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Goal {
    place: Place,
    ports: Box<[RangeInclusive<u16>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// `db`, `4`, `db.vsock`
    Machine(Machine),
    /// The same, looked up
    At(Location),
    /// `100-200`, `*.vsock`
    Machines(RangeInclusive<Cid>),
    /// `10.1.0.0/16`, `192.0.2.7`, `[2001:db8::/32]`
    Network(IpAddr, u8),
    /// `mirror.example.net`
    Name(String),
    /// `*.example.org`, without the star
    Below(String),
}

/// Where a place of a rule is, one of its ports and machines standing for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads<'a> {
    /// There, as it would be connected to.
    To(Endpoint),
    /// To addresses with so many bits in common.
    Into(IpAddr, u8),
    /// Wherever a resolver says, for this name or those below it.
    Named(&'a str),
}

impl Goal {
    /// Reads `PLACE:PORTS`.
    ///
    /// Errors: one line that says what is wrong and what to write.
    pub(super) fn read(word: &str) -> Result<Goal, String> {
        let fail = |hint: String| Invalid::new("destination", word, hint).to_string();
        if let Some(form) = other_form(word) {
            return Err(fail(format!("write {form}")));
        }
        let parts = word
            .rsplit_once(':')
            .filter(|(_, ports)| !ports.ends_with(']'));
        let Some((place, ports)) = parts else {
            return Err(fail(match read_place(word) {
                _ if is_nearly(word, AS_PEER) => {
                    format!("did you mean {AS_PEER}? A place has ports: {word}:PORT")
                }
                Ok(_) => {
                    format!("the port is missing: write {word}:PORT, or {word}:* for every port")
                }
                Err(problem) => problem,
            }));
        };
        let wrong_ports = || fail("expected ports such as 443, 80,443, 8000-8100 or *".to_owned());
        let ports = read_ports(ports).ok_or_else(wrong_ports)?;
        let place = read_place(place).map_err(fail)?;
        Ok(Goal { place, ports })
    }

    /// Returns whether it is a machine that is not the host, or may be one.
    pub(super) fn may_be_another_machine(&self) -> bool {
        match &self.place {
            Place::Machine(Machine::Cid(cid)) => *cid > Cid::HOST,
            Place::Machine(Machine::Name(_)) | Place::At(_) | Place::Machines(_) => true,
            Place::Network(..) | Place::Name(_) | Place::Below(_) => false,
        }
    }

    /// Returns where it leads; none for a name that nobody has looked up.
    pub(super) fn leads(&self) -> Option<Leads<'_>> {
        let port = *self.ports.first()?.start();
        let machine = |cid| VsockAddr {
            cid: Some(cid),
            port: port.into(),
        };
        Some(match &self.place {
            Place::Machine(_) => return None,
            Place::At(Location::Cid(Cid::HOST)) => {
                Leads::To(Endpoint::Tcp((Ipv6Addr::LOCALHOST, port).into()))
            }
            Place::At(Location::Cid(cid)) => Leads::To(Endpoint::Vsock(machine(*cid))),
            Place::At(Location::Hybrid(path)) => Leads::To(Endpoint::Mux {
                path: path.clone(),
                port: port.into(),
            }),
            Place::Machines(range) => Leads::To(Endpoint::Vsock(machine(*range.start()))),
            Place::Network(ip, bits) => Leads::Into(*ip, *bits),
            Place::Name(name) | Place::Below(name) => Leads::Named(name),
        })
    }

    /// Looks the name of a machine up.
    pub(super) fn resolve(self, names: &Known<'_>) -> Result<Goal, Unusable> {
        let place = match self.place {
            Place::Machine(machine) => Place::At(names.location(&machine)?),
            other => other,
        };
        Ok(Goal { place, ..self })
    }

    /// Returns whether that is a place of it.
    pub(super) fn has(&self, asked: &Endpoint) -> bool {
        match asked {
            Endpoint::Tcp(addr) => self.has_address(addr.ip(), addr.port()),
            Endpoint::TcpName { name, port } => self.has_name(name, *port),
            Endpoint::Vsock(VsockAddr {
                cid: Some(cid),
                port,
            }) => self.has_machine(&Location::Cid(*cid), *port),
            Endpoint::Mux { path, port } => {
                self.has_machine(&Location::Hybrid(path.clone()), *port)
            }
            _ => false,
        }
    }

    pub(super) fn has_hybrid(&self, port: VsockPort) -> bool {
        matches!(self.place, Place::At(Location::Hybrid(_))) && self.has_vsock_port(port)
    }

    fn has_machine(&self, location: &Location, port: VsockPort) -> bool {
        let is_it = match (&self.place, location) {
            (Place::At(own), location) => own == location,
            (Place::Machines(range), Location::Cid(cid)) => range.contains(cid),
            _ => false,
        };
        is_it && self.has_vsock_port(port)
    }

    fn has_vsock_port(&self, port: VsockPort) -> bool {
        u16::try_from(port.number()).is_ok_and(|port| self.has_port(port))
    }

    pub(super) fn has_address(&self, ip: IpAddr, port: u16) -> bool {
        matches!(&self.place, Place::Network(network, bits) if first_of(ip, *bits) == first_of(*network, *bits))
            && self.has_port(port)
    }

    /// Returns whether a name, in lower case and without a dot at its end, is meant.
    fn has_name(&self, name: &str, port: u16) -> bool {
        let is_it = match &self.place {
            Place::Name(own) => own == name,
            Place::Below(own) => (name.strip_suffix(&**own))
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            _ => false,
        };
        is_it && self.has_port(port)
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }
}

/// Says how to write what has the form of something else.
fn other_form(word: &str) -> Option<String> {
    if let Some((scheme, rest)) = word.split_once("://") {
        return Some(of_url(scheme, rest));
    }
    let (scheme, rest) = word.split_once(':')?;
    match scheme {
        "vsock" | "tcp" if rest.contains(':') => Some(rest.to_owned()),
        "*" | "any" | "all" => Some(format!(
            "*.vsock:{rest} for every machine, or name the hosts"
        )),
        _ => {
            // [2001:db8::]/32:22
            let (address, rest) = word.strip_prefix('[')?.split_once("]/")?;
            let bits = rest.split(':').next()?;
            Some(format!("[{address}/{bits}]:PORT"))
        }
    }
}

/// Returns host and port of a URL.
fn of_url(scheme: &str, rest: &str) -> String {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_port = (host.rsplit_once(':')).is_some_and(|(_, port)| !port.contains(']'));
    let port = match scheme.to_ascii_lowercase().as_str() {
        _ if has_port => return host.to_owned(),
        "http" | "ws" => "80",
        "https" | "wss" => "443",
        "ssh" | "sftp" | "git+ssh" => "22",
        "git" => "9418",
        "ldap" => "389",
        "mysql" => "3306",
        "postgres" | "postgresql" => "5432",
        "redis" => "6379",
        _ => "PORT",
    };
    format!("{host}:{port}")
}

fn read_ports(text: &str) -> Option<Box<[RangeInclusive<u16>]>> {
    if text == "*" {
        return Some([1..=u16::MAX].into());
    }
    let port = |text: &str| decimal::<u16>(text).filter(|&port| port != 0);
    let range = |item: &str| match item.split_once('-') {
        None => port(item).map(|port| port..=port),
        Some((first, last)) => {
            let range = port(first)?..=port(last)?;
            (!range.is_empty()).then_some(range)
        }
    };
    text.split(',').map(range).collect()
}

fn read_place(text: &str) -> Result<Place, String> {
    if text.contains('%') {
        return Err("zone ids are not supported".to_owned());
    }
    if let Some(inside) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return read_network(inside);
    }
    let address = text.split('/').next().unwrap_or_default();
    if text.starts_with("udp:") {
        return Err("UDP does not go through; it is TCP that a rule allows".to_owned());
    }
    if text.matches(':').count() == 1 {
        return Err("a place has one colon, before its ports, as in db:80,443".to_owned());
    }
    if text.contains(':') {
        return Err("write the IPv6 address in brackets, e.g. [2001:db8::/32]:443".to_owned());
    }
    if address.parse::<Ipv4Addr>().is_ok() {
        return read_network(text);
    }
    if ["*", "any", "all"].contains(&text) {
        return Err("every machine is *.vsock:PORT, and hosts are named".to_owned());
    }
    if text.contains('*') {
        return read_wildcard(text);
    }
    // With a dot behind it is what the resolver knows, and leads to what a rule names as an address.
    if text == "localhost" {
        return Err("services of this machine are written host:PORT".to_owned());
    }
    if let Some((Some(first), Some(last))) = (text.split_once('-'))
        .map(|(first, last)| (decimal::<u32>(first), decimal::<u32>(last)))
        .filter(|(first, last)| first <= last)
    {
        return machines(first, last);
    }
    read_name(text)
}

fn machines(first: u32, last: u32) -> Result<Place, String> {
    match (Cid::new(first), Cid::new(last)) {
        (Some(first), Some(last)) if first.number() >= FIRST_GUEST => {
            Ok(Place::Machines(first..=last))
        }
        _ => Err(
            "machines have CIDs from 3 to 4294967294; the host is named by itself, host:PORT"
                .to_owned(),
        ),
    }
}

fn read_wildcard(text: &str) -> Result<Place, String> {
    let Some(below) = text.strip_prefix("*.").filter(|rest| !rest.contains('*')) else {
        return Err("a * stands for whole labels at the front, as in *.example.org".to_owned());
    };
    let below = below
        .strip_suffix('.')
        .unwrap_or(below)
        .to_ascii_lowercase();
    if format!(".{below}") == SUFFIX {
        return machines(FIRST_GUEST, u32::MAX - 1);
    }
    if format!(".{below}").ends_with(SUFFIX) {
        return Err("a machine is one name: write *.vsock for all of them".to_owned());
    }
    match below.contains('.') {
        true => is_resolvers(&below).map(|()| Place::Below(below)),
        false => Err("a * needs two labels behind it, as in *.example.org".to_owned()),
    }
}

/// A name with a dot is a resolver's, one without is a machine's.
fn read_name(text: &str) -> Result<Place, String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    if !lower.contains('.') || name.ends_with(SUFFIX) {
        return match name.parse::<Machine>() {
            Ok(Machine::Cid(Cid::LOCAL)) => Err("this machine is written host:PORT".to_owned()),
            Ok(machine) => Ok(Place::Machine(machine)),
            Err(_) => Err(NEITHER.to_owned()),
        };
    }
    is_resolvers(name).map(|()| Place::Name(name.to_owned()))
}

const NEITHER: &str = "neither a machine nor an address nor the name of a host; expected e.g. db:5432, 4:22, 10.1.0.0/16:*, \
     mirror.example.net:443 or *.example.org:443";

fn is_resolvers(name: &str) -> Result<(), String> {
    match name.is_ascii() {
        true if asked::is_name(name) => Ok(()),
        true => Err(NEITHER.to_owned()),
        false => Err("a name outside ASCII is written in its xn-- form".to_owned()),
    }
}

fn read_network(text: &str) -> Result<Place, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(NEITHER.to_owned());
    };
    if ip.to_canonical() != ip {
        return Err(format!("write {} for an IPv4 address", ip.to_canonical()));
    }
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) => (decimal::<u8>(bits).filter(|&bits| bits <= most))
            .ok_or_else(|| format!("the length of a network is 0 to {most}"))?,
    };
    let first = first_of(ip, bits);
    match (first == ip, first) {
        (true, _) => Ok(Place::Network(ip, bits)),
        (false, IpAddr::V4(first)) => Err(format!("did you mean {first}/{bits}?")),
        (false, IpAddr::V6(first)) => Err(format!("did you mean [{first}/{bits}]?")),
    }
}

/// Returns the first address of the network of that length.
fn first_of(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(bits))
                .unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}
