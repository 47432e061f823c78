//! The registry of names while it changes: inotify(7) on its folder, which need not be there yet.
//!
//! Changes are gathered for a moment and read together, a bounded part at a time, so that neither a thousand files nor one
//! that is written without end holds the loop up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::clock::Moment;
use crate::registry::Registry;

/// Changes of that time are read together.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two looks at all files, which take longer.
const WHOLE: Duration = Duration::from_millis(500);
/// Without inotify the folder is read that often.
const WITHOUT: Duration = Duration::from_secs(1);
/// Files read in one round of the loop: a few milliseconds.
const FILES: usize = 256;
/// Reads of events in one round; the kernel keeps 16384 events (fs.inotify.max_queued_events), 128 or more in each read.
const READS: usize = 128;

/// What of the folder can change a name.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE);
/// What becomes of a folder that is watched.
const SELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// A registry, and what is told of its changes.
#[derive(Debug)]
pub(crate) struct RegistryWatch {
    folder: PathBuf,
    registry: Registry,
    /// None where there is none to be had.
    inotify: Option<Inotify>,
    /// The folder, or the nearest one above it that is there.
    watched: Option<(WatchDescriptor, PathBuf)>,
    /// Files that have changed since they were read.
    changed: BTreeSet<String>,
    /// Everything may have.
    is_stale: bool,
    /// When to read what has changed.
    due: Option<Moment>,
    read_whole: Moment,
    /// What is wrong, as it was logged.
    told: BTreeSet<String>,
}

impl RegistryWatch {
    /// Reads the folder, and watches it from then on.
    pub(crate) fn new(folder: &Path, now: Moment) -> RegistryWatch {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.inspect_err(|errno| {
            let cause = errno.desc();
            log::warn!(
                "changes of {} are seen within a second, since they cannot be watched: {cause} (is \
                 fs.inotify.max_user_instances reached?)",
                folder.display()
            );
        });
        let mut watch = RegistryWatch {
            folder: folder.to_owned(),
            registry: Registry::default(),
            inotify: inotify.ok(),
            watched: None,
            changed: BTreeSet::new(),
            is_stale: true,
            due: None,
            read_whole: now,
            told: BTreeSet::new(),
        };
        // What changes after the first look is seen by the second.
        watch.arm();
        watch.read_whole(now);
        watch
    }

    /// Returns the names as they were read.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Reports a change to epoll, once; [`RegistryWatch::renew`] waits for the next.
    pub(crate) fn watch(&self, epoll: &Epoll, token: u64) -> Result<(), Errno> {
        match &self.inotify {
            Some(inotify) => epoll.add(inotify, event(token)),
            None => Ok(()),
        }
    }

    /// Learns that something has changed.
    pub(crate) fn note(&mut self, now: Moment) {
        self.due.get_or_insert(now + SETTLE);
    }

    /// Returns when [`RegistryWatch::renew`] must be called.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.due
    }

    /// Reads what has changed, if that is due; returns whether names may have.
    pub(crate) fn renew(&mut self, epoll: &Epoll, token: u64, now: Moment) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        self.take_events();
        if let Some(inotify) = &self.inotify {
            // It was added at the start, and stays open; an event that is left is reported at once.
            let _ = epoll.modify(inotify, &mut event(token));
        }
        if self.is_stale {
            let due = self.read_whole + WHOLE;
            if due > now {
                self.due = Some(due);
                return false;
            }
            self.arm();
            self.read_whole(now);
            return true;
        }
        let files: Vec<String> = self.changed.iter().take(FILES).cloned().collect();
        for file in &files {
            self.changed.remove(file);
            self.registry.read_again(file);
        }
        self.tell();
        if !self.changed.is_empty() {
            self.due = Some(now);
        }
        !files.is_empty()
    }

    fn take_events(&mut self) {
        for _ in 0..READS {
            let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) else {
                return;
            };
            for event in events {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: InotifyEvent) {
        const GONE: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
            .union(AddWatchFlags::IN_MOVE_SELF)
            .union(AddWatchFlags::IN_UNMOUNT)
            .union(AddWatchFlags::IN_Q_OVERFLOW);
        let Some((watched, path)) = &self.watched else {
            self.is_stale = true;
            return;
        };
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.is_stale = true;
        } else if event.wd != *watched {
            // Of a folder that was watched before.
        } else if event.mask.intersects(GONE) {
            self.is_stale = true;
        } else if *path == self.folder {
            let name = event.name.and_then(|name| name.into_string().ok());
            self.changed.extend(name);
        } else if let Some(name) = event.name {
            // The next folder on the way may be there now.
            self.is_stale |= self.folder.starts_with(path.join(name));
        }
    }

    /// Watches the folder, or the nearest one above it that is there.
    fn arm(&mut self) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        if let Some((former, _)) = self.watched.take() {
            // It may be gone with its folder.
            let _ = inotify.rm_watch(former);
        }
        for path in self.folder.ancestors() {
            let flags = match path == self.folder {
                true => CHANGES | SELF,
                false => AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | SELF,
            };
            match inotify.add_watch(path, flags) {
                Ok(watched) => {
                    self.watched = Some((watched, path.to_owned()));
                    break;
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => {
                    let (path, cause) = (path.display(), errno.desc());
                    log::warn!(
                        "changes of {path} are seen within a second, since it cannot be watched: {cause}"
                    );
                    self.inotify = None;
                    return;
                }
            }
        }
    }

    fn read_whole(&mut self, now: Moment) {
        self.registry = Registry::read(&self.folder);
        self.changed.clear();
        self.read_whole = now;
        // One that was made between the two looks is not watched yet.
        let is_watched = |(_, path): &(WatchDescriptor, PathBuf)| *path == self.folder;
        let is_late = !self.watched.as_ref().is_some_and(is_watched) && self.folder.exists();
        self.is_stale = self.inotify.is_none() || is_late;
        self.due = match (&self.inotify, is_late) {
            (None, _) => Some(now + WITHOUT),
            (Some(_), true) => Some(now + WHOLE),
            (Some(_), false) => None,
        };
        self.tell();
    }

    /// Logs what is wrong since the last time.
    fn tell(&mut self) {
        let problems: BTreeSet<String> = self.registry.problems().map(str::to_owned).collect();
        for problem in problems.difference(&self.told) {
            log::warn!("{problem}");
        }
        self.told = problems;
    }
}

