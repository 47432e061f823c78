//! What the tests share: sockets with deadlines, programs started as systemd starts them, content that is checked.

pub mod bridge;
pub mod connect;
pub mod content;
pub mod examples;
pub mod own_etc;
pub mod own_run;
pub mod pair;
pub mod place;
pub mod program;
pub mod store;

use std::time::{Duration, Instant};

/// How long anything that a test waits for may take. Never reached by a test that passes.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for what announces itself by no event, such as the state of a process.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_true() {
        assert!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says why a test does nothing on this machine.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
