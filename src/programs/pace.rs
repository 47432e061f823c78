//! How often a start that fails is tried again: at once, then after a second, two, four and so on up to a minute.
//!
//! systemd starts a service again after RestartSec=, which is short, since after a crash every moment counts; that it could
//! wait longer each time (RestartSteps=) is unknown to 252, and would hold for crashes as well. So the process that
//! cannot start stays for a while before it ends. Each cause is told once. What is known of earlier failures is in a file
//! in the RuntimeDirectory= of the service (with RuntimeDirectoryPreserve=restart); without one, or systemd, nothing
//! is paced.
//!
//! Must not hold up whoever gives an order: a signal ends the wait, and the next failure counts as the first.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::unit_folder;
use crate::accounting::report::connections;
use crate::notify;

/// The name of the file in the service's folder.
const FILE: &str = "failures";
/// The name of the file with the number of starts that have not ended yet, or by a crash.
const STARTS: &str = "starts";
/// Crashes in a row after which the next one costs a second; whatever brought them about may be gone by then.
const CRASHES: u32 = 5;
/// How long a process stays that has failed as often as one before.
const FIRST: Duration = Duration::from_secs(1);
/// How long it stays at most.
const LONGEST: Duration = Duration::from_secs(60);
/// Causes that are remembered; each of more is told each time.
const CAUSES_MAX: usize = 16;
/// Longer after the wait of a process that failed, another failure has nothing to do with it.
const MEMORY: Duration = Duration::from_secs(120);

/// Returns why the process cannot start, if that is news, and how many connections wait; stays for a while if it has
/// failed before.
///
/// Returns the status to exit with: `failure`, or success when told to leave meanwhile.
pub(super) fn give_up(
    cause: &str,
    waiting: usize,
    failure: ExitCode,
    say: impl FnOnce(&str),
) -> ExitCode {
    let Some(folder) = paced() else {
        say(cause);
        return failure;
    };
    let path = folder.join(FILE);
    let mut failures = Failures::read(&path);
    let unit = unit(&folder);
    if failures.add(cause) {
        say(&format!("{cause}{}", remark(waiting, &unit)));
    }
    // It has ended with a word.
    let _ = fs::remove_file(folder.join(STARTS));
    if let Err(error) = fs::write(&path, failures.text()) {
        log::debug!("cannot write {}: {error}", path.display());
    }
    let time = failures.delay();
    if time.is_zero() {
        return failure;
    }
    let seconds = time.as_secs();
    let status = format!(
        "Cannot start, next attempt in {seconds} s or by `systemctl restart {unit}`: {cause}"
    );
    notify::lingering(&status, time);
    match is_told_to_leave(time) {
        Ok(true) => {
            // The next attempt is somebody's, who wants to hear what came of it.
            forget_in(&folder);
            ExitCode::SUCCESS
        }
        // An error is a wait that was too short, no more.
        _ => failure,
    }
}

/// Counts a start; stays for a while before it goes on when many in a row have ended without a word, as by a crash.
///
/// Returns the status to exit with when told to leave meanwhile.
pub(super) fn begin() -> Option<ExitCode> {
    let folder = paced()?;
    let path = folder.join(STARTS);
    let crashes: u32 = fs::read_to_string(&path)
        .ok()
        .filter(|_| age(&path).is_none_or(|age| age < LONGEST + MEMORY))
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    if let Err(error) = fs::write(&path, format!("{}\n", crashes.saturating_add(1))) {
        log::debug!("cannot write {}: {error}", path.display());
    }
    let time = delay(crashes.saturating_sub(CRASHES));
    if time.is_zero() {
        return None;
    }
    let (seconds, unit) = (time.as_secs(), unit(&folder));
    let status = format!(
        "{crashes} starts in a row have crashed, next attempt in {seconds} s or by `systemctl restart {unit}`"
    );
    if crashes == CRASHES + 2 {
        log::error!("{status}, and then ever more rarely");
    }
    notify::lingering(&status, time);
    let is_told = is_told_to_leave(time).unwrap_or(false);
    is_told.then(|| {
        forget_in(&folder);
        ExitCode::SUCCESS
    })
}

/// Forgets earlier failures: the start has succeeded.
pub(super) fn forget() {
    if let Some(folder) = paced() {
        forget_in(&folder);
    }
}

/// Returns the folder that systemd, or who stands for it, made for the service.
pub(super) fn folder() -> Option<PathBuf> {
    let folders = env::var("RUNTIME_DIRECTORY").ok()?;
    folders.split(':').next().map(PathBuf::from)
}