/// One-shot, so that what is gathered does not wake the loop each time.
fn event(token: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, token)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};

    use super::*;

    struct Watched {
        place: tempfile::TempDir,
        epoll: Epoll,
        watch: RegistryWatch,
    }

    impl Watched {
        /// The folder is `names` in `run`, and neither is there.
        fn new() -> Watched {
            let place = tempfile::tempdir().unwrap();
            let watch = RegistryWatch::new(&place.path().join("run/names"), Moment::now());
            let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
            watch.watch(&epoll, 7).unwrap();
            Watched {
                place,
                epoll,
                watch,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.place.path().join("run/names").join(name)
        }

        fn make(&self) {
            fs::create_dir_all(self.path("")).unwrap();
        }

        /// Writes a file in one step.
        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(".new"), text).unwrap();
            fs::rename(self.path(".new"), self.path(name)).unwrap();
        }

        /// Goes round as the loop does until the name is at that place; returns how often names may have changed.
        fn wait_for(&mut self, name: &str, place: Option<&str>) -> usize {
            let (end, mut changes) = (Moment::now() + Duration::from_secs(20), 0);
            while self
                .watch
                .registry()
                .location(name)
                .map(ToString::to_string)
                != place.map(str::to_owned)
            {
                assert!(Moment::now() < end, "{name} is not at {place:?}");
                let deadline = self.watch.deadline().unwrap_or(end);
                let wait = (deadline - Moment::now()).as_millis() as u16 + 1;
                let mut events = [EpollEvent::empty()];
                let found = self.epoll.wait(&mut events, EpollTimeout::from(wait));
                if found.unwrap() > 0 {
                    self.watch.note(Moment::now());
                }
                changes += usize::from(self.watch.renew(&self.epoll, 7, Moment::now()));
            }
            changes
        }
    }

    #[test]
    fn a_folder_comes_late_goes_and_comes_again() {
        let mut watched = Watched::new();
        for cid in ["CID 3", "CID 4"] {
            watched.make();
            watched.write("a.conf", &format!("web={}", &cid[4..]));
            watched.wait_for("web", Some(cid));
            fs::write(watched.path("b.conf"), "db=5\n").unwrap();
            watched.wait_for("db", Some("CID 5"));
            fs::remove_file(watched.path("b.conf")).unwrap();
            watched.wait_for("db", None);
            fs::remove_dir_all(watched.path("")).unwrap();
            watched.wait_for("web", None);
        }
        fs::remove_dir_all(watched.place.path().join("run")).unwrap();
        watched.make();
        watched.write("a.conf", "web=6");
        watched.wait_for("web", Some("CID 6"));
        // Another folder in its place, with other files.
        let before = watched.place.path().join("run/before");
        fs::rename(watched.path(""), &before).unwrap();
        watched.make();
        watched.write("a.conf", "web=7");
        watched.wait_for("web", Some("CID 7"));
        fs::write(before.join("a.conf"), "web=8").unwrap();
        watched.write("z.conf", "end=9");
        watched.wait_for("end", Some("CID 9"));
        watched.wait_for("web", Some("CID 7"));
    }

    #[test]
    fn a_thousand_changes_are_read_a_few_times() {
        let mut watched = Watched::new();
        watched.make();
        watched.write("a.conf", "web=3");
        watched.wait_for("web", Some("CID 3"));
        for number in 0..1000 {
            watched.write("a.conf", &format!("web={}", 5 + number));
            watched.write(&format!("{number}.conf"), &format!("m{number}=3"));
        }
        watched.write("z.conf", "end=9");
        let changes = watched.wait_for("end", Some("CID 9"));
        watched.wait_for("m500", Some("CID 3"));
        watched.wait_for("web", Some("CID 1004"));
        assert!(changes <= 10, "{changes}");
    }

    #[test]
    fn more_events_than_the_kernel_keeps_lose_no_name() {
        let mut watched = Watched::new();
        watched.make();
        watched.write("a.conf", "web=3");
        watched.wait_for("web", Some("CID 3"));
        let queued = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let queued: usize = queued.trim().parse().unwrap();
        // Two names in turn, since the same event twice is one; a new file is three events and its end one.
        for number in 0..queued.min(100_000) / 4 + 10 {
            let name = watched.path(&format!("{}.conf~", number % 2));
            fs::write(&name, "").unwrap();
            fs::remove_file(name).unwrap();
        }
        watched.write("a.conf", "web=4");
        watched.wait_for("web", Some("CID 4"));
    }

    #[test]
    fn without_inotify_the_folder_is_read_each_second() {
        let mut watched = Watched::new();
        watched.watch.inotify = None;
        watched.watch.read_whole(Moment::now());
        watched.make();
        watched.write("a.conf", "web=3");
        watched.wait_for("web", Some("CID 3"));
    }
}
