//! Hands one connected socket to another program over a unix socket, as ssh's ProxyUseFdpass wants it.
//!
//! Libraries of SSH read the same configuration and know no ProxyUseFdpass: they run the command between pipes or
//! sockets, and send their first line at once. So who sends something has no use for a descriptor.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::fstat;

use crate::error::{Error, Result};
use crate::peer::Family;
use crate::stream::Stream;
use crate::sys;

/// How long a program that is not known to take a descriptor may be silent until it is taken for one that does.
const SPEAKS_WITHIN: Duration = Duration::from_secs(1);
/// What takes a descriptor, and never sends a byte: OpenSSH.
const KNOWN_TAKER: &str = "ssh";

/// Returns whether who reads `output` takes a descriptor; where it writes to `input` first it wants its bytes relayed.
///
/// Waits for a second if neither is known: a program other than ssh that has the other end of both, and is silent.
pub(crate) fn is_wanted(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> bool {
    is_unix_socket(output) && (!can_speak(input) || is_known_taker(output) || is_silent(input))
}

fn is_unix_socket(output: BorrowedFd<'_>) -> bool {
    let address = sys::local_address(output).ok();
    address.and_then(|address| Family::of(&address)) == Some(Family::Unix)
}

/// A terminal or a file is the user's and not the program's.
fn can_speak(input: BorrowedFd<'_>) -> bool {
    let kind = fstat(input).map_or(0, |status| status.st_mode & libc::S_IFMT);
    kind == libc::S_IFSOCK || kind == libc::S_IFIFO
}

/// Asks by whom the pair of sockets was made (SO_PEERCRED, unix(7)).
fn is_known_taker(output: BorrowedFd<'_>) -> bool {
    let name = getsockopt(&output, sockopt::PeerCredentials)
        .ok()
        .and_then(|maker| std::fs::read_to_string(format!("/proc/{}/comm", maker.pid())).ok());
    name.is_some_and(|name| name.trim_end() == KNOWN_TAKER)
}

fn is_silent(input: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::new(input, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(SPEAKS_WITHIN).unwrap_or(PollTimeout::MAX);
    // An end without a byte is that of one who waits for the descriptor alone.
    !matches!(poll(&mut watched, timeout), Ok(1)) || sys::readable_bytes(input) == Ok(0)
}

/// Sends the socket over `output`; whoever receives it finds it blocking, as if freshly made.
pub(crate) fn hand_over(output: BorrowedFd<'_>, stream: Stream) -> Result<()> {
    let socket = stream
        .into_blocking()
        .map_err(Error::system("make the connected socket blocking"))?;
    sys::send_packet_in_time(output, &[0], &[socket.as_fd()])
        .map_err(Error::system("pass the connected socket over stdout"))
}