/// Returns that folder where systemd is the one that starts the next process; any other has a pace of its own.
fn paced() -> Option<PathBuf> {
    folder().filter(|_| notify::is_heard())
}

/// Returns the name of the unit that the process is, without `.service`.
pub(super) fn own_unit() -> Option<String> {
    unit_folder::unit(&folder()?)
}

fn forget_in(folder: &Path) {
    for name in [FILE, STARTS] {
        // Mostly there is none.
        let _ = fs::remove_file(folder.join(name));
    }
}

/// The name of the unit, as a shell takes it.
fn unit(folder: &Path) -> String {
    match unit_folder::unit(folder).unwrap_or_default() {
        // It would take the `\x2d` of a name for something else.
        name if name.contains('\\') => format!("'{name}'"),
        name => name,
    }
}

/// What becomes of open connections, which nobody serves meanwhile.
fn remark(waiting: usize, unit: &str) -> String {
    if waiting == 0 {
        return String::new();
    }
    let open = connections(waiting as u64);
    format!(
        "; nothing moves on {open} until this is fixed and `systemctl restart {unit}` is run \
         (`systemctl stop {unit}` resets them)"
    )
}

/// Waits for an order to end; false when the time has passed without one.
fn is_told_to_leave(time: Duration) -> nix::Result<bool> {
    let orders = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1];
    let mask: SigSet = orders.into_iter().collect();
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?;
    let mut wait = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut wait, time)? > 0)
}

/// The failures in a row, and their distinct causes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failures {
    count: u32,
    causes: Vec<String>,
}

impl Failures {
    fn read(path: &Path) -> Failures {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let count = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
        let failures = Failures {
            count,
            causes: lines.map(str::to_owned).collect(),
        };
        match age(path) {
            // Stopped by hand between two attempts: the folder stays then.
            Some(age) if age > failures.delay() + MEMORY => Failures::default(),
            _ => failures,
        }
    }

    /// Counts one more; true of a cause that was not there before, with which somebody has changed something.
    fn add(&mut self, cause: &str) -> bool {
        self.count = self.count.saturating_add(1);
        let is_new = !self.causes.iter().any(|known| known == cause);
        if is_new && self.causes.len() < CAUSES_MAX {
            self.causes.push(cause.to_owned());
            self.count = 1;
        }
        is_new
    }

    fn text(&self) -> String {
        format!("{}\n{}\n", self.count, self.causes.join("\n"))
    }

    fn delay(&self) -> Duration {
        delay(self.count)
    }
}

/// How long the process stays that has failed so often.
fn delay(count: u32) -> Duration {
    match count {
        0 | 1 => Duration::ZERO,
        // Six doublings are more than a minute.
        count => LONGEST.min(FIRST * 2u32.pow((count - 2).min(6))),
    }
}

/// How long ago the file was written; none when the clock was set back.
fn age(path: &Path) -> Option<Duration> {
    fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_twice_as_long_up_to_a_minute() {
        let mut failures = Failures::default();
        let mut next = || {
            failures.add("x");
            failures.delay().as_secs()
        };
        let delays: Vec<u64> = (0..10).map(|_| next()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_cause_is_news_once() {
        let mut failures = Failures::default();
        let news = ["a", "b", "a", "b", "c"].map(|cause| failures.add(cause));
        assert_eq!(news, [true, true, false, false, true]);
    }

    #[test]
    fn another_cause_is_tried_again_at_once_but_not_if_it_is_another_one_each_time() {
        let mut failures = Failures::default();
        let mut after = |cause: &str| {
            failures.add(cause);
            failures.delay().as_secs()
        };
        assert_eq!(
            ["a", "a", "a", "b", "a", "b"].map(&mut after),
            [0, 1, 2, 0, 1, 2]
        );
        let delays: Vec<u64> = (0..20).map(|number| after(&number.to_string())).collect();
        assert_eq!(delays[12..], [0, 0, 1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn connections_that_wait_are_told_with_the_commands_that_end_it() {
        let unit = unit(Path::new("/run/vsock-bridge/vsock-bridge-mux@run/a-b_445"));
        assert_eq!(remark(0, &unit), "");
        let text = remark(1, &unit);
        assert!(
            text.starts_with("; nothing moves on 1 connection until"),
            "{text}"
        );
        let command = r"`systemctl restart 'vsock-bridge-mux@run-a\x2db_445'`";
        assert!(text.contains(command), "{text}");
    }
}
