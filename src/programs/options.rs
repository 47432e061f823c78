//! Options that several programs have, and how the times in them are read.

use std::net::Ipv6Addr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use log::Level;
use nix::sys::stat::Mode;

use crate::connect::Route;
use crate::error::{Error, Result};
use crate::mux;
use crate::names::{self, GivenNames};
use crate::packets::{PacketArgument, Packets};
use crate::prefix::{self, Prefix};
use crate::this_machine;
use crate::via::{self, Via};
use crate::vsock::Cid;

/// Ten years: longer is infinity, and far below what a clock can add without overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 86400);

/// Which machine is meant.
#[derive(Debug, Args)]
pub(crate) struct Machines {
    /// The /64 that maps CIDs to addresses.
    ///
    /// On this machine the address P::CID, in this IPv6 /64, stands for the machine with that CID. [default: from
    /// vsock-bridge.conf, credential or machine id]
    #[arg(long, env = prefix::VARIABLE, value_name = "PREFIX", global = true)]
    pub(crate) prefix: Option<Prefix>,
    /// Names of machines, such as "web=3 db=4".
    ///
    /// They can be used wherever a CID can. [default: from vsock-bridge.conf]
    #[arg(long, env = names::VARIABLE, value_name = "NAMES", global = true)]
    pub(crate) names: Option<GivenNames>,
}

/// Reads an address of the prefix, with or without brackets; none if the text is no address.
///
/// Errors: one that names no machine; `P::3` as it stands in the manuals.
pub(crate) fn machine_of_address(text: &str, given: Option<Prefix>) -> Result<Option<Cid>> {
    let prefix = || Ok::<_, Error>(this_machine::prefix(given, Path::new("/"))?.0);
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = inside.unwrap_or(text);
    if let Some(number) = bare
        .strip_prefix("P::")
        .or_else(|| bare.strip_prefix("p::"))
    {
        let hint = match u32::from_str_radix(number, 16).ok().and_then(Cid::new) {
            Some(cid) => format!("here that is {}", prefix()?.address(cid)),
            None => format!("here P:: is {}", prefix()?.network()),
        };
        let hint = format!("P stands for the prefix of the machine; {hint}");
        return Err(Error::invalid("address", text, hint));
    }
    let Ok(address) = bare.parse::<Ipv6Addr>() else {
        return Ok(None);
    };
    let prefix = prefix()?;
    match prefix.cid(address) {
        Some(cid) => Ok(Some(cid)),
        None => {
            let hint = format!("expected {}CID in hexadecimal", prefix.network());
            Err(Error::invalid("address of a machine", text, hint))
        }
    }
}

/// What is behind vsock, and behind what stands for it.
#[derive(Debug, Args)]
pub(crate) struct Beyond {
    /// The gateway to other machines, such as vsock:host:1080.
    ///
    /// Ports of other machines are reached through the gateway that listens there; none reaches them as they are. [default:
    /// from vsock-bridge.conf or credential]
    #[arg(long, env = via::VARIABLE, value_name = "ADDRESS")]
    via: Option<Via>,
    /// What a vsock-mux socket answers: ok or none.
    ///
    /// What the monitor behind a vsock-mux socket says when the port has accepted: ok is the line `OK PORT`, and none
    /// is nothing.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_MUX_ANSWER",
        value_name = "ANSWER",
        default_value = "ok"
    )]
    pub(crate) mux_answer: mux::Answer,
    /// Size of the packets into vsock.
    ///
    /// auto is what the device of this machine takes, infinity is no limit, and a size is such as 28KiB.
    #[arg(
        long,
        env = "VSOCK_BRIDGE_VSOCK_PACKET",
        value_name = "SIZE",
        default_value = "auto"
    )]
    vsock_packet: PacketArgument,
}

impl Beyond {
    /// Returns how other machines are reached.
    ///
    /// Errors: those of [`this_machine::via`].
    pub(crate) fn route(&self) -> Result<Route> {
        let via = this_machine::via(self.via.clone(), Path::new("/"))?;
        let gateway = via.map(|(gateway, origin)| {
            log::debug!("other machines are reached through {gateway}, {origin}");
            gateway
        });
        Ok(Route::through(gateway.as_ref()))
    }

    /// Returns how large packets may be; says so at that level if there is vsock to send them into.
    pub(crate) fn packets(&self, has_vsock: bool, level: Level) -> Packets {
        match has_vsock {
            true => self.vsock_packet.resolve(Path::new("/"), level),
            false => Packets::UNLIMITED,
        }
    }
}

