//! Lines for /etc/hosts, for programs that take names only, such as mount.cifs.

use std::fmt::Write;

use crate::names::{Names, SUFFIX};
use crate::prefix::Prefix;
use crate::vsock::Cid;

/// Gives a line for the host and one for each machine with a name.
pub fn lines(prefix: Prefix, names: &Names) -> String {
    let mut text = format!("{}\thost{SUFFIX}\n", prefix.address(Cid::HOST));
    for (name, cid) in names.iter() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}\t{name}{SUFFIX} {cid}{SUFFIX}",
            prefix.address(cid)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_line() {
        let text = lines(
            "fd00:1::/64".parse().unwrap(),
            &Names::parse("web=3 db=1024").unwrap(),
        );
        let expected = "fd00:1::2\thost.vsock\nfd00:1::3\tweb.vsock 3.vsock\nfd00:1::400\tdb.vsock 1024.vsock\n";
        assert_eq!(text, expected);
    }
}
