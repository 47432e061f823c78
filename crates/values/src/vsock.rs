//! Numbers of AF_VSOCK: context identifiers, ports and the pair of both.
//!
//! They are types of their own so that a CID is never taken for a port. No I/O here.

use std::fmt;
use std::str::FromStr;

use crate::invalid::Invalid;

/// Names one machine on a host: 1 is the machine itself, 2 its host, 3 and above are guests.
///
/// Text form: `host`, `local`, or the decimal number without sign or leading zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(u32);

impl Cid {
    /// Loops back to the machine itself (VMADDR_CID_LOCAL).
    pub const LOCAL: Cid = Cid(1);
    /// The host, seen from a guest (VMADDR_CID_HOST).
    pub const HOST: Cid = Cid(2);

    /// Takes a number that names a machine; 0 (hypervisor, unused on Linux) and the maximum (any) do not.
    pub fn new(number: u32) -> Option<Cid> {
        (number != 0 && number != u32::MAX).then_some(Cid(number))
    }

    /// Returns the number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cid {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Cid, Invalid> {
        match text {
            "host" => return Ok(Cid::HOST),
            "local" => return Ok(Cid::LOCAL),
            _ => {}
        }
        decimal(text).and_then(Cid::new).ok_or_else(|| {
            let hint = "expected `host`, `local` or a number from 1 to 4294967294";
            Invalid::new("CID", text, hint)
        })
    }
}

/// A port of AF_VSOCK, 0 to 4294967294.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VsockPort(u32);

impl VsockPort {
    /// Takes any number but the maximum, which means "any port" to the kernel.
    pub fn new(number: u32) -> Option<VsockPort> {
        (number != u32::MAX).then_some(VsockPort(number))
    }

    /// Returns the number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for VsockPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u16> for VsockPort {
    fn from(port: u16) -> VsockPort {
        VsockPort(port.into())
    }
}

impl FromStr for VsockPort {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<VsockPort, Invalid> {
        decimal(text).and_then(VsockPort::new).ok_or_else(|| {
            Invalid::new("vsock port", text, "expected a number from 0 to 4294967294")
        })
    }
}

/// A machine and a port on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VsockAddr {
    /// The machine; none means every CID of this machine, which only a listener can have.
    pub cid: Option<Cid>,
    /// The port on it.
    pub port: VsockPort,
}

impl fmt::Display for VsockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cid {
            Some(cid) => write!(f, "vsock:{cid}:{}", self.port),
            None => write!(f, "vsock::{}", self.port),
        }
    }
}

/// Reads a number written with digits only: no sign, no space, no leading zero.
pub fn decimal<N: FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cid_accepts_names_and_machine_numbers() {
        for (text, number) in [
            ("host", 2),
            ("local", 1),
            ("1", 1),
            ("3", 3),
            ("4294967294", u32::MAX - 1),
        ] {
            assert_eq!(text.parse::<Cid>().unwrap().number(), number, "{text}");
        }
    }

    #[test]
    fn cid_refuses_what_names_no_machine() {
        for text in [
            "",
            "0",
            "4294967295",
            "4294967296",
            "-1",
            "+3",
            " 3",
            "3 ",
            "03",
            "0x3",
            "Host",
            "any",
            "3\n",
        ] {
            assert!(text.parse::<Cid>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn port_zero_is_valid_and_the_maximum_is_not() {
        assert_eq!("0".parse::<VsockPort>().unwrap().number(), 0);
        assert_eq!(
            "4294967294".parse::<VsockPort>().unwrap().number(),
            u32::MAX - 1
        );
        for text in ["4294967295", "", "00", "+1", "1.0"] {
            assert!(text.parse::<VsockPort>().is_err(), "{text:?}");
        }
    }
}
