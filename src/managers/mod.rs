//! Machines by the names under which others manage them: systemd-machined and libvirt know the CID of each.
//!
//! They are asked when somebody connects or wants a list, within a time limit, and what they say is checked: nothing here trusts a tool
//! that it found in PATH to answer, to end, or to be the one that was meant.

mod answer;
mod libvirt;
mod machinectl;
mod machined;

use std::fmt;
use std::path::Path;
use std::time::Duration;

pub(crate) use answer::{Answer, Managed};

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::vsock::Cid;

/// Longer than any name that one of them allows.
const NAME_MAX: usize = 255;

/// Who manages a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// systemd-machined(8): `machine/NAME`.
    Machined,
    /// libvirt: `libvirt/NAME`.
    Libvirt,
}

impl Manager {
    /// Reads the word before the slash.
    pub(crate) fn of(word: &str) -> Option<Manager> {
        match word {
            "machine" => Some(Manager::Machined),
            "libvirt" => Some(Manager::Libvirt),
            _ => None,
        }
    }

    /// All of them.
    pub(crate) const ALL: [Manager; 2] = [Manager::Machined, Manager::Libvirt];

    /// Asks which machines there are, as many as it tells; blocks for `limit` at the most.
    ///
    /// A manager that is not on this machine, or does not run, has none. machined has containers among its own, which have no
    /// CID, as have machines since it has started again.
    pub(crate) fn machines(self, limit: Duration) -> Answer {
        let deadline = Moment::now() + limit;
        match self {
            Manager::Machined => machined::machines(deadline),
            Manager::Libvirt => libvirt::machines(deadline),
        }
    }

    /// Returns the folder with a file for each machine that runs, which others than root may look at: what changes there tells
    /// that it is time to ask.
    pub(crate) fn folder(self) -> &'static Path {
        Path::new(match self {
            Manager::Machined => machined::FOLDER,
            Manager::Libvirt => libvirt::FOLDER,
        })
    }

    /// Asks which CID the machine has; blocks for `limit` at the most.
    ///
    /// Errors: [`Error::Invalid`] for what cannot be a name; [`Error::Lookup`].
    pub(crate) fn cid(self, name: &str, limit: Duration) -> Result<Cid> {
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

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Manager::Machined => "machined",
            Manager::Libvirt => "libvirt",
        })
    }
}

type Ask = fn(&str, Moment) -> Result<Cid, String>;
