//! What a bridge counts: totals, refusals and failures by reason, and how long its targets took to be reached.
//!
//! Each number has its word in the ledger, where the next process goes on with it. A word that an older program did not
//! know is 0 there, so new ones need no new layout; none ever moves.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::closed::Ending;
use crate::error::Error;
use crate::gate::Refusal;
use crate::handover::Store;

/// The words of [`Totals`]: five, and room for more.
const TOTALS: usize = 0;
/// Those of refusals, by [`Refusal::REASONS`].
const REFUSALS: usize = 8;
/// Those of failures, by [`FAILURES`].
const FAILURES_AT: usize = 16;
/// Those of connects, by [`BUCKETS`]; one more for those that took longer.
const CONNECTS: usize = 32;
/// All their times together, in microseconds.
const CONNECT_TIME: usize = 63;

/// Why a target was not reached, as it is counted. The place is that in the ledger, so a new one comes last.
const FAILURES: [&str; 13] = [
    "refused",
    "timeout",
    "missing",
    "no_route",
    "permission",
    "full",
    "shortage",
    "mux",
    "unmapped",
    "source",
    "other",
    "request",
    "name",
];

/// Seconds: those that Prometheus takes where nothing is said, and two below, as most targets are on this machine.
const BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What a loop has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Connections that reached their target and are over.
    pub served: u64,
    /// Peers that were not let in.
    pub refused: u64,
    /// Peers whose target could not be reached.
    pub unreachable: u64,
    /// Bytes that targets took.
    pub inbound_bytes: u64,
    /// Bytes that peers took.
    pub outbound_bytes: u64,
    /// How the last connection ended.
    pub last: Option<Ending>,
}

impl Totals {
    /// Writes them down.
    pub(crate) fn write(&self, store: &Store) {
        let counts = [
            self.served,
            self.refused,
            self.unreachable,
            self.inbound_bytes,
            self.outbound_bytes,
        ];
        for (number, count) in counts.into_iter().enumerate() {
            store
                .common(TOTALS + number)
                .store(count, Ordering::Release);
        }
    }

    /// Reads those of the process before.
    pub(crate) fn read(store: &Store) -> Totals {
        let count = |number| read(store, TOTALS + number);
        Totals {
            served: count(0),
            refused: count(1),
            unreachable: count(2),
            inbound_bytes: count(3),
            outbound_bytes: count(4),
            last: None,
        }
    }
}

/// Peers by the reason why they came to nothing.
pub(crate) type Reasons = BTreeMap<String, u64>;

/// How long it took to reach targets, from accept to connect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectTimes {
    /// How many were reached.
    pub count: u64,
    /// Their times together, in seconds.
    pub sum_seconds: f64,
    /// Times in seconds, and how many took no longer.
    pub buckets: Vec<(f64, u64)>,
}

/// Counts a peer that was not let in.
pub(crate) fn count_refusal(store: &Store, refusal: &Refusal) {
    add(store, REFUSALS + refusal.reason(), 1);
}

/// Counts a peer whose target was not reached.
pub(crate) fn count_failure(store: &Store, error: &Error) {
    add(store, FAILURES_AT + failure(error), 1);
}

/// Counts a target that was reached.
pub(crate) fn count_connect(store: &Store, time: Duration) {
    let seconds = time.as_secs_f64();
    let bucket = BUCKETS.partition_point(|&limit| limit < seconds);
    add(store, CONNECTS + bucket, 1);
    add(store, CONNECT_TIME, time.as_micros() as u64);
}

/// Returns how many were refused for each reason.
pub(crate) fn refusals(store: &Store) -> Reasons {
    reasons(store, REFUSALS, &Refusal::REASONS)
}

/// Returns how many had no target for each reason.
pub(crate) fn failures(store: &Store) -> Reasons {
    reasons(store, FAILURES_AT, &FAILURES)
}

/// Returns how long it took to reach targets.
pub(crate) fn connect_times(store: &Store) -> ConnectTimes {
    let mut count = 0;
    let mut up_to = |(number, limit): (usize, &f64)| {
        count += read(store, CONNECTS + number);
        (*limit, count)
    };
    let buckets = BUCKETS.iter().enumerate().map(&mut up_to).collect();
    ConnectTimes {
        count: count + read(store, CONNECTS + BUCKETS.len()),
        sum_seconds: Duration::from_micros(read(store, CONNECT_TIME)).as_secs_f64(),
        buckets,
    }
}

fn reasons(store: &Store, start: usize, names: &[&str]) -> Reasons {
    let count = |(number, name): (usize, &&str)| ((*name).to_owned(), read(store, start + number));
    names.iter().enumerate().map(count).collect()
}

/// Returns the place of the reason.
fn failure(error: &Error) -> usize {
    match error {
        Error::Connect { source, .. } => match *source {
            // What vsock says where nobody listens, too.
            Errno::ECONNREFUSED | Errno::ECONNRESET => 0,
            Errno::ETIMEDOUT => 1,
            Errno::ENOENT | Errno::ENOTDIR => 2,
            Errno::ENODEV
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::ENETUNREACH => 3,
            Errno::EACCES | Errno::EPERM => 4,
            Errno::EAGAIN => 5,
            source => system(source),
        },
        Error::ConnectTimeout { .. } => 1,
        Error::Mux { .. } => 7,
        Error::Unmapped { .. } => 8,
        Error::Source { .. } | Error::NoRoute { .. } => 9,
        Error::System { source, .. } => system(*source),
        Error::Request(_) => 11,
        Error::Resolve { .. } | Error::Lookup { .. } => 12,
        _ => OTHER,
    }
}

