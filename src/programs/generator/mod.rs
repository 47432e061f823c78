//! The body of vsock-bridge-generator: tells the socket units the prefix and lists of ports (systemd.generator(7)).
//!
//! It runs before any unit and at each daemon-reload: it must be fast, ask nobody, and never hold up the boot.
//! Socket units know no variables (`EnvironmentFile=` does not reach `ListenStream=`), hence the drop-ins.

mod files;
mod ports;

use std::path::Path;

use crate::configured::Origin;
use crate::error::Result;
use crate::prefix::Prefix;
use crate::this_machine;
use crate::vsock::Cid;

/// The drop-in with the prefix, below the directory for generated units.
pub(crate) const DROP_IN: &str = "vsock-bridge-ipv6@.socket.d/50-prefix.conf";

/// Writes the drop-ins for the machine below `root` into `directory`. What is wrong with a list of ports is logged.
///
/// Errors: no prefix, or [`Unusable::File`](crate::unusable::Unusable::File).
pub fn run(directory: &Path, root: &Path) -> Result<()> {
    let found = this_machine::prefix(None, root);
    ports::run(
        directory,
        root,
        found.as_ref().ok().map(|(prefix, _)| *prefix),
    );
    let (prefix, origin) = found?;
    files::write(&directory.join(DROP_IN), &drop_in(prefix, &origin))
}

fn drop_in(prefix: Prefix, origin: &Origin) -> String {
    let source_path = match origin {
        Origin::File(path) => format!("[Unit]\nSourcePath={}\n\n", path.display()),
        _ => String::new(),
    };
    let address = prefix.address(Cid::HOST);
    format!(
        "# Written by vsock-bridge-generator; the prefix is {origin}.\n\
         {source_path}[Socket]\nListenStream=\nListenStream=[{address}]:%i\n"
    )
}

/// Reads the prefix out of the drop-in.
pub(crate) fn prefix_in(text: &str) -> Option<Prefix> {
    let line = text
        .lines()
        .rfind(|line| line.starts_with("ListenStream=["))?;
    let (address, _) = line.trim_start_matches("ListenStream=[").split_once(']')?;
    Prefix::containing(address.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_resets_the_address_before_it_sets_it() {
        let text = drop_in("fd00:1::/64".parse().unwrap(), &Origin::Option);
        assert!(
            text.ends_with("[Socket]\nListenStream=\nListenStream=[fd00:1::2]:%i\n"),
            "{text}"
        );
    }

    #[test]
    fn the_prefix_is_read_out_of_the_drop_in() {
        let prefix = "fd00:1::/64".parse().unwrap();
        assert_eq!(prefix_in(&drop_in(prefix, &Origin::Option)), Some(prefix));
        assert_eq!(prefix_in("[Socket]\nListenStream=\n"), None);
    }
}
