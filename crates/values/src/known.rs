//! Where the name of a machine is looked up: with the administrator first, then in the registry.
//!
//! Both are read when a name is needed, and not before: a CID needs neither.

use std::cell::OnceCell;
use std::path::Path;

use crate::endpoint::Endpoint;
use crate::location::Location;
use crate::names::{self, GivenNames, Machine, Names, SUFFIX};
use crate::registry::Registry;
use crate::unusable::Unusable;
use crate::vsock::{Cid, VsockAddr, VsockPort};

/// The names that hold at one moment.
#[derive(Debug)]
pub struct Known<'a> {
    /// Those of option or environment, in the place of those of the configuration file.
    given: Option<&'a GivenNames>,
    /// Those of the file, once one was looked up there.
    configured: OnceCell<Names>,
    registry: Source<'a>,
}

#[derive(Debug)]
enum Source<'a> {
    /// As somebody has read it.
    Held(&'a Registry),
    /// As it is when the first name is looked up there, and how it is read then.
    Now(OnceCell<Registry>, fn(&Path) -> Registry),
    /// Not at all.
    None,
}

impl<'a> Known<'a> {
    /// Looks up in what is on the disk now.
    pub fn now(given: Option<&'a GivenNames>) -> Known<'a> {
        Known::new(given, Source::Now(OnceCell::new(), Registry::read))
    }

    /// The same for whoever looks once, and may wait: for up to a second, see [`Registry::read_whole`].
    pub fn settled(given: Option<&'a GivenNames>) -> Known<'a> {
        Known::new(given, Source::Now(OnceCell::new(), Registry::read_whole))
    }

    /// Looks up in a registry that has been read.
    pub fn with(given: Option<&'a GivenNames>, registry: &'a Registry) -> Known<'a> {
        Known::new(given, Source::Held(registry))
    }

    /// Looks up with the administrator alone, whose names stay.
    pub fn lasting(&self) -> Known<'a> {
        Known::new(self.given, Source::None)
    }

