//! Names of machines: `host.vsock`, `3.vsock`, and those that the administrator gives.
//!
//! No I/O but reading the configuration file.

use std::path::Path;

use crate::config_file;
use crate::error::{Error, Result};
use crate::prefix::CONFIG_PATH;
use crate::vsock::Cid;

/// The variable with names of machines, such as `web=3 db=4`.
pub const VARIABLE: &str = "VSOCK_BRIDGE_NAMES";
/// Ends every name of a machine.
pub const SUFFIX: &str = ".vsock";

/// Names in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<(String, Cid)>);

impl Names {
    /// Reads the names from the configuration file.
    ///
    /// Errors: [`Error::Config`] with the line that says nothing valid.
    pub fn read() -> Result<Names> {
        let path = Path::new(CONFIG_PATH);
        let settings = config_file::read(path)?;
        let Some(setting) = settings
            .into_iter()
            .rev()
            .find(|setting| setting.name == VARIABLE)
        else {
            return Ok(Names::default());
        };
        Names::parse(&setting.value).map_err(|error| Error::Config {
            path: path.to_owned(),
            line: setting.line,
            problem: error.to_string(),
        })
    }

    /// Reads `NAME=CID` pairs separated by white space.
    pub fn parse(text: &str) -> Result<Names> {
        let pair = |item: &str| {
            let fail =
                || Error::invalid("name of a machine", item, "expected NAME=CID, e.g. web=3");
            let (name, cid) = item.split_once('=').ok_or_else(fail)?;
            let is_label = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            let is_name = (1..=63).contains(&name.len())
                && name.bytes().all(is_label)
                && !name.starts_with('-');
            // A name of digits would hide a CID.
            if !is_name || name.bytes().all(|b| b.is_ascii_digit()) {
                return Err(fail());
            }
            Ok((name.to_ascii_lowercase(), cid.parse()?))
        };
        text.split_whitespace()
            .map(pair)
            .collect::<Result<_>>()
            .map(Names)
    }

    /// Gives all names with their machines.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Cid)> {
        self.0.iter().map(|(name, cid)| (name.as_str(), *cid))
    }

    /// Finds a machine by a CID, a name of the grammar or a given name, each with or without `.vsock`.
    ///
    /// Errors: [`Error::Invalid`] when it is none of them.
    pub fn cid(&self, text: &str) -> Result<Cid> {
        let name = text.strip_suffix(SUFFIX).unwrap_or(text);
        let given = self
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name));
        match given {
            Some((_, cid)) => Ok(cid),
            None => name.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_machines_with_and_without_suffix() {
        let names = Names::parse("web=3  DB=4").unwrap();
        for (text, number) in [
            ("web", 3),
            ("web.vsock", 3),
            ("Web", 3),
            ("db", 4),
            ("host.vsock", 2),
            ("7", 7),
            ("7.vsock", 7),
        ] {
            assert_eq!(names.cid(text).unwrap().number(), number, "{text}");
        }
        assert!(names.cid("mail").is_err());
    }

    #[test]
    fn pairs_that_name_no_machine_are_refused() {
        for text in [
            "web", "web=", "=3", "web=0", "web=x", "3=4", "we_b=3", "-a=3", "a b=3",
        ] {
            assert!(Names::parse(text).is_err(), "{text:?}");
        }
    }
}
