//! The nftables rules of the prefix: what makes one listener serve every machine and port, and keeps addresses honest.
//!
//! The local route makes every address of the prefix this machine's own, for every local user and every interface.
//! The rules take back what is too much of that. The text is a pure function; nft(8) loads it in one transaction.

use std::net::Ipv6Addr;
use std::process::Command;

use crate::error::{Error, Result};
use crate::prefix::Prefix;
use crate::route;

/// Our table, which is all that we ever touch.
const TABLE: &str = "ip6 vsock_bridge";
/// The user of all bridge services (sysusers.d).
const USER: &str = "vsock-bridge";
/// Where vsock-bridge-any.socket listens: the number of AF_VSOCK. No local user can take a port below 1024, and no
/// outgoing connection has one by chance.
const PORT: u16 = 40;

/// What keeps the rules away for as long as this kernel runs.
pub(super) const LACKING: &str =
    "this kernel lacks nftables for IPv6, or some of NF_TABLES_IPV6, NFT_TPROXY and NFT_REJECT";

/// What no user can send without CAP_NET_RAW (RFC 4443): errors, and the answer to ping.
const KERNEL_SAYS: &str =
    "destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-reply";

/// Returns the rules for this machine as it is.
///
/// Errors: [`Error::PrefixInUse`], [`Error::Route`].
pub(super) fn current(prefix: Prefix) -> Result<String> {
    Ok(text(prefix, route::own_address(prefix)?))
}

/// Loads the rules in the place of those that are there.
pub(super) fn load(prefix: Prefix) -> Result<()> {
    let text = current(prefix)?;
    log::info!("loading the rules of {prefix}");
    nft("load", &text)
}

/// Removes the rules; none there is no error.
pub(super) fn unload() -> Result<()> {
    nft("remove", &removal())
}

/// Deletes the table whether it is there or not: `destroy` is unknown to nft before 1.0.7 and Linux before 6.3.
fn removal() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

