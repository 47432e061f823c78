//! A terminal on which each picture is drawn over the one before, and which is left as it was.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, raise};

use super::output;
use crate::error::{Error, Result};

/// Ends what an unfinished picture may have begun, and removes the rest of its line.
const CLEAN: &str = "\x1b[0m\x1b[?7h\r\x1b[J";
/// How long a signal waits for a picture to be complete, which a terminal that was stopped (Ctrl-S) takes never.
const PATIENCE: Duration = Duration::from_millis(200);

/// What happens to the terminal.
#[derive(Debug)]
struct Use {
    is_drawn_on: bool,
    /// It was left clean, and nothing is drawn any more.
    is_over: bool,
}

static USE: Mutex<Use> = Mutex::new(Use {
    is_drawn_on: false,
    is_over: false,
});
static DRAWN: Condvar = Condvar::new();

/// Has the signals that end a program leave a clean terminal: Ctrl-C throws away what was not yet shown.
pub(super) fn begin() -> Result<()> {
    let ends = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let mask: SigSet = ends.into_iter().collect();
    (mask.thread_block()).map_err(Error::system("block signals"))?;
    let body = move || {
        if let Ok(signal) = mask.wait() {
            let mut used = USE.lock().unwrap_or_else(PoisonError::into_inner);
            used.is_over = true;
            let _used = DRAWN.wait_timeout_while(used, PATIENCE, |used| used.is_drawn_on);
            // Not through the lock of standard output, which whoever waits for the terminal may have.
            let _ = nix::unistd::write(std::io::stdout(), CLEAN.as_bytes());
            // Whoever started us sees which signal it was. Neither can fail for a signal that has just come.
            let _ = mask.thread_unblock();
            let _ = raise(signal);
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(body);
    let fail = |error: std::io::Error| Error::System {
        operation: "start a thread",
        source: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    };
    thread.map(drop).map_err(fail)
}

/// Draws a text, no longer than the terminal; tells whether there still is a reader.
pub(super) fn draw(text: &str, height: usize) -> Result<bool> {
    {
        let mut used = USE.lock().unwrap_or_else(PoisonError::into_inner);
        if used.is_over {
            return Ok(true);
        }
        used.is_drawn_on = true;
    }
    let result = output::write(&picture(text, height));
    (USE.lock().unwrap_or_else(PoisonError::into_inner)).is_drawn_on = false;
    DRAWN.notify_all();
    result
}

/// Returns what puts the text over the one before. The last line of the terminal is for the cursor.
fn picture(text: &str, height: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1);
    let shown = match lines.len() <= room {
        true => lines.len(),
        false => room.saturating_sub(1),
    };
    // From the upper left corner, without line breaks of the terminal's own.
    let mut picture = "\x1b[?7l\x1b[H".to_owned();
    for line in &lines[..shown] {
        picture += &format!("{line}\x1b[K\n");
    }
    if shown < lines.len() {
        picture += &format!("{} more lines\x1b[K\n", lines.len() - shown);
    }
    // Nothing of what stood below stays.
    picture + "\x1b[?7h\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_no_longer_than_the_terminal() {
        let begin = "\x1b[?7l\x1b[Ha\x1b[K\n";
        let end = "\x1b[?7h\x1b[J";
        assert_eq!(picture("a\n", 3), format!("{begin}{end}"));
        assert_eq!(picture("a\nb\n", 3), format!("{begin}b\x1b[K\n{end}"));
        let cut = format!("{begin}2 more lines\x1b[K\n{end}");
        assert_eq!(picture("a\nb\nc\n", 3), cut);
    }
}
