//! The IPv6 /64 in which an address names a machine: `P::3` is CID 3.
//!
//! Where it comes from is decided in [`crate::configured`].

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::invalid::Invalid;
use crate::vsock::Cid;

/// The variable, in the environment and in the configuration file.
pub const VARIABLE: &str = "VSOCK_BRIDGE_PREFIX";
/// Begins every unique-local prefix (RFC 4193, section 3.1).
const UNIQUE_LOCAL: u8 = 0xfd;
/// Makes what is derived from the machine id ours alone (see sd_id128_get_machine_app_specific(3)).
pub(crate) const APPLICATION: u128 = 0x5f0c_6a3b_e1d9_4e5f_8c26_b7b4_c1a0_9d37;

/// An IPv6 unique-local /64 (RFC 4193).
///
/// Text form: `fd00:abcd:ef12::/64`; the length may be left out when reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix([u8; 8]);

impl Prefix {
    /// Makes an RFC 4193 prefix (subnet 0) of 40 random bits.
    pub fn from_random(random: [u8; 5]) -> Prefix {
        let [a, b, c, d, e] = random;
        Prefix([UNIQUE_LOCAL, a, b, c, d, e, 0, 0])
    }

    /// Returns the address that names the machine.
    pub fn address(self, cid: Cid) -> Ipv6Addr {
        let mut octets = self.network().octets();
        octets[12..].copy_from_slice(&cid.number().to_be_bytes());
        octets.into()
    }

    /// Returns the machine that the address names: none when it is outside, or in no machine's form.
    pub fn cid(self, address: Ipv6Addr) -> Option<Cid> {
        let octets = address.octets();
        let number = u32::from_be_bytes([octets[12], octets[13], octets[14], octets[15]]);
        let is_plain = self.contains(address) && octets[8..12] == [0; 4];
        if is_plain { Cid::new(number) } else { None }
    }

    /// Returns whether the address lies in the /64.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.octets()[..8] == self.0
    }

    /// Returns the /64 that the address is in, if it can be a prefix.
    pub fn containing(address: Ipv6Addr) -> Option<Prefix> {
        let octets = address.octets();
        let (prefix, _) = octets.split_first_chunk()?;
        (octets[0] == UNIQUE_LOCAL).then_some(Prefix(*prefix))
    }

    /// Returns the first address, `P::`.
    pub fn network(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.0);
        octets.into()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.network())
    }
}

impl FromStr for Prefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Prefix, Invalid> {
        let fail = |hint| Invalid::new("prefix", text, hint);
        let network = text.strip_suffix("/64").unwrap_or(text);
        if network.contains('/') {
            return Err(fail("the length must be /64"));
        }
        let address: Ipv6Addr = network
            .parse()
            .ok()
            .ok_or_else(|| fail("expected an IPv6 /64 such as fd00:abcd:ef12::/64"))?;
        let octets = address.octets();
        if octets[0] != UNIQUE_LOCAL {
            return Err(fail(
                "expected a unique-local prefix, which begins with fd (RFC 4193)",
            ));
        }
        let (prefix, host) = octets.split_at(8);
        if host != [0; 8] {
            return Err(fail("the last 64 bits must be zero"));
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(prefix);
        Ok(Prefix(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &str = "fd00:abcd:ef12::/64";

    #[test]
    fn text_and_prefix_are_inverse() {
        assert_eq!(P.parse::<Prefix>().unwrap().to_string(), P);
        assert_eq!("fd00:abcd:ef12::".parse::<Prefix>().unwrap().to_string(), P);
    }

    #[test]
    fn only_a_unique_local_64_is_a_prefix() {
        for text in [
            "",
            "fd00::/48",
            "fd00::1/64",
            "fe80::/64",
            "2001:db8::/64",
            "fc00::/64",
            "10.0.0.0/8",
            "fd00::/64/64",
            "fd00::/64 ",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_and_cids_are_inverse() {
        let prefix: Prefix = P.parse().unwrap();
        for (number, text) in [
            (1, "fd00:abcd:ef12::1"),
            (3, "fd00:abcd:ef12::3"),
            (1024, "fd00:abcd:ef12::400"),
            (u32::MAX - 1, "fd00:abcd:ef12::ffff:fffe"),
        ] {
            let cid = Cid::new(number).unwrap();
            assert_eq!(prefix.address(cid).to_string(), text);
            assert_eq!(prefix.cid(text.parse().unwrap()), Some(cid));
        }
    }

    #[test]
    fn addresses_that_name_no_machine_have_no_cid() {
        let prefix: Prefix = P.parse().unwrap();
        for text in [
            "fd00:abcd:ef12::",
            "fd00:abcd:ef12::ffff:ffff",
            "fd00:abcd:ef12::1:0:3",
            "fd00:abcd:ef12:1::3",
            "fd00:abcd:ef13::3",
            "::3",
        ] {
            assert_eq!(prefix.cid(text.parse().unwrap()), None, "{text}");
        }
    }
}