const OTHER: usize = 10;

fn system(errno: Errno) -> usize {
    match errno {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => 6,
        _ => OTHER,
    }
}

fn read(store: &Store, number: usize) -> u64 {
    store.common(number).load(Ordering::Acquire)
}

fn add(store: &Store, number: usize, count: u64) {
    store.common(number).fetch_add(count, Ordering::AcqRel);
}

/// No number has the word of another.
const _: () = assert!(
    TOTALS + 5 <= REFUSALS
        && REFUSALS + Refusal::REASONS.len() <= FAILURES_AT
        && FAILURES_AT + FAILURES.len() <= CONNECTS
        && CONNECTS + BUCKETS.len() < CONNECT_TIME
);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::endpoint::Endpoint;
    use crate::handover::Kind;

    /// The counts that are not 0.
    fn counted(reasons: Reasons) -> Vec<(String, u64)> {
        reasons
            .into_iter()
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    fn error(source: Errno) -> Error {
        let target: Endpoint = "[::1]:445".parse().unwrap();
        Error::Connect {
            target: Box::new(target),
            hint: "",
            source,
        }
    }

    #[test]
    fn every_failure_has_its_reason() {
        for (source, name) in [
            (Errno::ECONNREFUSED, "refused"),
            (Errno::ECONNRESET, "refused"),
            (Errno::ETIMEDOUT, "timeout"),
            (Errno::ENOENT, "missing"),
            (Errno::ENETUNREACH, "no_route"),
            (Errno::EACCES, "permission"),
            (Errno::EAGAIN, "full"),
            (Errno::EMFILE, "shortage"),
            (Errno::EINVAL, "other"),
        ] {
            assert_eq!(FAILURES[failure(&error(source))], name, "{source}");
        }
        let unmapped = Error::Unmapped {
            address: String::new(),
        };
        let mux = Error::Mux {
            target: Box::new("[::1]:445".parse().unwrap()),
            problem: String::new(),
        };
        let source = Error::Source {
            address: "::1".parse().unwrap(),
            source: Errno::EADDRNOTAVAIL,
        };
        let shortage = Error::system("get memory")(Errno::ENOMEM);
        let all = [&unmapped, &mux, &source, &shortage].map(|error| FAILURES[failure(error)]);
        assert_eq!(all, ["unmapped", "mux", "source", "shortage"]);
    }

    #[test]
    fn each_reason_is_counted_by_itself() {
        let store = Store::private().unwrap();
        for refusal in [Refusal::Cid, Refusal::PeerFull(3), Refusal::UnknownFull(3)] {
            count_refusal(&store, &refusal);
        }
        count_failure(&store, &error(Errno::ECONNREFUSED));
        let pair = |name: &str, count| (name.to_owned(), count);
        assert_eq!(
            counted(refusals(&store)),
            [pair("max_connections_per_peer", 2), pair("not_allowed", 1)]
        );
        assert_eq!(counted(failures(&store)), [pair("refused", 1)]);
        assert_eq!(connect_times(&store).count, 0);
        assert_eq!(Totals::read(&store), Totals::default());
    }

    #[test]
    fn a_time_is_in_the_bucket_of_its_limit_and_in_all_above() {
        let store = Store::private().unwrap();
        for microseconds in [40, 1000, 1001, 10_000_000, 10_000_001] {
            count_connect(&store, Duration::from_micros(microseconds));
        }
        let times = connect_times(&store);
        assert_eq!(times.count, 5);
        assert_eq!(times.sum_seconds, 20.002_042);
        let counts: Vec<u64> = times.buckets.iter().map(|&(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!(counted(failures(&store)), []);
    }

    #[test]
    fn the_next_process_goes_on_counting_whatever_the_layout() {
        let stores = [Store::with_queues(), Store::with_queues_of_another_layout()];
        for store in stores {
            // What an older program leaves has nothing where the reasons and the times are, whatever else it keeps.
            let (output, input) = nix::unistd::pipe().unwrap();
            let ends = [output.as_fd(), input.as_fd()];
            let _kept = store.keep(Kind::Connection, |_| {}, &ends).unwrap();
            drop(store.buffer().unwrap());
            let (found, _inherited) = Store::adopt(store.stored(), usize::MAX).unwrap();
            assert_eq!(counted(refusals(&found)), []);
            assert_eq!(counted(failures(&found)), []);
            assert_eq!(connect_times(&found).count, 0);

            count_refusal(&found, &Refusal::Foreign);
            count_connect(&found, Duration::from_millis(3));
            let totals = Totals {
                refused: 1,
                outbound_bytes: 7,
                ..Totals::default()
            };
            totals.write(&found);
            let (next, _inherited) = Store::adopt(store.stored(), usize::MAX).unwrap();
            count_refusal(&next, &Refusal::Foreign);
            assert_eq!(counted(refusals(&next)), [("foreign".to_owned(), 2)]);
            assert_eq!(connect_times(&next), connect_times(&found));
            assert_eq!(Totals::read(&next), totals);
        }
    }
}
