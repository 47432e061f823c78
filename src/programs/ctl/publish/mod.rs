//! `vsockctl machines --publish`: machines of systemd-machined and libvirt in the registry of names, while they run.
//!
//! Each manager has a thread and a file. It is asked when something changes in the folder where it keeps what runs, and when
//! the process of a machine ends; the name of a machine whose process has ended is gone before anybody is asked. Of a manager
//! that gives no answer nobody knows which machines are still there: those have no names.

mod living;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::folder_watch::FolderWatch;
use crate::managers::Manager;
use crate::names;
use crate::notify;

use living::Living;

/// The files: behind those of anybody else, whose names hold.
const FILES: [(Manager, &str); 2] = [
    (Manager::Libvirt, "zz-libvirt.conf"),
    (Manager::Machined, "zz-machined.conf"),
];
/// For everything that a manager is asked at once.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// Changes of that time are looked at together: a manager writes a file several times.
const SETTLE: Duration = Duration::from_millis(50);
/// A manager may do after it wrote its file what it is asked for, so it is asked twice.
const AFTER: Duration = Duration::from_millis(500);
/// How often a manager that has machines is asked whatever happens: it may have lost one without a word.
const LOOK: Duration = Duration::from_secs(30);
/// The same where no change can be watched.
const WITHOUT: Duration = Duration::from_secs(5);
/// Until a manager is asked again that gave no answer; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest of these.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What systemd is told when the machines of a manager have no names, before the manager and the reason.
pub(super) const NO_NAMES: &str = "no names of ";
const HEAD: &str =
    "# Written by vsock-bridge-names.service, and removed when it stops: vsock-bridge-names(8).\n";

/// What came of each manager, in the order of [`FILES`]; none before it was asked.
type Outcomes = Mutex<[Option<Outcome>; FILES.len()]>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its machines have names, so many.
    Names(usize),
    /// There is no such manager.
    Absent(String),
    /// They have none, and why.
    Failed(String),
}

impl Outcome {
    fn is_failure(&self) -> bool {
        matches!(self, Outcome::Failed(_))
    }
}

/// Follows both managers until it is ended.
///
/// Errors: a thread cannot be made.
pub(super) fn run() -> Result<()> {
    let outcomes = Outcomes::default();
    thread::scope(|scope| {
        for (index, (manager, file)) in FILES.into_iter().enumerate() {
            let outcomes = &outcomes;
            let follow = move || {
                let path = Path::new(names::REGISTRY).join(file);
                let tell = |outcome| tell(outcomes, index, outcome);
                Follower::new(manager, path).follow(tell);
            };
            let thread = thread::Builder::new().spawn_scoped(scope, follow);
            thread.map_err(|error| {
                let errno = Errno::try_from(error).unwrap_or(Errno::EAGAIN);
                Error::system("make a thread")(errno)
            })?;
        }
        Ok(())
    })
}

/// Tells systemd how many names there are, or what keeps machines from having one.
fn tell(outcomes: &Outcomes, index: usize, outcome: Outcome) {
    let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
    if all[index].as_ref() == Some(&outcome) {
        return;
    }
    let was_ready = all.iter().all(Option::is_some);
    if let Outcome::Failed(why) = &outcome {
        log::warn!("no names of {}: {why}", FILES[index].0);
    }
    all[index] = Some(outcome);
    let Some(status) = status(&*all) else {
        return;
    };
    notify::status(&status);
    if !was_ready {
        notify::ready();
        // A failure has its line.
        if !all.iter().flatten().any(Outcome::is_failure) {
            log::info!("{status}");
        }
    }
}

/// Returns the status, once both were asked.
fn status(outcomes: &[Option<Outcome>]) -> Option<String> {
    let mut count = 0;
    let (mut failed, mut absent) = (Vec::new(), Vec::new());
    for (outcome, (manager, _)) in outcomes.iter().zip(FILES) {
        let none = |why| format!("{}{manager}: {why}", NO_NAMES);
        match outcome.as_ref()? {
            Outcome::Names(names) => count += names,
            Outcome::Absent(why) => absent.push(none(why)),
            Outcome::Failed(why) => failed.push(none(why)),
        }
    }
    if absent.len() == FILES.len() {
        failed.append(&mut absent);
    }
    match failed.is_empty() {
        true => Some(format!("names of machines: {count}")),
        false => Some(failed.join("; ")),
    }
}

/// Follows one manager.
struct Follower {
    manager: Manager,
    path: PathBuf,
    watch: FolderWatch,
    living: Vec<Living>,
    /// What was logged of machines without a name.
    told: BTreeSet<String>,
}

