//! The names of machines as static records of systemd-resolved 261 and newer (systemd.rr(5)).
//!
//! It reads the folder anew by itself, at most two seconds after a change.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::path::Path;

use super::text_file::{put, read};
use crate::error::{Error, Result};
use crate::names::Names;
use crate::prefix::Prefix;

const PATH: &str = "/etc/systemd/resolve/static.d/vsock-bridge.rr";
/// The class of all records, and their types (RFC 1035, RFC 3596).
const IN: u8 = 1;
const PTR: u8 = 12;
const AAAA: u8 = 28;

/// Returns an address record for each name, and for each address a record with the best name of its machine.
///
/// The form is the one that `resolvectl --json=short query` prints; no name has a character that JSON escapes.
pub(super) fn text(prefix: Prefix, names: &Names) -> String {
    let mut records = Vec::new();
    for machine in names.machines() {
        let address = prefix.address(machine);
        let all = names.of(machine);
        records.extend(
            all.iter()
                .map(|name| format!("{{{},\"address\":{:?}}}", key(AAAA, name), address.octets())),
        );
        let reverse = key(PTR, &reverse_name(address));
        records.extend(
            all.first()
                .map(|name| format!("{{{reverse},\"name\":\"{name}\"}}")),
        );
    }
    format!("[\n{}\n]\n", records.join(",\n"))
}

/// Replaces the file of ours, if that changes it.
pub(super) fn write(text: &str) -> Result<()> {
    let path = Path::new(PATH);
    let prepare = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        read(path)
    };
    let old = prepare().map_err(Error::file("write", path))?;
    put(path, &old, text.as_bytes())
}

/// Removes the file of ours; none is no error.
pub(super) fn remove() -> Result<()> {
    match fs::remove_file(PATH) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::file("remove", Path::new(PATH))(error))
        }
        _ => Ok(()),
    }
}

fn key(kind: u8, name: &str) -> String {
    format!("\"key\":{{\"class\":{IN},\"type\":{kind},\"name\":\"{name}\"}}")
}

/// The name under which DNS keeps what an address is called (RFC 3596, section 2.5).
fn reverse_name(address: Ipv6Addr) -> String {
    let digits = address.octets().into_iter().rev();
    let digits = digits.map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
    digits.collect::<String>() + "ip6.arpa"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_and_each_address_has_its_record() {
        let names = "web=3".parse().unwrap();
        let text = text("fd00:abcd:ef12::/64".parse().unwrap(), &names);
        let expected = r#"[
{"key":{"class":1,"type":28,"name":"host.vsock"},"address":[253, 0, 171, 205, 239, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]},
{"key":{"class":1,"type":28,"name":"2.vsock"},"address":[253, 0, 171, 205, 239, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]},
{"key":{"class":1,"type":12,"name":"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.1.f.e.d.c.b.a.0.0.d.f.ip6.arpa"},"name":"host.vsock"},
{"key":{"class":1,"type":28,"name":"web.vsock"},"address":[253, 0, 171, 205, 239, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]},
{"key":{"class":1,"type":28,"name":"3.vsock"},"address":[253, 0, 171, 205, 239, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]},
{"key":{"class":1,"type":12,"name":"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.1.f.e.d.c.b.a.0.0.d.f.ip6.arpa"},"name":"web.vsock"}
]
"#;
        assert_eq!(text, expected);
    }
}
