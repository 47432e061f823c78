//! Names of machines: `host.vsock`, `3.vsock`, and those that the administrator gives.
//!
//! A name stays a name until somebody needs the CID.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use crate::invalid::Invalid;
use crate::location::Location;
use crate::vsock::Cid;

/// The variable with names of machines, in the environment and in the configuration file.
pub const VARIABLE: &str = "VSOCK_BRIDGE_NAMES";
/// The folder of the registry: names that programs give to machines while those run.
pub const REGISTRY: &str = "/run/vsock-bridge/names.d";
/// Ends every name of a machine where names of other kinds may stand as well.
pub const SUFFIX: &str = ".vsock";
/// Words of the grammar, which no machine can have as its name.
const RESERVED: [&str; 4] = ["any", "host", "local", "mapped"];

/// A machine as it is written: `3`, `host`, `local` or a given name, each with or without `.vsock`, in any case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    /// By its CID.
    Cid(Cid),
    /// By a given name, in lower case and not looked up.
    Name(String),
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Machine::Cid(cid) => cid.fmt(f),
            Machine::Name(name) => name.fmt(f),
        }
    }
}

impl FromStr for Machine {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Machine, Invalid> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix(SUFFIX).unwrap_or(&lower);
        if let Ok(cid) = name.parse() {
            return Ok(Machine::Cid(cid));
        }
        if !is_name(name) {
            let hint = "expected a CID from 1 to 4294967294, `host`, `local` or a name";
            return Err(Invalid::new("machine", text, hint));
        }
        Ok(Machine::Name(name.to_owned()))
    }
}

/// Names with their machines in the order in which they were given.
///
/// Text form: `web=3 db=/run/db/guest.vsock`. A machine may have several names, a name has one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<(String, Location)>);

impl Names {
    /// Returns the CIDs that have names, each once, that of the host before all others even if it has none.
    pub fn machines(&self) -> Vec<Cid> {
        let mut machines = vec![Cid::HOST];
        for (_, location) in &self.0 {
            match location {
                Location::Cid(cid) if !machines.contains(cid) => machines.push(*cid),
                _ => {}
            }
        }
        machines
    }

    /// Returns all names of a machine with `.vsock`, the best one first: those given to it, `host` or `local`, its CID.
    pub fn of(&self, machine: Cid) -> Vec<String> {
        let machine_is_there = Location::Cid(machine);
        let given = (self.0.iter()).filter(|(_, location)| *location == machine_is_there);
        let word = match machine {
            Cid::HOST => Some("host"),
            Cid::LOCAL => Some("local"),
            _ => None,
        };
        given
            .map(|(name, _)| name.clone())
            .chain(word.map(str::to_owned))
            .chain([machine.to_string()])
            .map(|name| name + SUFFIX)
            .collect()
    }

    /// Returns the names that were given, in lower case and without `.vsock`, each with its machine.
    pub fn given(&self) -> impl Iterator<Item = (&str, &Location)> {
        self.0.iter().map(|(name, location)| (&**name, location))
    }

    /// Returns where the machine is that has the name, which is in lower case and without `.vsock`.
    pub fn location(&self, name: &str) -> Option<&Location> {
        let mut given = self.0.iter();
        given
            .find(|(given, _)| given == name)
            .map(|(_, location)| location)
    }
}

impl FromStr for Names {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Names, Invalid> {
        let mut names = Names::default();
        for item in text.split_whitespace() {
            let fail = |hint| Err(Invalid::new("name of a machine", item, hint));
            if item.contains(',') {
                return fail("names are separated by spaces, not commas, e.g. web=3 db=4");
            }
            let Some((name, machine)) = item.split_once('=') else {
                return fail("expected NAME=CID, e.g. web=3");
            };
            let name = name.to_ascii_lowercase();
            if !is_name(&name) {
                return fail(
                    "expected NAME=CID with a NAME of letters, digits and hyphens, at least one of them a letter, \
                     that is not any, host, local or mapped",
                );
            }
            if names.location(&name).is_some() {
                return fail("the name is given twice");
            }
            if !machine.starts_with('/') && machine.contains(['/', '@']) {
                return fail(
                    "expected NAME=CID, or NAME=PATH with the whole path of a socket of hybrid vsock",
                );
            }
            names.0.push((name, machine.parse()?));
        }
        Ok(names)
    }
}