impl Follower {
    fn new(manager: Manager, path: PathBuf) -> Follower {
        Follower {
            manager,
            path,
            watch: FolderWatch::new(manager.folder()),
            living: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    fn follow(mut self, tell: impl Fn(Outcome)) {
        let mut pause = PAUSE;
        let mut is_change = false;
        self.watch.arm();
        loop {
            let outcome = self.renew();
            let is_failure = outcome.is_failure();
            tell(outcome);
            let time = match (is_failure, is_change) {
                (true, _) => Some(pause),
                (false, true) => Some(AFTER),
                (false, false) if self.is_blind() => Some(WITHOUT),
                (false, false) => (!self.living.is_empty()).then_some(LOOK),
            };
            pause = match is_failure {
                true => PAUSE_MAX.min(pause * 2),
                false => PAUSE,
            };
            is_change = self.wait(time);
        }
    }

    /// Returns whether changes are not seen: nothing can be watched, or another folder is there by now.
    fn is_blind(&self) -> bool {
        self.watch.inotify().is_none() || self.watch.is_astray()
    }

    /// Asks the manager, and writes what it says.
    fn renew(&mut self) -> Outcome {
        let answer = self.manager.machines(ANSWER_TIME);
        let (living, left_out) = living::select(answer.machines, &mut self.living);
        self.living = living;
        for line in left_out.difference(&self.told) {
            log::warn!("{}: {line}", self.manager);
        }
        self.told = left_out;
        match (self.write(), answer.problems.first(), answer.absent) {
            (Err(problem), _, _) => Outcome::Failed(problem),
            (Ok(()), Some(problem), _) => Outcome::Failed(problem.clone()),
            (Ok(()), None, Some(absent)) => Outcome::Absent(absent),
            (Ok(()), None, None) => Outcome::Names(self.living.len()),
        }
    }

    /// Waits until there may be something new; returns whether anything has changed.
    fn wait(&mut self, time: Option<Duration>) -> bool {
        let deadline = time.map(|time| Moment::now() + time);
        loop {
            let left = deadline.map(|deadline| deadline - Moment::now());
            if left.is_some_and(|left| left.is_zero()) {
                if self.is_blind() {
                    self.watch.arm();
                }
                return false;
            }
            if !self.is_woken(left) {
                continue;
            }
            if self.living.iter().any(Living::has_ended) {
                self.living.retain(|machine| !machine.has_ended());
                // What cannot be written is told after the manager was asked.
                let _ = self.write();
                return true;
            }
            thread::sleep(SETTLE);
            let changes = self.watch.take();
            if changes.is_stale {
                self.watch.arm();
            }
            if changes.is_stale || !changes.files.is_empty() {
                return true;
            }
        }
    }

    /// Waits for the folder, or the end of a process.
    fn is_woken(&self, left: Option<Duration>) -> bool {
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            // Rounded up, so that the time is over then.
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        let folder = self.watch.inotify().map(AsFd::as_fd);
        let processes = self.living.iter().filter_map(Living::descriptor);
        let mut watched: Vec<PollFd<'_>> = folder
            .into_iter()
            .chain(processes)
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        // An interrupted wait is one that was too short.
        poll(&mut watched, timeout).is_ok_and(|count| count > 0)
    }

    /// Writes the file if it says something else, in one step; one that cannot be written is removed.
    fn write(&self) -> Result<(), String> {
        let text = self.text();
        let old = fs::read_to_string(&self.path).unwrap_or_default();
        let written = match (old == text, text.is_empty()) {
            (true, _) => return Ok(()),
            (false, true) => remove(&self.path),
            (false, false) => replace(&self.path, &text),
        };
        written.map_err(|error| {
            // Whatever it says may be wrong by now.
            let _ = fs::remove_file(&self.path);
            format!("cannot write {}: {error}", self.path.display())
        })
    }

    fn text(&self) -> String {
        let lines: String = self.living.iter().map(Living::line).collect();
        match lines.is_empty() {
            true => lines,
            false => format!("{HEAD}{lines}"),
        }
    }
}

/// The folder is in memory, so that nothing is to be synced; and the file has no other owner to keep.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}"));
    fs::write(&new, text)?;
    fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    fs::rename(&new, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_is_not_there_is_told_where_no_other_is() {
        let names = || Some(Outcome::Names(2));
        let absent = || Some(Outcome::Absent("not there".to_owned()));
        let failed = || Some(Outcome::Failed("no answer".to_owned()));
        for (outcomes, expected) in [
            ([names(), None], None),
            ([names(), names()], Some("names of machines: 4")),
            ([names(), absent()], Some("names of machines: 2")),
            (
                [absent(), failed()],
                Some("no names of machined: no answer"),
            ),
            ([failed(), names()], Some("no names of libvirt: no answer")),
            (
                [absent(), absent()],
                Some("no names of libvirt: not there; no names of machined: not there"),
            ),
        ] {
            assert_eq!(status(&outcomes).as_deref(), expected, "{outcomes:?}");
        }
    }
}
