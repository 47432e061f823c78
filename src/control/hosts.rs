//! Lines for /etc/hosts, for programs that take names only, such as mount.cifs.

use std::fmt::Write;

use crate::names::Names;
use crate::prefix::Prefix;

/// Gives a line for the host and one for each machine with a name.
pub fn lines(prefix: Prefix, names: &Names) -> String {
    let mut text = String::new();
    for machine in names.machines() {
        let (address, names) = (prefix.address(machine), names.of(machine).join(" "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_has_its_line_with_all_names() {
        let names = "web=3 db=1024 www=3 hyper=host".parse().unwrap();
        let text = lines("fd00:1::/64".parse().unwrap(), &names);
        let expected = "fd00:1::2\thyper.vsock host.vsock 2.vsock\nfd00:1::3\tweb.vsock www.vsock 3.vsock\n\
             fd00:1::400\tdb.vsock 1024.vsock\n";
        assert_eq!(text, expected);
    }
}
