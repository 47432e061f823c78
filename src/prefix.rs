//! The IPv6 /64 in which an address names a machine: `P::3` is CID 3.
//!
//! Where it comes from is decided in one function that every program shares, so that route, units and
//! source addresses never disagree. The only I/O is reading those places.

use std::fmt;
use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use libsystemd::credentials::CredentialsLoader;
use libsystemd::errors::SdError;
use libsystemd::id128::Id128;

use crate::config_file;
use crate::error::{Error, Result};
use crate::vsock::Cid;

/// The variable, in the environment and in the configuration file.
pub const VARIABLE: &str = "VSOCK_BRIDGE_PREFIX";
/// The configuration file that all programs read.
pub const CONFIG_PATH: &str = "/etc/vsock-bridge/vsock-bridge.conf";
/// The system credential, which a VMM can pass to its guest.
pub const CREDENTIAL: &str = "vsock-bridge.prefix";
/// Where systemd keeps system credentials for root.
pub const SYSTEM_CREDENTIALS: &str = "/run/credentials/@system";
/// Begins every unique-local prefix (RFC 4193, section 3.1).
const UNIQUE_LOCAL: u8 = 0xfd;
/// Makes what is derived from the machine id ours alone (see sd_id128_get_machine_app_specific(3)).
const APPLICATION: &str = "5f0c6a3be1d94e5f8c26b7b4c1a09d37";

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

    /// Gives the address that names the machine.
    pub fn address(self, cid: Cid) -> Ipv6Addr {
        let mut octets = self.network().octets();
        octets[12..].copy_from_slice(&cid.number().to_be_bytes());
        octets.into()
    }

    /// Gives the machine that the address names: none when it is outside, or in no machine's form.
    pub fn cid(self, address: Ipv6Addr) -> Option<Cid> {
        let octets = address.octets();
        let number = u32::from_be_bytes([octets[12], octets[13], octets[14], octets[15]]);
        let is_plain = self.contains(address) && octets[8..12] == [0; 4];
        if is_plain { Cid::new(number) } else { None }
    }

    /// Tells whether the address lies in the /64.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.octets()[..8] == self.0
    }

    /// Gives the /64 that the address is in, if it can be a prefix.
    pub fn containing(address: Ipv6Addr) -> Option<Prefix> {
        let octets = address.octets();
        let (prefix, _) = octets.split_first_chunk()?;
        (octets[0] == UNIQUE_LOCAL).then_some(Prefix(*prefix))
    }

    /// Gives the first address, `P::`.
    pub fn network(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.0);
        octets.into()
    }

    /// Derives the prefix that belongs to a machine id: stable, random-looking, not reversible.
    fn from_machine_id(machine: &str) -> Result<Prefix, SdError> {
        let digest = Id128::parse_str(machine)?.app_specific(&Id128::parse_str(APPLICATION)?)?;
        let hex = digest.lower_hex();
        let byte = |i: usize| {
            u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("lower_hex gives 32 hex digits")
        };
        Ok(Prefix::from_random([
            byte(0),
            byte(1),
            byte(2),
            byte(3),
            byte(4),
        ]))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.network())
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Prefix> {
        let fail = |hint| Error::invalid("prefix", text, hint);
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

/// Where a prefix was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The option `--prefix` or the environment.
    Option,
    /// The configuration file.
    File(PathBuf),
    /// The system credential.
    Credential(PathBuf),
    /// The machine id, because nothing was configured.
    MachineId(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Option => write!(f, "given by option or environment"),
            Origin::File(path) => write!(f, "from {}", path.display()),
            Origin::Credential(path) => write!(f, "from the credential {}", path.display()),
            Origin::MachineId(path) => write!(f, "derived from {}", path.display()),
        }
    }
}

/// Finds the prefix of this machine: `given` (option or environment), configuration file, credential, machine id.
///
/// `root` is put before every absolute path; `/` but in tests. Errors name the file and what is wrong in it.
pub fn find(given: Option<Prefix>, root: &Path) -> Result<(Prefix, Origin)> {
    match given {
        Some(prefix) => Ok((prefix, Origin::Option)),
        None => find_in_files(root, CredentialsLoader::path_from_env()),
    }
}

/// Finds the prefix as [`find`] does, but asks no environment: for code in processes that may run for others.
pub fn find_without_environment() -> Result<Prefix> {
    find_in_files(Path::new("/"), None).map(|(prefix, _)| prefix)
}

fn find_in_files(root: &Path, credentials: Option<PathBuf>) -> Result<(Prefix, Origin)> {
    let path = below(root, CONFIG_PATH);
    if let Some(setting) = config_file::read(&path)?
        .into_iter()
        .rev()
        .find(|s| s.name == VARIABLE)
    {
        return in_file(&setting.value, setting.line, &path).map(|p| (p, Origin::File(path)));
    }
    if let Some((text, path)) = credential(root, credentials)? {
        return in_file(text.trim_end(), 1, &path).map(|p| (p, Origin::Credential(path)));
    }
    from_machine_id(below(root, "/etc/machine-id"))
}

fn in_file(text: &str, line: usize, path: &Path) -> Result<Prefix> {
    text.parse().map_err(|error: Error| Error::Config {
        path: path.to_owned(),
        line,
        problem: error.to_string(),
    })
}

fn from_machine_id(path: PathBuf) -> Result<(Prefix, Origin)> {
    let read = |source| Error::File {
        operation: "read",
        path: path.clone(),
        source,
    };
    let text = fs::read_to_string(&path).map_err(read)?;
    let prefix = Prefix::from_machine_id(text.trim_end()).map_err(|error| Error::Config {
        path: path.clone(),
        line: 1,
        problem: format!("not a machine id ({error}); set {VARIABLE} in {CONFIG_PATH}"),
    })?;
    Ok((prefix, Origin::MachineId(path)))
}

/// Reads the credential from the service's own directory, else from the system's.
fn credential(root: &Path, own: Option<PathBuf>) -> Result<Option<(String, PathBuf)>> {
    for directory in own.into_iter().chain([below(root, SYSTEM_CREDENTIALS)]) {
        let path = directory.join(CREDENTIAL);
        match config_file::text(&path) {
            Ok(None) => {}
            // The units set an empty one for machines that were given none.
            Ok(Some(text)) if text.trim_end().is_empty() => {}
            Ok(Some(text)) => return Ok(Some((text, path))),
            // The system's directory is closed to everyone but root; services get theirs by LoadCredential=.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(source) => {
                let operation = "read the credential";
                return Err(Error::File {
                    operation,
                    path,
                    source,
                });
            }
        }
    }
    Ok(None)
}

fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
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

    #[test]
    fn a_machine_id_gives_always_the_same_prefix_and_another_one_another() {
        let one = Prefix::from_machine_id("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(
            one,
            Prefix::from_machine_id("0123456789abcdef0123456789abcdef").unwrap()
        );
        assert_ne!(
            one,
            Prefix::from_machine_id("1123456789abcdef0123456789abcdef").unwrap()
        );
        assert_eq!(one.to_string().parse::<Prefix>().unwrap(), one);
    }
}
