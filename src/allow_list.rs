//! The machines that may connect: the list as it is written, and the CIDs that it comes to.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::names::{Machine, Names};
use crate::vsock::{Cid, decimal};

/// `--allow-cid` as written, with names not looked up.
///
/// Text form: `any`, or a list such as `3,7,100-200,host,web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowList(Vec<Item>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Any,
    Range(RangeInclusive<Cid>),
    Machine(Machine),
}

impl AllowList {
    /// Looks the names up, in `given` or in the configuration file.
    ///
    /// Errors: those of [`Machine::cid`].
    pub fn resolve(&self, given: Option<&Names>) -> Result<AllowedCids> {
        let mut ranges = Vec::new();
        for item in &self.0 {
            match item {
                Item::Any => return Ok(AllowedCids::Any),
                Item::Range(range) => ranges.push(range.clone()),
                Item::Machine(machine) => {
                    let cid = machine.cid(given)?;
                    ranges.push(cid..=cid);
                }
            }
        }
        Ok(AllowedCids::Only(ranges))
    }
}

impl FromStr for AllowList {
    type Err = Error;

    fn from_str(text: &str) -> Result<AllowList> {
        let item = |item: &str| {
            read_item(item).ok_or_else(|| {
                let hint = format!(
                    "{item:?} is neither a machine nor a range of CIDs; expected e.g. 3,7,100-200,host,web or any"
                );
                Error::invalid("list of machines", text, hint)
            })
        };
        text.split(',')
            .map(item)
            .collect::<Result<_>>()
            .map(AllowList)
    }
}

/// Reads one item; between two numbers a hyphen makes a range, else it is a part of a name.
fn read_item(text: &str) -> Option<Item> {
    let bounds = text
        .split_once('-')
        .and_then(|(first, last)| Some((decimal::<u32>(first)?, decimal::<u32>(last)?)));
    match bounds {
        _ if text == "any" => Some(Item::Any),
        Some((first, last)) if first <= last => {
            Some(Item::Range(Cid::new(first)?..=Cid::new(last)?))
        }
        Some(_) => None,
        None => text.parse().ok().map(Item::Machine),
    }
}

/// The machines that may connect over vsock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedCids {
    /// Every machine.
    Any,
    /// Those in one of the ranges.
    Only(Vec<RangeInclusive<Cid>>),
}

impl AllowedCids {
    /// Tells whether the machine is among them.
    pub fn contains(&self, cid: Cid) -> bool {
        match self {
            AllowedCids::Any => true,
            AllowedCids::Only(ranges) => ranges.iter().any(|range| range.contains(&cid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &str, number: u32) -> bool {
        let list: AllowList = list.parse().unwrap();
        let names: Names = "web=5 host-9=6".parse().unwrap();
        let allowed = list.resolve(Some(&names)).unwrap();
        allowed.contains(Cid::new(number).unwrap())
    }

    #[test]
    fn only_listed_machines_are_allowed() {
        for (number, is_allowed) in [
            (1, false),
            (2, true),
            (3, true),
            (4, false),
            (5, true),
            (99, false),
            (100, true),
            (200, true),
            (201, false),
        ] {
            assert_eq!(
                allows("3,100-200,host,Web.vsock", number),
                is_allowed,
                "{number}"
            );
        }
    }

    #[test]
    fn any_allows_every_machine() {
        assert!(allows("any", 99));
        assert!(allows("3,any", 99));
    }

    #[test]
    fn a_name_with_a_hyphen_is_no_range() {
        assert!(allows("host-9", 6));
        assert!(!allows("host-9", 3));
    }

    #[test]
    fn a_name_that_nobody_has_is_an_error() {
        let list: AllowList = "3,nobody".parse().unwrap();
        let error = list.resolve(Some(&Names::default())).unwrap_err();
        assert!(matches!(error, Error::UnknownMachine { name } if name == "nobody"));
    }

    #[test]
    fn lists_that_mean_nothing_are_refused() {
        for text in [
            "",
            ",",
            "3,",
            "3-",
            "-3",
            "7-3",
            "1-2-3",
            "3 ,4",
            "3;4",
            "0",
            "0-3",
            "4294967295",
            "3-4294967295",
            "mapped",
            "any,0",
        ] {
            assert!(text.parse::<AllowList>().is_err(), "{text:?}");
        }
    }
}
