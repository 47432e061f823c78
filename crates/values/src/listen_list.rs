//! Where a bridge listens by itself: addresses separated by spaces, each one that a socket can be bound to.

use std::fmt;
use std::str::FromStr;

use crate::endpoint::Endpoint;
use crate::invalid::Invalid;
use crate::vsock::decimal;

/// The environment variable of the list.
pub const VARIABLE: &str = "VSOCK_BRIDGE_LISTEN";

const FORMS: &str = "vsock::445, [::1]:445, 127.0.0.1:445, /run/x.sock or @name";

/// One address or more, such as `vsock::445 [::1]:445`; an address has no spaces.
///
/// Only `vsock:web:445` still has a name in it, which is looked up when it is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenList(Vec<Endpoint>);

impl ListenList {
    /// Returns the addresses in the order in which they were given.
    pub fn addresses(&self) -> &[Endpoint] {
        &self.0
    }
}

impl FromStr for ListenList {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<ListenList, Invalid> {
        let addresses: Vec<Endpoint> = text
            .split_ascii_whitespace()
            .map(address)
            .collect::<Result<_, _>>()?;
        match addresses.is_empty() {
            true => Err(refusal(text, format!("it is empty; expected {FORMS}"))),
            false => Ok(ListenList(addresses)),
        }
    }
}

impl fmt::Display for ListenList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{address}")?;
        }
        Ok(())
    }
}

fn refusal(text: &str, hint: impl Into<String>) -> Invalid {
    Invalid::new("address to listen on", text, hint)
}

fn address(text: &str) -> Result<Endpoint, Invalid> {
    if let Some(hint) = slip(text) {
        return Err(refusal(text, hint));
    }
    let fail = |hint: String| Err(refusal(text, hint));
    match text.parse() {
        Ok(Endpoint::TcpName { port, .. }) => fail(format!(
            "a name may have several addresses: give one, such as [::1]:{port} for this machine alone or [::]:{port} for \
             all its addresses"
        )),
        Ok(Endpoint::TcpMapped(_) | Endpoint::VsockMapped(_)) => {
            fail(format!("`mapped` is for targets; expected {FORMS}"))
        }
        Ok(target @ (Endpoint::Gateway | Endpoint::Inbound)) => {
            fail(format!("`{target}` is a target; expected {FORMS}"))
        }
        Ok(Endpoint::Mux { path, port }) => fail(format!(
            "the monitor itself listens there; what its guest opens arrives at {path}_{port}"
        )),
        Ok(address) => Ok(address),
        Err(problem) => fail(problem.hint),
    }
}

/// Says what is meant, of what is no address but close to one.
fn slip(text: &str) -> Option<String> {
    if decimal::<u64>(text).is_some() {
        return Some(format!(
            "a port alone says neither vsock nor TCP; expected vsock::{text} or [::1]:{text}"
        ));
    }
    if let Some(port) = text.strip_prefix(':').or(text.strip_prefix("*:")) {
        let port = decimal::<u16>(port)?;
        return Some(format!(
            "expected [::]:{port} for TCP on all addresses of this machine, [::1]:{port} for itself alone, or vsock::{port}"
        ));
    }
    let (family, rest) = text.split_once(':')?;
    if text.contains(',') && !text.starts_with(['/', '@']) && !family.contains('-') {
        return Some("addresses are separated by spaces, not commas".to_owned());
    }
    let is_upper = family.starts_with(|first: char| first.is_ascii_uppercase());
    if is_upper && family.contains('-') {
        return Some(format!("expected {FORMS}"));
    }
    if family != "vsock" {
        return None;
    }
    let every = ["any", "*", "-1", "4294967295"];
    let port = match rest.split_once(':') {
        None => rest,
        Some((cid, port)) if every.contains(&cid) => port,
        Some(_) => return None,
    };
    let port = decimal::<u32>(port)?;
    Some(format!("expected vsock::{port}, for peers of every CID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_list_are_inverse() {
        for text in [
            "vsock::445",
            "vsock:1:22",
            "vsock:web:22",
            "[::1]:445",
            "[::]:80",
            "127.0.0.1:445",
            "/run/x.sock",
            "@name",
            "vsock::445 [::1]:445 /run/x.sock @name",
        ] {
            assert_eq!(text.parse::<ListenList>().unwrap().to_string(), text);
        }
        for (text, printed) in [
            ("vsock:local:22", "vsock:1:22"),
            ("unix:/run/x.sock", "/run/x.sock"),
            ("unix:@name", "@name"),
            (" vsock::1 \n\t @name ", "vsock::1 @name"),
        ] {
            assert_eq!(text.parse::<ListenList>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn a_slip_is_told_with_the_form_that_is_meant() {
        for (text, hint) in [
            ("", "it is empty; expected vsock::445"),
            (" ", "it is empty"),
            ("445", "expected vsock::445 or [::1]:445"),
            (":445", "expected [::]:445 for TCP"),
            ("*:445", "[::1]:445 for itself alone, or vsock::445"),
            ("vsock:445", "expected vsock::445"),
            ("vsock:any:445", "expected vsock::445"),
            ("vsock:*:445", "expected vsock::445"),
            ("vsock:-1:445", "expected vsock::445"),
            ("vsock:4294967295:445", "expected vsock::445"),
            ("tcp://[::1]:445", "write [::1]:445"),
            ("unix/run/x.sock", "write unix:/run/x.sock"),
            ("TCP6-LISTEN:445", "expected vsock::445, [::1]:445"),
            ("VSOCK-LISTEN:445,fork", "expected vsock::445, [::1]:445"),
            ("localhost:445", "[::1]:445 for this machine alone"),
            ("[::1]", "the port is missing"),
            ("::1:445", "[::1]:445"),
            ("0.0.0.0", "the port is missing"),
            ("[::1]:0", "1 to 65535"),
            ("[::1]:mapped", "`mapped` is for targets"),
            ("vsock:mapped", "`mapped` is for targets"),
            ("vsock:mapped:445", "`mapped` is for targets"),
            (
                "vsock-mux:/run/vm.vsock:445",
                "arrives at /run/vm.vsock_445",
            ),
            ("[fe80::1%lo]:445", "link-local"),
            ("[fe80::1]:445", "link-local"),
            ("224.0.0.1:445", "multicast"),
            ("a.sock", "from the root on, such as /run/a.sock"),
            ("run/x.sock", "such as /run/x.sock"),
            ("unix:run/x.sock", "such as /run/x.sock"),
            ("unix:x", "an absolute path or @name"),
            ("vsock::4294967295", "0 to 4294967294"),
            ("@", "the abstract name is empty"),
            ("vsock::445,[::1]:445", "separated by spaces, not commas"),
            ("[::1]:445, vsock::445", "separated by spaces, not commas"),
        ] {
            let problem = text.parse::<ListenList>().unwrap_err();
            assert_eq!(problem.what, "address to listen on");
            assert!(problem.hint.contains(hint), "{text:?}: {problem}");
        }
    }

    #[test]
    fn the_address_that_is_wrong_is_named_alone() {
        let problem = "[::1]:445 445 @x".parse::<ListenList>().unwrap_err();
        assert_eq!(problem.text, "445");
    }
}