/// A time limit; none is `infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit(pub Option<Duration>);

impl FromStr for TimeLimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<TimeLimit> {
        match text {
            "infinity" => Ok(TimeLimit(None)),
            _ => parse_time(text).map(|time| TimeLimit(Some(time))),
        }
    }
}

/// Reads a time span such as `5s` or `1h 30min`, at most ten years, which is also `infinity`; a bare number is seconds, as
/// in systemd.time(7).
pub(crate) fn parse_time(text: &str) -> Result<Duration> {
    if text == "infinity" {
        return Ok(LONGEST);
    }
    let time = match text.parse() {
        Ok(seconds) if !text.starts_with('+') => Some(Duration::from_secs(seconds)),
        _ => humantime::parse_duration(text).ok(),
    };
    let fail = |hint| Err(Error::invalid("time", text, hint));
    match time {
        Some(time) if time <= LONGEST => Ok(time),
        Some(_) => fail("longer than ten years; `infinity` is for ever"),
        None => fail("expected e.g. 500ms, 5s, 10min, 1h 30min or infinity"),
    }
}

/// Reads a time limit that leaves time for something.
pub(crate) fn parse_positive_limit(text: &str) -> Result<TimeLimit> {
    match text {
        "infinity" => Ok(TimeLimit(None)),
        _ => parse_positive(text).map(|time| TimeLimit(Some(time))),
    }
}

/// Reads a time span that is longer than nothing.
pub(crate) fn parse_positive(text: &str) -> Result<Duration> {
    match parse_time(text)? {
        Duration::ZERO => Err(Error::invalid("time", text, "must be longer than 0")),
        time => Ok(time),
    }
}

/// Reads the permissions of a file, in octal.
pub(crate) fn parse_mode(text: &str) -> Result<Mode> {
    let digits = text.strip_prefix('0').unwrap_or(text);
    let is_octal = digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    is_octal
        .then(|| u32::from_str_radix(digits, 8).ok())
        .flatten()
        .map(Mode::from_bits_truncate)
        .ok_or_else(|| {
            let hint = "expected three octal digits for user, group and others, e.g. 0660";
            Error::invalid("mode", text, hint)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_machine_or_says_why_not() {
        let given = Some("fd00:1::/64".parse().unwrap());
        let read = |text| machine_of_address(text, given);
        for text in ["fd00:1::3", "[fd00:1::3]", "FD00:1:0:0::3"] {
            assert_eq!(read(text).unwrap(), Cid::new(3), "{text}");
        }
        for text in ["3", "web", "", "[fd00:1::3", "fd00:1::3/64", "fd00:1::3%lo"] {
            assert_eq!(read(text).unwrap(), None, "{text}");
        }
        for (text, words) in [
            ("P::3", "here that is fd00:1::3"),
            ("[p::400]", "here that is fd00:1::400"),
            ("P::CID", "here P:: is fd00:1::"),
            ("P::", "here P:: is fd00:1::"),
            ("fd00:2::3", "expected fd00:1::CID"),
            ("fd00:1::", "expected fd00:1::CID"),
        ] {
            let line = read(text).unwrap_err().to_string();
            assert!(line.contains(words), "{text}: {line}");
        }
    }

    #[test]
    fn times_are_spans_with_units() {
        for (text, seconds) in [
            ("5s", 5),
            ("10min", 600),
            ("1h 30min", 5400),
            ("5", 5),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_time(text).unwrap(),
                Duration::from_secs(seconds),
                "{text}"
            );
        }
        for text in [
            "",
            "+5",
            "-5",
            "-5s",
            "s",
            "5x",
            "never",
            "315360001",
            "1000years",
            "99999999999999999999s",
        ] {
            assert!(parse_time(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_time("infinity").unwrap(), LONGEST);
        assert_eq!("infinity".parse::<TimeLimit>().unwrap(), TimeLimit(None));
        assert!(parse_positive("0s").is_err());
        assert!(parse_positive_limit("0s").is_err());
    }

    #[test]
    fn permissions_are_three_octal_digits() {
        assert_eq!(parse_mode("0660").unwrap().bits(), 0o660);
        assert_eq!(parse_mode("600").unwrap().bits(), 0o600);
        for text in [
            "",
            "0",
            "66",
            "0o660",
            "0888",
            "01777",
            "1777",
            "+660",
            "u=rw",
            "rw-rw----",
        ] {
            assert!(parse_mode(text).is_err(), "{text:?}");
        }
    }
}
