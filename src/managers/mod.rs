//! Machines by the names under which others manage them: systemd-machined and libvirt know the CID of each.
//!
//! They are asked when somebody connects, within a time limit, and what they say is checked: nothing here trusts a tool
//! that it found in PATH to answer, to end, or to be the one that was meant.

mod libvirt;
mod machined;
mod tool;

use std::time::Duration;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::vsock::{Cid, decimal};

/// Longer than any name that one of them allows.
const NAME_MAX: usize = 255;

/// Who manages a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// systemd-machined(8): `machine/NAME`.
    Machined,
    /// libvirt: `libvirt/NAME`.
    Libvirt,
}

impl Manager {
    /// Reads the word before the slash.
    pub fn of(word: &str) -> Option<Manager> {
        match word {
            "machine" => Some(Manager::Machined),
            "libvirt" => Some(Manager::Libvirt),
            _ => None,
        }
    }

    /// Asks which CID the machine has; blocks for `limit` at the most.
    ///
    /// Errors: [`Error::Invalid`] for what cannot be a name; [`Error::Lookup`].
    pub fn cid(self, name: &str, limit: Duration) -> Result<Cid> {
        let (word, asked) = match self {
            Manager::Machined => ("machine", machined::cid as Ask),
            Manager::Libvirt => ("libvirt", libvirt::cid as Ask),
        };
        let host = format!("{word}/{name}");
        let is_name = !name.starts_with('-')
            && (1..=NAME_MAX).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c.is_control());
        if !is_name {
            let hint = "expected the name of a machine behind the slash";
            return Err(Error::invalid("host", &host, hint));
        }
        asked(name, Moment::now() + limit).map_err(|problem| Error::Lookup { host, problem })
    }
}

type Ask = fn(&str, Moment) -> Result<Cid, String>;

/// Takes the CID that was found; `text` is what stands for it in an answer of `who`.
fn one_cid<'a>(who: &str, texts: impl IntoIterator<Item = &'a str>) -> Result<Cid, String> {
    let mut texts: Vec<&str> = texts.into_iter().collect();
    texts.dedup();
    match texts[..] {
        [] => Err("it has no vsock".to_owned()),
        [text] => decimal(text)
            .and_then(Cid::new)
            .ok_or_else(|| format!("{who} said \"{}\", which is no CID", shown(text))),
        _ => Err(format!("it has several CIDs: {}", shown(&texts.join(", ")))),
    }
}

/// Makes what a tool said fit into a line.
fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    let line = text.trim().lines().next().unwrap_or_default();
    let line: String = line.chars().take(SHOWN_MAX).collect();
    line.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_taken_and_two_are_not() {
        assert_eq!(one_cid("x", ["7", "7"]), Ok(Cid::new(7).unwrap()));
        for texts in [
            &[][..],
            &["3", "4"],
            &[""],
            &["0"],
            &["4294967295"],
            &["3 "],
            &["3\n"],
            &["host"],
        ] {
            assert!(one_cid("x", texts.iter().copied()).is_err(), "{texts:?}");
        }
    }

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(shown("a\x1b[1mb\nc"), "a\\u{1b}[1mb");
        assert_eq!(shown(&"x".repeat(1000)).len(), 200);
    }
}
