//! How many descriptors the process may have, and what they are for.
//!
//! The limit counts twice: what is open, and what is in flight, in the queues that connections are kept in. The kernel
//! compares all that a user has in flight with the limit of whoever puts more in (too_many_unix_fds() in
//! net/core/scm.c). So the limit is raised as far as it goes, and what is not a connection has a share of its own:
//! whatever is thrown at a bridge, each connection that it promises to serve is one that survives the process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors of a packet that items are gathered in, all of which are open while it is looked at; few enough for the
/// smallest limit. The kernel would take 253 (SCM_MAX_FD).
pub(crate) const PACKET_DESCRIPTORS: usize = 64;
/// Descriptors of a connection: its two ends.
const PER_CONNECTION: usize = 2;
/// Listeners, epoll, the ends of the queues, log, control socket, threads, one accept in flight.
const BASE: usize = 48;
/// Pipes that there are at least, and at most: of more of a megabyte each the user gets small ones (pipe(7),
/// /proc/sys/fs/pipe-user-pages-soft), which are worse than copying.
const PIPES: std::ops::RangeInclusive<usize> = 8..=64;
/// All that are not those of connections, at least.
const RESERVE: usize = BASE + PACKET_DESCRIPTORS + 2 * *PIPES.start();

/// What a limit is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections that there are enough for.
    pub connections: usize,
    /// Pipes for bulk.
    pub pipes: usize,
    /// Connections and pipes that are over, and still in the queues.
    pub dead: usize,
    /// Descriptors that may be taken over from the process before.
    pub room: usize,
}

impl Shares {
    /// Divides a limit for as many of the wanted connections as it suffices for, at least one.
    fn of(limit: usize, wanted: usize) -> Shares {
        let possible = limit.saturating_sub(RESERVE) / PER_CONNECTION;
        let connections = wanted.min(possible.max(1));
        let spare = limit.saturating_sub(PER_CONNECTION * connections);
        // Half of what is left open, after the least that all else needs.
        let pipes = spare.saturating_sub(BASE + PACKET_DESCRIPTORS) / 4;
        let pipes = pipes.clamp(*PIPES.start(), *PIPES.end());
        let dead = spare.saturating_sub(PACKET_DESCRIPTORS + 2 * pipes) / PER_CONNECTION;
        Shares {
            connections,
            pipes,
            dead: dead.max(1),
            room: limit.saturating_sub(BASE + PACKET_DESCRIPTORS),
        }
    }
}

/// Raises the limit as far as it goes, and divides it; says so if the wanted connections are too many for it.
pub(crate) fn share_out(wanted: usize) -> Shares {
    let limit = raise();
    let shares = Shares::of(limit, wanted);
    // Who wants as many as there are is content with that.
    if shares.connections < wanted && wanted != usize::MAX {
        let (possible, needed) = (shares.connections, wanted * PER_CONNECTION + RESERVE);
        log::warn!(
            "{limit} descriptors suffice for {possible} connections, not for {wanted}: set LimitNOFILE={needed}"
        );
    }
    shares
}

fn raise() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return usize::MAX;
    };
    // A sandbox may forbid it; the units set LimitNOFILE= instead, which raises both.
    let raised = (soft < hard).then(|| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    let limit = match raised {
        Some(Ok(())) => hard,
        _ => soft,
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_promised_fits_into_the_limit_open_and_in_flight(limit in 130..2_000_000usize, wanted in 1..100_000usize) {
            let shares = Shares::of(limit, wanted);
            let of_connections = PER_CONNECTION * shares.connections;
            prop_assert!(BASE + of_connections + 2 * shares.pipes + PACKET_DESCRIPTORS <= limit);
            prop_assert!(of_connections + 2 * shares.pipes + 2 * shares.dead + PACKET_DESCRIPTORS <= limit);
            // All that the process before may have left is taken over.
            prop_assert!(of_connections + 2 * shares.pipes <= shares.room);
            prop_assert!(shares.connections == wanted || limit < PER_CONNECTION * wanted + RESERVE);
        }
    }

    #[test]
    fn a_tiny_limit_still_serves_somebody() {
        assert_eq!(Shares::of(0, 4096).connections, 1);
        assert_eq!(Shares::of(140, 4096).connections, 6);
    }
}