    fn new(given: Option<&'a GivenNames>, registry: Source<'a>) -> Known<'a> {
        let configured = OnceCell::new();
        Known {
            given,
            configured,
            registry,
        }
    }

    fn registry(&self) -> Option<&Registry> {
        match &self.registry {
            Source::Held(registry) => Some(registry),
            Source::Now(registry, read) => {
                Some(registry.get_or_init(|| read(Path::new(names::REGISTRY))))
            }
            Source::None => None,
        }
    }

    /// Returns the names that the administrator gives.
    ///
    /// Errors: those of [`Names::read`] and [`GivenNames::names`].
    pub fn administrators(&self) -> Result<&Names, Unusable> {
        match (self.given, self.configured.get()) {
            (Some(given), _) => given.names(),
            (None, Some(names)) => Ok(names),
            (None, None) => {
                let names = Names::read()?;
                Ok(self.configured.get_or_init(|| names))
            }
        }
    }

    /// Returns where the machine is.
    ///
    /// Errors: [`Unusable::UnknownMachine`]; those of [`Known::administrators`].
    pub fn location(&self, machine: &Machine) -> Result<Location, Unusable> {
        let name = match machine {
            Machine::Cid(cid) => return Ok(Location::Cid(*cid)),
            Machine::Name(name) => name,
        };
        if let Some(found) = self.administrators()?.location(name) {
            return Ok(found.clone());
        }
        let registry = self.registry();
        let found = registry.and_then(|registry| registry.location(name));
        found.cloned().ok_or_else(|| {
            let problem = registry.and_then(|registry| registry.problem_of(name));
            let name = name.clone();
            Unusable::UnknownMachine { name, problem }
        })
    }

    /// Returns the CID of the machine.
    ///
    /// Errors: [`Unusable::NoCid`]; those of [`Known::location`].
    pub fn cid(&self, machine: &Machine) -> Result<Cid, Unusable> {
        match self.location(machine)? {
            Location::Cid(cid) => Ok(cid),
            Location::Hybrid(socket) => {
                let name = machine.to_string();
                Err(Unusable::NoCid { name, socket })
            }
        }
    }

    /// Returns where a port of the machine of that name is.
    ///
    /// Errors: those of [`Known::location`].
    pub fn endpoint(&self, name: &str, port: VsockPort) -> Result<Endpoint, Unusable> {
        Ok(match self.location(&Machine::Name(name.to_owned()))? {
            Location::Cid(cid) => {
                let cid = Some(cid);
                Endpoint::Vsock(VsockAddr { cid, port })
            }
            Location::Hybrid(path) => Endpoint::Mux { path, port },
        })
    }

    /// Returns all names of a machine with `.vsock`, the best one first: see [`Names::of`]; those of the registry follow the
    /// administrator's. Names of his that are not valid are none.
    pub fn names_of(&self, machine: Cid) -> Vec<String> {
        let none = Names::default();
        let administrators = self.administrators().unwrap_or(&none);
        let mut names = administrators.of(machine);
        let registered = self.registry().map(|registry| registry.sorted().0);
        let others = registered.into_iter().flatten().filter(|placed| {
            let entry = placed.entry;
            entry.location == Location::Cid(machine)
                && administrators.location(&entry.name).is_none()
        });
        let others = others.map(|placed| format!("{}{SUFFIX}", placed.entry.name));
        let given =
            (administrators.given()).filter(|(_, location)| **location == Location::Cid(machine));
        let given = given.count();
        names.splice(given..given, others);
        names
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A registry with one file.
    fn registry(text: &str) -> Registry {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.conf"), text).unwrap();
        Registry::read(folder.path())
    }

    #[test]
    fn the_administrators_name_holds_before_that_of_the_registry() {
        let registry = registry("web=5\nnew=6\nhy=/run/hy/guest.vsock\nwww=3\nfc=7\n");
        let given: GivenNames = "web=3 me=local fc=/run/fc/guest.vsock".parse().unwrap();
        let known = Known::with(Some(&given), &registry);
        let endpoint = |name| known.endpoint(name, 22_u16.into()).unwrap().to_string();
        for (name, place) in [
            ("web", "vsock:3:22"),
            ("me", "vsock:1:22"),
            ("new", "vsock:6:22"),
            ("hy", "vsock-mux:/run/hy/guest.vsock:22"),
            ("fc", "vsock-mux:/run/fc/guest.vsock:22"),
        ] {
            assert_eq!(endpoint(name), place);
        }
        let names_of = |number| known.names_of(Cid::new(number).unwrap()).join(" ");
        assert_eq!(names_of(3), "web.vsock www.vsock 3.vsock");
        assert_eq!(names_of(5), "5.vsock");
        assert_eq!(names_of(6), "new.vsock 6.vsock");
        assert_eq!(names_of(2), "host.vsock 2.vsock");
    }

    #[test]
    fn a_machine_without_cid_is_told_with_its_socket() {
        let registry = registry("hy=/run/hy/guest.vsock\n");
        let given: GivenNames = "".parse().unwrap();
        let known = Known::with(Some(&given), &registry);
        let line = known.cid(&"hy.vsock".parse().unwrap()).unwrap_err();
        let line = line.to_string();
        assert!(
            line.contains("\"hy\"") && line.contains("/run/hy/guest.vsock"),
            "{line}"
        );
    }

    #[test]
    fn an_unknown_name_is_told_where_to_give_it() {
        let given: GivenNames = "db=4".parse().unwrap();
        let half = registry("Web=3");
        let line = Known::with(Some(&given), &half).cid(&"web".parse().unwrap());
        let line = line.unwrap_err().to_string();
        assert!(
            line.starts_with("no machine is named \"web\": /")
                && line.contains("a.conf:1: \"Web=3\" is not a valid line: no newline ends it"),
            "{line}"
        );
        let registry = Registry::default();
        let known = Known::with(Some(&given), &registry);
        let line = known.cid(&"web".parse().unwrap()).unwrap_err().to_string();
        for words in [
            "\"web\"",
            crate::names::VARIABLE,
            crate::config_file::PATH,
            crate::names::REGISTRY,
        ] {
            assert!(line.contains(words), "{words}: {line}");
        }
    }

    #[test]
    fn names_that_are_wrong_are_told_to_whoever_needs_one() {
        let given: GivenNames = "web=0".parse().unwrap();
        let registry = registry("new=6\n");
        let known = Known::with(Some(&given), &registry);
        assert!(known.cid(&"3".parse().unwrap()).is_ok());
        assert!(matches!(
            known.cid(&"new".parse().unwrap()),
            Err(Unusable::Names { .. })
        ));
        assert_eq!(
            known.names_of(Cid::new(6).unwrap()),
            ["new.vsock", "6.vsock"]
        );
    }
}
