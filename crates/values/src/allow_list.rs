//! The machines that may connect: the list as it is written, and the CIDs that it comes to.
//!
//! `any` is every other machine. This machine itself, as which any local user may come where vsock loopback is loaded,
//! is in no list that does not name it.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use crate::invalid::Invalid;
use crate::known::Known;
use crate::names::Machine;
use crate::unusable::Unusable;
use crate::vsock::{Cid, decimal};

/// `--allow-cid` as an environment variable.
pub const VARIABLE: &str = "VSOCK_BRIDGE_ALLOW_CID";
/// What the list is where none is given.
pub const DEFAULT: &str = "any";

/// `--allow-cid` as written, with names not looked up.
///
/// Text form: `any`, or a list such as `3,7,100-200,host,local,web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowList {
    text: Arc<str>,
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Any,
    Range(RangeInclusive<Cid>),
    Machine(Machine),
}

impl AllowList {
    /// Returns it as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the names in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.items.iter().filter_map(|item| match item {
            Item::Machine(Machine::Name(name)) => Some(&**name),
            _ => None,
        })
    }

    /// Looks the names up.
    ///
    /// Errors: those of [`Known::cid`].
    pub fn resolve(&self, names: &Known<'_>) -> Result<AllowedCids, Unusable> {
        let (allowed, unknown) = self.resolve_known(names);
        match unknown.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(allowed),
        }
    }

    /// As [`AllowList::resolve_known`] for machines that are not there now, which is no error.
    ///
    /// Errors: those of [`Known::cid`] but an absence.
    pub fn resolve_present(
        &self,
        names: &Known<'_>,
    ) -> Result<(AllowedCids, Vec<Unusable>), Unusable> {
        let (allowed, mut unknown) = self.resolve_known(names);
        match unknown.iter().position(|problem| !problem.is_absence()) {
            Some(index) => Err(unknown.swap_remove(index)),
            None => Ok((allowed, unknown)),
        }
    }

    /// Looks the names up, and leaves those out that lead to no machine; gives why.
    pub fn resolve_known(&self, names: &Known<'_>) -> (AllowedCids, Vec<Unusable>) {
        let mut unknown = Vec::new();
        let mut allowed = AllowedCids {
            list: self.text.clone(),
            is_any: false,
            ranges: Vec::with_capacity(self.items.len()),
            has_local: false,
        };
        for item in &self.items {
            match item {
                Item::Any => allowed.is_any = true,
                Item::Range(range) => allowed.ranges.push(range.clone()),
                Item::Machine(machine) => match names.cid(machine) {
                    Ok(Cid::LOCAL) => allowed.has_local = true,
                    Ok(cid) => allowed.ranges.push(cid..=cid),
                    Err(problem) => unknown.push(problem),
                },
            }
        }
        (allowed, unknown)
    }
}

impl FromStr for AllowList {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<AllowList, Invalid> {
        let item = |item: &str| {
            read_item(item).ok_or_else(|| {
                let hint = format!(
                    "{item:?} is neither a machine nor a range of CIDs; expected e.g. 3,7,100-200,host,web, any or any,local"
                );
                Invalid::new("list of machines", text, hint)
            })
        };
        Ok(AllowList {
            items: text.split(',').map(item).collect::<Result<_, Invalid>>()?,
            text: text.into(),
        })
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
pub struct AllowedCids {
    list: Arc<str>,
    is_any: bool,
    ranges: Vec<RangeInclusive<Cid>>,
    has_local: bool,
}

impl AllowedCids {
    /// Returns the list with every other machine in it.
    pub fn any() -> AllowedCids {
        AllowedCids {
            list: DEFAULT.into(),
            is_any: true,
            ranges: Vec::new(),
            has_local: false,
        }
    }

    /// Returns whether another machine is among them.
    pub fn contains(&self, cid: Cid) -> bool {
        self.is_any || self.ranges.iter().any(|range| range.contains(&cid))
    }

    /// Returns whether this machine itself is: only by name, never by a range that CID 1 or its own CID is in.
    pub fn contains_local(&self) -> bool {
        self.has_local
    }

