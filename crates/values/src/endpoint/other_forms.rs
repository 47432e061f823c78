//! Addresses as other programs write them, and hosts of vsock-connect: each is told the form that is right here.

use crate::names::Machine;
use crate::vsock::{Cid, VsockPort, decimal};

/// Reads an address, and returns the form in which it is printed.
type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Returns what to write in place of a text that is no address; none if nobody can know.
pub(crate) fn hint(text: &str, read: Read<'_>) -> Option<String> {
    of_scheme(text, read)
        .or_else(|| of_word(text, read))
        .or_else(|| of_number(text))
        .or_else(|| of_path(text))
}

/// `tcp:localhost:445`, `UNIX-CONNECT:/run/x.sock`, `vsock://3:22`: socat, nginx, URLs.
fn of_scheme(text: &str, read: Read<'_>) -> Option<String> {
    let (scheme, rest) = text.split_once(':')?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let scheme = scheme.to_ascii_lowercase();
    let form = match scheme.trim_end_matches("-connect") {
        "tcp" | "tcp4" | "tcp6" => rest.to_owned(),
        "http" | "https" => rest.trim_end_matches('/').to_owned(),
        "unix" | "unix-client" => format!("unix:{rest}"),
        "abstract" => format!("@{rest}"),
        "vsock" => format!("vsock:{rest}"),
        _ => return None,
    };
    match read(&form) {
        Some(printed) => Some(format!("write {printed}")),
        None if scheme.starts_with("tcp") => Some(format!(
            "TCP is written without `{scheme}:`, e.g. [::1]:445, 127.0.0.1:445 or name:445"
        )),
        None => None,
    }
}

/// `vsock/3`, `unix%run/x.sock`: the hosts of vsock-connect, which ssh can have as its own.
fn of_word(text: &str, read: Read<'_>) -> Option<String> {
    let (word, rest) = text.split_once(['/', '%'])?;
    let path = match rest.starts_with(['/', '@']) {
        true => rest.to_owned(),
        false => format!("/{rest}"),
    };
    let path = read(&path).unwrap_or("PATH".to_owned());
    let machine = rest.parse::<Machine>().map_or("CID", |_| rest);
    match word {
        "unix" => Some(format!("write unix:{path}")),
        "vsock" => Some(match read(&format!("vsock:{rest}")) {
            Some(printed) => format!("write {printed}"),
            None => format!("write vsock:{machine}:PORT, PORT being a number"),
        }),
        "vsock-mux" => Some(format!("write vsock-mux:{path}:PORT, PORT being a number")),
        "machine" | "libvirt" | "qemu" => Some(
            "only vsock-connect asks who manages the machine; write its CID, as in vsock:3:445, or a name from \
             VSOCK_BRIDGE_NAMES"
                .to_owned(),
        ),
        _ => None,
    }
}

/// `3:22`.
fn of_number(text: &str) -> Option<String> {
    let (cid, port) = text.split_once(':')?;
    if decimal::<u32>(cid).is_none() || port.parse::<VsockPort>().is_err() {
        return None;
    }
    Some(match cid.parse::<Cid>() {
        Ok(_) => format!("write vsock:{text} for port {port} of the machine with CID {cid}"),
        Err(_) => format!(
            "no machine has the CID {cid}; expected one from 1 to 4294967294, as in vsock:3:{port}"
        ),
    })
}

/// `a.sock`, `./a`, `run/a`: a path that depends on where one is.
fn of_path(text: &str) -> Option<String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    let is_path = path.ends_with(".sock") || path.ends_with(".socket") || path.contains('/');
    // A name that ends so and has a port is a host's.
    let is_relative = is_path && !path.contains(':') && !path.starts_with(['/', '@']);
    let name = path.rsplit('/').next()?;
    is_relative.then(|| {
        format!("the path of a unix socket is written from the root on, such as /run/{name}")
    })
}

#[cfg(test)]
mod tests {
    use crate::endpoint::Endpoint;

    #[test]
    fn what_others_write_is_told_the_form_that_is_right_here() {
        for (text, words) in [
            ("tcp:localhost:445", "write localhost:445"),
            ("TCP4:127.0.0.1:80", "write 127.0.0.1:80"),
            ("tcp://[::1]:445", "write [::1]:445"),
            ("tcp-connect:name:445", "write name:445"),
            ("tcp:::1:445", "without `tcp:`"),
            ("http://localhost:80/", "write localhost:80"),
            ("UNIX-CONNECT:/run/x.sock", "write /run/x.sock"),
            ("Unix:/run/x.sock", "write /run/x.sock"),
            ("abstract-connect:x", "write @x"),
            ("vsock://3:22", "write vsock:3:22"),
            ("VSOCK-CONNECT:3:22", "write vsock:3:22"),
            ("unix/run/x.sock", "write unix:/run/x.sock"),
            ("unix%/run/x.sock", "write unix:/run/x.sock"),
            ("vsock/3", "write vsock:3:PORT"),
            (
                "vsock-mux/run/vm.vsock",
                "write vsock-mux:/run/vm.vsock:PORT",
            ),
            ("vsock/3:22", "write vsock:3:22"),
            ("vsock/", "write vsock:CID:PORT"),
            ("unix/", "write unix:PATH"),
            ("machine/web", "only vsock-connect"),
            ("libvirt%web", "only vsock-connect"),
            ("3:22", "write vsock:3:22"),
            ("0:22", "no machine has the CID 0; expected one from 1"),
            ("4294967295:22", "as in vsock:3:22"),
            ("a.sock", "from the root on, such as /run/a.sock"),
            ("./app.socket", "such as /run/app.socket"),
            ("~/run/a", "such as /run/a"),
            ("unix:run/a.sock", "such as /run/a.sock"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
