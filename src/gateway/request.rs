//! What a peer asks the gateway for, read from the bytes that have come so far; none of them is taken.
//!
//! The first byte tells the two forms apart. Pure, and bounded: a request is read anew with each byte that comes, and there
//! are no more than [`REQUEST_MAX`](super::step::REQUEST_MAX) of them. What is behind a request belongs to the stream.

use super::step::Step;
use super::{http, socks};

/// A greeting of SOCKS5 by a client that needs no authentication.
pub(crate) const GREETING: [u8; 3] = [socks::VERSION, 1, 0];

/// Reads what has come so far. `has_greeted`: the greeting, which is still among the bytes, was answered.
pub(crate) fn read(bytes: &[u8], has_greeted: bool) -> Step {
    match bytes.first() {
        None => Step::Incomplete,
        Some(&socks::VERSION) => socks::read(bytes, has_greeted),
        Some(&socks::OLD_VERSION) => socks::old_version(),
        Some(_) => http::read(bytes),
    }
}

/// Returns whether that is a greeting and no more: its peer has seen that this is a gateway.
pub(crate) fn is_greeting(bytes: &[u8]) -> bool {
    matches!(bytes, [socks::VERSION, count, methods @ ..] if methods.len() == usize::from(*count))
}

/// Says that no more will come, for that reason.
pub(crate) fn unfinished(bytes: &[u8], problem: &str) -> Step {
    let reply = match bytes.first() {
        None | Some(&socks::VERSION) => Vec::new(),
        Some(_) => http::bad_request(problem),
    };
    Step::Wrong {
        reply,
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What becomes of a request that comes in two parts: the same as of the whole, unless it was decided before.
    fn in_parts(bytes: &[u8], cut: usize) {
        let mut has_greeted = false;
        let mut read = |bytes: &[u8]| loop {
            match super::read(bytes, has_greeted) {
                Step::Greeting => has_greeted = true,
                step => return step,
            }
        };
        let first = read(&bytes[..cut]);
        let whole = read(bytes);
        if first != Step::Incomplete {
            assert_eq!(
                first,
                whole,
                "{:?} cut at {cut}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_request_that_is_cut_anywhere_is_the_same() {
        let socks = b"\x05\x02\x00\x01\x05\x01\x00\x03\x0bexample.net\x01\xbbSSH-2.0".to_vec();
        let http =
            b"CONNECT example.net:443 HTTP/1.1\r\nHost: example.net\r\n\r\n\x16\x03\x01".to_vec();
        for bytes in [socks, http] {
            for cut in 0..=bytes.len() {
                in_parts(&bytes, cut);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_are_the_same_however_they_come(
            kind in 0..4usize,
            tail in proptest::collection::vec(any::<u8>(), 0..300),
            cut in any::<proptest::sample::Index>(),
        ) {
            let heads: [&[u8]; 4] = [b"", b"\x05\x01\x00\x05\x01\x00", b"CONNECT ", b"CONNECT a.example:1 HTTP/1.1\r\n"];
            let bytes = [heads[kind], &tail].concat();
            in_parts(&bytes, cut.index(bytes.len() + 1));
        }
    }
}