fn text(prefix: Prefix, own: Ipv6Addr) -> String {
    let removal = removal();
    let other = format!("ip6 daddr {prefix} ip6 daddr != {own}");
    let claim = format!("ip6 saddr {prefix} ip6 saddr != {own}");
    format!(
        "# An address of {prefix} names the machine with that CID; this one is {own}.
{removal}
table {TABLE} {{
	# Every port of every other machine: to the listener of vsock-bridge-any.socket. Nobody there: no effect.
	chain prerouting {{
		type filter hook prerouting priority mangle; policy accept;
		iif \"lo\" {other} meta l4proto tcp tproxy to [::1]:{PORT}
	}}

	# For this machine alone, although Linux answers for a local address on every interface.
	chain input {{
		type filter hook input priority filter; policy accept;
		iif != \"lo\" ip6 daddr {prefix} reject with icmpv6 admin-prohibited
		iif != \"lo\" ip6 saddr {prefix} drop
	}}

	# Only a bridge speaks for another machine, although the local route lets every user bind its address: by whatever
	# protocol, and neither to begin a connection nor to answer one. Refused is who is not known to be allowed, such as
	# a socket without owner. What passes: vsock has TCP alone to offer; what follows the two packets with SYN cannot be
	# without them; the kernel's own word.
	chain output {{
		type filter hook output priority filter; policy accept;
		{other} meta l4proto != {{ tcp, icmpv6 }} reject with icmpv6 admin-prohibited
		{claim} tcp flags & syn == 0 accept
		{claim} icmpv6 type {{ {KERNEL_SAYS} }} accept
		{claim} meta skuid {{ root, \"{USER}\" }} accept
		{claim} reject with icmpv6 admin-prohibited
	}}
}}
"
    )
}

fn nft(operation: &'static str, script: &str) -> Result<()> {
    // As an argument and not on stdin: one call, and no pipe that could be full.
    let output = Command::new("nft")
        .arg(script)
        .output()
        .map_err(|source| Error::NoNft { source })?;
    if output.status.success() {
        return Ok(());
    }
    // The lines below the first show the place in a script that nobody has seen.
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("no reason given").to_owned();
    let cause = cause(&said);
    Err(Error::Rules {
        operation,
        cause,
        said,
    })
}

/// Returns what an error of nft means. The kernel has three ways to say that it lacks something.
fn cause(said: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    let unknown = [
        "Could not process rule: Operation not supported",
        "Could not process rule: No such file or directory",
        ": Protocol not supported",
    ];
    if says(&unknown) {
        LACKING
    } else if says(&["not permitted", "must be root", "Permission denied"]) {
        "needs root or CAP_NET_ADMIN"
    } else {
        "nft has failed"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> String {
        text(
            "fd00:abcd:ef12::/64".parse().unwrap(),
            "fd00:abcd:ef12::400".parse().unwrap(),
        )
    }

    #[test]
    fn what_nft_says_is_told_in_other_words() {
        let cases = [
            (
                "Error: Could not process rule: Operation not supported",
                "this kernel lacks",
            ),
            (
                "netlink: Error: cache initialization failed: Protocol not supported",
                "this kernel lacks",
            ),
            (
                "Error: Could not process rule: No such file or directory",
                "this kernel lacks",
            ),
            (
                "Operation not permitted (you must be root)",
                "needs root or CAP_NET_ADMIN",
            ),
            ("Error: syntax error, unexpected tproxy", "nft has failed"),
            (
                "nft: error while loading shared libraries: libx: No such file or directory",
                "nft has failed",
            ),
            (
                "Unable to initialize Netlink socket: Address family not supported by protocol",
                "nft has failed",
            ),
        ];
        for (said, expected) in cases {
            assert!(cause(said).starts_with(expected), "{said}");
        }
    }

    fn rule(start: &str) -> String {
        let text = rules();
        let mut found = text.lines().map(str::trim).filter(|l| l.starts_with(start));
        let line = found.next().unwrap().to_owned();
        assert_eq!(found.next(), None, "{text}");
        line
    }

    #[test]
    fn the_table_is_replaced_in_one_script() {
        let text = rules();
        let removal =
            "\ntable ip6 vsock_bridge\ndelete table ip6 vsock_bridge\n\ntable ip6 vsock_bridge {\n";
        assert!(text.contains(removal), "{text}");
        let opened = text.matches(" {\n").count();
        assert_eq!(opened, text.matches("}\n").count(), "{text}");
    }

    #[test]
    fn only_what_comes_from_lo_for_another_machine_reaches_the_listener() {
        assert_eq!(
            rule("iif \"lo\""),
            "iif \"lo\" ip6 daddr fd00:abcd:ef12::/64 ip6 daddr != fd00:abcd:ef12::400 \
             meta l4proto tcp tproxy to [::1]:40"
        );
        let unit = include_str!("../../../units/vsock-bridge-any.socket");
        assert!(unit.contains(&format!("\nListenStream=[::1]:{PORT}\n")));
    }

    #[test]
    fn another_machine_is_sent_nothing_that_vsock_does_not_carry() {
        assert_eq!(
            rule("ip6 daddr"),
            "ip6 daddr fd00:abcd:ef12::/64 ip6 daddr != fd00:abcd:ef12::400 meta l4proto != { tcp, icmpv6 } \
             reject with icmpv6 admin-prohibited"
        );
    }

    #[test]
    fn nothing_of_the_prefix_comes_in_from_another_interface() {
        let prefix = "fd00:abcd:ef12::/64";
        let to = format!("iif != \"lo\" ip6 daddr {prefix}");
        assert_eq!(
            rule(&to),
            format!("{to} reject with icmpv6 admin-prohibited")
        );
        // An answer would not get there.
        let from = format!("iif != \"lo\" ip6 saddr {prefix}");
        assert_eq!(rule(&from), format!("{from} drop"));
    }

    #[test]
    fn only_root_and_the_bridge_speak_for_another_machine_by_any_protocol() {
        let claim = "ip6 saddr fd00:abcd:ef12::/64 ip6 saddr != fd00:abcd:ef12::400";
        let text = rules();
        let claims: Vec<&str> = (text.lines().map(str::trim))
            .filter_map(|line| line.strip_prefix(claim))
            .collect();
        let expected = [
            " tcp flags & syn == 0 accept",
            " icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-reply } \
             accept",
            " meta skuid { root, \"vsock-bridge\" } accept",
            " reject with icmpv6 admin-prohibited",
        ];
        assert_eq!(claims, expected);
        let user = include_str!("../../../packaging/sysusers.d/vsock-bridge.conf");
        assert!(user.contains(&format!("\nu {USER} ")));
    }
}