/// Names as an option or a variable gives them: what is wrong with them is told to whoever looks a name up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenNames(Result<Names, Invalid>);

impl GivenNames {
    /// Returns the names, or what is wrong with the text.
    pub(crate) fn parsed(&self) -> Result<&Names, &Invalid> {
        self.0.as_ref()
    }
}

impl From<Names> for GivenNames {
    fn from(names: Names) -> GivenNames {
        GivenNames(Ok(names))
    }
}

impl FromStr for GivenNames {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<GivenNames, Infallible> {
        Ok(GivenNames(text.parse()))
    }
}

/// Returns whether it is a name, in lower case, that can be given to a machine.
///
/// Without a letter it could be a CID or a range of CIDs.
pub fn is_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_part)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !RESERVED.contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Names {
        text.parse().unwrap()
    }

    #[test]
    fn a_machine_is_found_in_every_form_and_case() {
        let names = names("web=3  DB=4 hy=/run/hy/guest.vsock me=local");
        for (text, number) in [
            ("host", 2),
            ("Host.VSOCK", 2),
            ("local.vsock", 1),
            ("7", 7),
            ("7.vsock", 7),
            ("web", 3),
            ("WEB.vsock", 3),
            ("db", 4),
            ("me", 1),
        ] {
            let location = match text.parse().unwrap() {
                Machine::Cid(cid) => Some(Location::Cid(cid)),
                Machine::Name(name) => names.location(&name).cloned(),
            };
            assert_eq!(location, Cid::new(number).map(Location::Cid), "{text}");
        }
        let hybrid = names.location("hy").unwrap();
        assert_eq!(hybrid.to_string(), "/run/hy/guest.vsock");
    }

    #[test]
    fn what_is_no_machine_is_refused() {
        for text in [
            "",
            ".vsock",
            "0",
            "+3",
            "03",
            "3-7",
            "3.example",
            "a b",
            "-a",
            "any",
            "Mapped",
            "a_b",
            "3.vsock.vsock",
            "4294967295",
            "web\n",
            "w\u{e9}b",
        ] {
            assert!(text.parse::<Machine>().is_err(), "{text:?}");
        }
        assert!("a".repeat(63).parse::<Machine>().is_ok());
        assert!("a".repeat(64).parse::<Machine>().is_err());
    }

    #[test]
    fn pairs_that_name_no_machine_are_refused() {
        for text in [
            "web",
            "web=",
            "=3",
            "web=0",
            "web=x",
            "web=/",
            "web=run/web/guest.vsock",
            "web=@web",
            "3=4",
            "3-7=4",
            "we_b=3",
            "-a=3",
            "a b=3",
            "host=3",
            "Local=3",
            "any=3",
            "mapped=3",
            "web=3 web=4",
            "web=3 WEB=3",
            "web=3,db=4",
        ] {
            assert!(text.parse::<Names>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_best_name_of_a_machine_comes_first() {
        let names = names("web=3 hyper=2 www=3 hy=/run/hy/guest.vsock");
        for (number, all) in [
            (1, "local.vsock 1.vsock"),
            (2, "hyper.vsock host.vsock 2.vsock"),
            (3, "web.vsock www.vsock 3.vsock"),
            (4, "4.vsock"),
        ] {
            assert_eq!(names.of(Cid::new(number).unwrap()).join(" "), all);
        }
        let numbers: Vec<_> = names.machines().iter().map(|cid| cid.number()).collect();
        assert_eq!(numbers, [2, 3]);
    }
}
