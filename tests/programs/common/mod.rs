//! What the tests share: sockets with deadlines, programs started as systemd starts them, content that is checked.

pub mod bridge;
pub mod connect;
pub mod content;
pub mod examples;
pub mod exposition;
pub mod notifications;
pub mod own_etc;
pub mod own_registry;
pub mod own_run;
pub mod pair;
pub mod place;
pub mod program;
pub mod served;
pub mod spot;
pub mod store;
pub mod vmm;

use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything that a test waits for may take. Never reached by a test that passes.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for what announces itself by no event, such as the state of a process: looks again and again, the more rarely the
/// longer it has waited, since a look may cost milliseconds of a processor that others need to get there.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_true() {
        let waited = began.elapsed();
        assert!(waited < DEADLINE, "not within {DEADLINE:?}: {what}");
        let pause = (waited / 16).clamp(Duration::from_millis(5), Duration::from_millis(250));
        std::thread::sleep(pause);
    }
}

/// Makes a folder for one test, whose path fits into the address of a unix socket (unix(7)) and is one word to shells and
/// configuration files: in TMPDIR if that has such a path, else in /tmp.
pub fn own_folder() -> TempDir {
    let wished = std::env::temp_dir();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let bytes = wished.as_os_str().as_encoded_bytes();
    let fits = bytes.len() <= 60 && bytes.iter().all(is_plain);
    tempfile::tempdir_in(if fits { &*wished } else { "/tmp".as_ref() }).unwrap()
}

/// Says why a test does nothing on this machine.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