    /// Returns what is named in both lists, if anything is; `any` is a name, and not those that have others.
    pub fn common(&self, other: &AllowedCids) -> Option<String> {
        if self.is_any && other.is_any {
            return Some(DEFAULT.to_owned());
        }
        let local = (self.has_local && other.has_local).then_some(Cid::LOCAL);
        let first = |(one, other): (&RangeInclusive<Cid>, &RangeInclusive<Cid>)| {
            let start = *one.start().max(other.start());
            (start <= *one.end().min(other.end())).then_some(start)
        };
        let pairs = self
            .ranges
            .iter()
            .flat_map(|one| other.ranges.iter().map(move |other| (one, other)));
        let cid = local.or_else(|| pairs.filter_map(first).next())?;
        Some(cid.to_string())
    }

    /// Returns whether some machine is in both.
    pub fn meets(&self, other: &AllowedCids) -> bool {
        let has_any =
            |one: &AllowedCids, other: &AllowedCids| one.is_any && !other.ranges.is_empty();
        has_any(self, other) || has_any(other, self) || self.common(other).is_some()
    }

    /// Returns whether nobody is in it, since none of its machines is there now.
    pub fn is_nobody(&self) -> bool {
        !self.is_any && !self.has_local && self.ranges.is_empty()
    }

    /// Returns whether every other machine is in it.
    pub fn is_any(&self) -> bool {
        self.is_any
    }

    /// Returns the list as it was written.
    pub fn list(&self) -> &Arc<str> {
        &self.list
    }

    /// Returns it in words.
    pub fn described(&self) -> &str {
        match (self.is_any, self.has_local) {
            (true, false) => "every other machine",
            (true, true) => "every machine and this one itself",
            (false, _) => &self.list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::GivenNames;
    use crate::registry::Registry;

    /// Looks names up in those that are given, and nowhere else.
    fn resolve(list: &AllowList, given: &str) -> Result<AllowedCids, Unusable> {
        let (given, registry): (GivenNames, _) = (given.parse().unwrap(), Registry::default());
        list.resolve(&Known::with(Some(&given), &registry))
    }

    fn allows(list: &str, number: u32) -> bool {
        let list: AllowList = list.parse().unwrap();
        let allowed = resolve(&list, "web=5 host-9=6").unwrap();
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
    fn any_allows_every_other_machine() {
        assert!(allows("any", 99));
        assert!(allows("3,any", 99));
        assert!(allows("local,any", 99));
    }

    #[test]
    fn this_machine_itself_is_in_a_list_only_by_name() {
        for (list, has_local) in [
            ("any", false),
            ("any,local", true),
            ("local", true),
            ("3,1", true),
            ("Local.vsock,3", true),
            ("me", true),
            ("1-5", false),
            ("1-1", false),
            ("1-4294967294,host,web", false),
        ] {
            let allowed = list.parse::<AllowList>().unwrap();
            let allowed = resolve(&allowed, "web=5 me=1").unwrap();
            assert_eq!(allowed.contains_local(), has_local, "{list}");
            assert_eq!(&**allowed.list(), list);
        }
        assert!(!allows("local", 3));
    }

    #[test]
    fn a_list_is_told_in_words() {
        for (list, words) in [
            ("any", "every other machine"),
            ("3,any", "every other machine"),
            ("any,local", "every machine and this one itself"),
            ("3,web,local", "3,web,local"),
        ] {
            let allowed = list.parse::<AllowList>().unwrap();
            assert_eq!(resolve(&allowed, "web=5").unwrap().described(), words);
        }
    }

    #[test]
    fn a_name_with_a_hyphen_is_no_range() {
        assert!(allows("host-9", 6));
        assert!(!allows("host-9", 3));
    }

    #[test]
    fn a_name_that_nobody_has_is_an_error() {
        for list in ["3,nobody", "any,nobody"] {
            let list: AllowList = list.parse().unwrap();
            let error = resolve(&list, "").unwrap_err();
            assert!(matches!(error, Unusable::UnknownMachine { name, .. } if name == "nobody"));
            let (given, registry): (GivenNames, _) = ("".parse().unwrap(), Registry::default());
            let names = Known::with(Some(&given), &registry);
            let (allowed, absent) = list.resolve_present(&names).unwrap();
            let is_three = |number| allowed.contains(Cid::new(number).unwrap()) == (number == 3);
            assert!(allowed.is_any() || is_three(3) && is_three(4));
            assert_eq!((absent.len(), list.names().count()), (1, 1));
        }
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
