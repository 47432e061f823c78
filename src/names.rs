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
            if !is_name(name) {
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

    fn cid(&self, name: &str) -> Option<Cid> {
        self.iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, cid)| cid)
    }
}

/// Finds a machine by its CID, a name of the grammar, or a name in the configuration file, which is read only for the
/// last; each with or without `.vsock`.
///
/// Errors: [`Error::Invalid`] when it is none of them.
pub fn find(text: &str) -> Result<Cid> {
    let name = text.strip_suffix(SUFFIX).unwrap_or(text);
    match name.parse() {
        Ok(cid) => Ok(cid),
        Err(error) if is_name(name) => Names::read()?.cid(name).ok_or(error),
        Err(error) => Err(error),
    }
}

/// Tells whether it is a name that can be given to a machine; one of digits would hide a CID.
fn is_name(text: &str) -> bool {
    let is_label = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_label)
        && !text.starts_with('-')
        && !text.bytes().all(|b| b.is_ascii_digit())
        && !["host", "local"].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        let names = Names::parse("web=3  DB=4").unwrap();
        for (text, number) in [("web", 3), ("Web", 3), ("db", 4)] {
            assert_eq!(names.cid(text).unwrap().number(), number, "{text}");
        }
        assert_eq!(names.cid("mail"), None);
    }

    #[test]
    fn machines_are_found_with_and_without_suffix() {
        for (text, number) in [("host.vsock", 2), ("local", 1), ("7", 7), ("7.vsock", 7)] {
            assert_eq!(find(text).unwrap().number(), number, "{text}");
        }
        for text in ["", ".vsock", "0", "3.example", "a b", "-a"] {
            assert!(find(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn pairs_that_name_no_machine_are_refused() {
        for text in [
            "web", "web=", "host=3", "=3", "web=0", "web=x", "3=4", "we_b=3", "-a=3", "a b=3",
        ] {
            assert!(Names::parse(text).is_err(), "{text:?}");
        }
    }
}
