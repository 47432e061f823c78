//! Where connections go, as it is written: one place for all of them, or one for each machine.

use std::fmt;
use std::str::FromStr;

use crate::allow_list::AllowList;
use crate::endpoint::Endpoint;
use crate::invalid::Invalid;

/// `--to` as written, with nothing looked up.
///
/// Text form: an address, or a list such as `3=/run/a.sock web=/run/b.sock 100-200=[::1]:80`. Before each `=` stands a list
/// of machines as in [`AllowList`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetList {
    /// One for everybody.
    Common(Endpoint),
    /// One for each of the machines that are named; there is at least one.
    Each(Vec<(AllowList, Endpoint)>),
}

impl TargetList {
    /// Returns each place once or more, in the order in which they were written.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let (common, each) = match self {
            TargetList::Common(endpoint) => (Some(endpoint), &[][..]),
            TargetList::Each(each) => (None, &each[..]),
        };
        common
            .into_iter()
            .chain(each.iter().map(|(_, endpoint)| endpoint))
    }
}

impl FromStr for TargetList {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<TargetList, Invalid> {
        if machines_of(text).is_none() {
            let common = text.parse().map(TargetList::Common);
            return common.map_err(|problem| with_colon(text).unwrap_or(problem));
        }
        let words = text.split_ascii_whitespace();
        words
            .map(read_item)
            .collect::<Result<_, _>>()
            .map(TargetList::Each)
    }
}

impl fmt::Display for TargetList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetList::Common(endpoint) => endpoint.fmt(f),
            TargetList::Each(each) => {
                each.iter()
                    .enumerate()
                    .try_for_each(|(index, (machines, to))| {
                        let space = if index > 0 { " " } else { "" };
                        write!(f, "{space}{}={to}", machines.text())
                    })
            }
        }
    }
}

/// Returns what stands before the first `=` if that can be machines: no address has such a beginning, since a path, an abstract
/// name and a scheme are told by `/`, `@` and `:`.
fn machines_of(text: &str) -> Option<(&str, &str)> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,".contains(&byte);
    let parts = text.trim_ascii_start().split_once('=')?;
    parts.0.bytes().all(is_part).then_some(parts)
}

/// Has the right form of `3:/run/a.sock`.
fn with_colon(text: &str) -> Option<Invalid> {
    let (machines, path) = text.split_once(":/")?;
    let is_number = |byte: u8| byte.is_ascii_digit() || b",-".contains(&byte);
    let form = format!("write {machines}=/{path}");
    let has_machines = !machines.is_empty() && machines.bytes().all(is_number);
    has_machines.then(|| Invalid::new("list of targets", text, form))
}

fn read_item(word: &str) -> Result<(AllowList, Endpoint), Invalid> {
    let fail = |hint: &str| Err(Invalid::new("list of targets", word, hint));
    const FORM: &str = "expected MACHINE=TARGET, e.g. 3=/run/a.sock web=[::1]:80";
    let Some((machines, target)) = machines_of(word) else {
        return fail(FORM);
    };
    if machines.is_empty() || target.is_empty() {
        return fail(FORM);
    }
    // Else the rest would be a part of a path.
    let is_next = |(at, _): (usize, &str)| {
        let rest = &target[at + 1..];
        rest.is_empty() || machines_of(rest).is_some()
    };
    if target.match_indices(',').any(is_next) {
        return fail("write a space, not a comma, between one target and the next");
    }
    Ok((machines.parse()?, target.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_targets_are_inverse() {
        for text in [
            "[::1]:445",
            "/run/a=b.sock",
            "/run/my file.sock",
            "@a=b",
            "vsock-mux:/run/a=b:22",
            "3=/run/a.sock",
            "3=/run/a.sock web=/run/b.sock 100-200=[::1]:80",
            "3,4,host=[::1]:mapped any=vsock:mapped",
            "local=/run/a=b.sock 3=vsock-mux:/run/vm.vsock:22",
        ] {
            assert_eq!(text.parse::<TargetList>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn any_space_separates_targets() {
        let list: TargetList = " 3=[::1]:80\t 4=[::1]:81 ".parse().unwrap();
        assert_eq!(list.to_string(), "3=[::1]:80 4=[::1]:81");
    }

    #[test]
    fn what_is_no_list_of_targets_is_refused_with_the_right_form() {
        for (text, hint) in [
            ("=", "expected MACHINE=TARGET"),
            ("3=", "expected MACHINE=TARGET"),
            ("=[::1]:80", "expected MACHINE=TARGET"),
            ("3=[::1]:80 [::1]:81", "expected MACHINE=TARGET"),
            ("3=[::1]:80 4", "expected MACHINE=TARGET"),
            ("3=/run/a.sock,4=/run/b.sock", "a space, not a comma"),
            ("3=/run/a.sock, 4=/run/b.sock", "a space, not a comma"),
            ("3:/run/a.sock", "write 3=/run/a.sock"),
            ("3=80", "a bare number"),
            ("3-2=[::1]:80", "3-2"),
            ("0=[::1]:80 ", "\"0\""),
            ("3 =[::1]:80", "\"3 =[::1]:80\""),
        ] {
            let problem = text.parse::<TargetList>().unwrap_err().to_string();
            assert!(problem.contains(hint), "{text}: {problem}");
        }
    }
}
