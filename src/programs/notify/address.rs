//! Where vsock-notify listens, in the words of the credential that leads a machine there (systemd.system-credentials(7)).

use std::str::FromStr;

use nix::sys::socket::SockType;

use crate::endpoint::{Endpoint, UnixName};
use crate::error::Error;

/// What begins an address of vsock, by the type of its sockets.
const WORDS: [(&str, SockType); 2] = [
    ("vsock-stream", SockType::Stream),
    ("vsock-seqpacket", SockType::SeqPacket),
];
const FORMS: &str = "vsock-stream::9003, vsock-seqpacket::9003, /run/vm.vsock_9003 or @name";

/// An address with the type of its sockets, which are not the same thing over vsock: a port has one type.
///
/// Text form: `vsock-stream:CID:PORT`, `vsock-seqpacket:CID:PORT`, where an empty CID is each of this machine; else a unix
/// socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) endpoint: Endpoint,
    pub(super) kind: SockType,
}

impl Address {
    /// Returns whether peers have a CID.
    pub(super) fn is_vsock(&self) -> bool {
        matches!(self.endpoint, Endpoint::Vsock(_))
    }

    /// Returns what begins an address of vsock with sockets of this type.
    pub(super) fn word(&self) -> &'static str {
        let words = WORDS.into_iter().find(|(_, kind)| *kind == self.kind);
        words.map_or("vsock", |(word, _)| word)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        let fail = |hint: String| Err(Error::invalid("address to listen on", text, hint));
        let of_vsock = |rest: &str, kind| match format!("vsock:{rest}").parse() {
            Ok(endpoint @ Endpoint::Vsock(_)) => Ok(Address { endpoint, kind }),
            _ => fail(format!("expected {FORMS}")),
        };
        for (word, kind) in WORDS {
            let rest = text.strip_prefix(word);
            if let Some(rest) = rest.and_then(|rest| rest.strip_prefix(':')) {
                return of_vsock(rest, kind);
            }
        }
        match text.parse() {
            Ok(endpoint @ Endpoint::Unix(UnixName::Path(_) | UnixName::Abstract(_))) => {
                let kind = SockType::Stream;
                Ok(Address { endpoint, kind })
            }
            Ok(Endpoint::Vsock(address)) => {
                let rest = address.to_string();
                let rest = rest.strip_prefix("vsock:").unwrap_or(&rest);
                fail(format!(
                    "a port takes one type of sockets: write vsock-stream:{rest}, and the same type in the credential of \
                     the machine, vmm.notify_socket=vsock-stream:2:{}",
                    address.port
                ))
            }
            _ => fail(format!("expected {FORMS}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_credential_and_unix_sockets() {
        for (text, endpoint, kind) in [
            ("vsock-stream::9003", "vsock::9003", SockType::Stream),
            ("vsock-stream:host:9003", "vsock:2:9003", SockType::Stream),
            ("vsock-seqpacket:2:1", "vsock:2:1", SockType::SeqPacket),
            ("/run/vm.vsock_9003", "/run/vm.vsock_9003", SockType::Stream),
            ("@vm", "@vm", SockType::Stream),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.endpoint, endpoint.parse().unwrap(), "{text}");
            assert_eq!(address.kind, kind, "{text}");
            assert_eq!(address.is_vsock(), text.starts_with("vsock"), "{text}");
            assert!(!address.is_vsock() || text.starts_with(address.word()));
        }
    }

    #[test]
    fn whatever_else_is_refused_with_what_is_meant() {
        for (text, words) in [
            ("vsock::9003", "write vsock-stream::9003"),
            ("vsock:2:9003", "vmm.notify_socket=vsock-stream:2:9003"),
            ("vsock-dgram:2:9003", "expected vsock-stream::9003"),
            ("vsock-stream:9003", "expected vsock-stream::9003"),
            ("vsock-stream:web:9003", "expected vsock-stream::9003"),
            ("vsock-stream:mapped", "expected vsock-stream::9003"),
            ("[::1]:9003", "expected vsock-stream::9003"),
            ("vsock-mux:/run/vm.vsock:9003", "/run/vm.vsock_9003"),
            ("9003", "expected vsock-stream::9003"),
            ("", "expected vsock-stream::9003"),
        ] {
            let said = text.parse::<Address>().unwrap_err().to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
