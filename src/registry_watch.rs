//! The registry of names, kept up to date from its folder while a bridge runs.
//!
//! Changes are gathered for a moment and read together, a bounded part at a time, so that neither a thousand files nor one
//! that is written without end holds the loop up.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::clock::Moment;
use crate::folder_watch::FolderWatch;
use crate::registry::Registry;

/// Changes of that time are read together.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two looks at all files, which take longer.
const WHOLE: Duration = Duration::from_millis(500);
/// What inotify does not tell of is looked at that often: all without it, symbolic links, and last lines without a newline.
const UNTOLD: Duration = Duration::from_secs(1);
/// Where all files are read for whoever comes, changed or not, that is for at most that part of the time.
const SHARE: u32 = 10;
/// Files read in one round of the loop: a few milliseconds.
const FILES: usize = 256;
/// A registry, and what is told of its changes.
#[derive(Debug)]
pub(crate) struct RegistryWatch {
    folder: FolderWatch,
    registry: Registry,
    /// Files that have changed since they were read.
    changed: BTreeSet<String>,
    /// Everything may have.
    is_stale: bool,
    /// When to read what has changed.
    due: Option<Moment>,
    /// When all files were read, and how long that took.
    read_whole: Moment,
    took: Duration,
    /// What is wrong, as it was logged.
    told: BTreeSet<String>,
}

impl RegistryWatch {
    /// Reads the folder, and watches it from then on.
    pub(crate) fn new(folder: &Path, now: Moment) -> RegistryWatch {
        let mut watch = RegistryWatch {
            folder: FolderWatch::new(folder),
            registry: Registry::default(),
            changed: BTreeSet::new(),
            is_stale: true,
            due: None,
            read_whole: now,
            took: Duration::ZERO,
            told: BTreeSet::new(),
        };
        // What changes after the first look is seen by the second.
        watch.folder.arm();
        watch.read_whole(now);
        watch
    }

    /// Returns the names as they were read.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Reports a change to epoll, once; [`RegistryWatch::renew`] waits for the next.
    pub(crate) fn watch(&self, epoll: &Epoll, token: u64) -> Result<(), Errno> {
        match self.folder.inotify() {
            Some(inotify) => epoll.add(inotify, event(token)),
            None => Ok(()),
        }
    }

    /// Learns that something has changed.
    pub(crate) fn note(&mut self, now: Moment) {
        self.look_at(now + SETTLE);
    }

    fn look_at(&mut self, due: Moment) {
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Returns when [`RegistryWatch::renew`] must be called.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.due
    }

    /// Reads all that has changed by now, without waiting for more; see [`RegistryWatch::renew`].
    pub(crate) fn renew_at_once(&mut self, epoll: &Epoll, token: u64, now: Moment) -> bool {
        self.is_stale |= self.folder.is_astray();
        let is_behind = self.is_stale || self.due.is_some() || self.folder.has_changes();
        if !is_behind {
            return false;
        }
        self.gather(epoll, token);
        let is_often = self.folder.inotify().is_none() || self.registry.is_cut();
        let from = match is_often {
            true => self.read_whole + self.took * SHARE,
            false => now,
        };
        match self.is_stale {
            true => self.read_whole_from(from, now),
            false => self.read_changed(usize::MAX, now),
        }
    }

    /// Reads what has changed, if that is due; returns whether names may have.
    pub(crate) fn renew(&mut self, epoll: &Epoll, token: u64, now: Moment) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.gather(epoll, token);
        match self.is_stale {
            true => self.read_whole_from(self.read_whole + WHOLE, now),
            false => self.read_changed(FILES, now),
        }
    }

    /// Learns what has changed.
    fn gather(&mut self, epoll: &Epoll, token: u64) {
        self.due = None;
        let changes = self.folder.take();
        self.is_stale |= changes.is_stale;
        self.changed.extend(changes.files);
        self.changed
            .extend(self.registry.untold().map(str::to_owned));
        // Which files are left out depends on all of them.
        self.is_stale |= self.registry.is_cut() && !self.changed.is_empty();
        if let Some(inotify) = self.folder.inotify() {
            // It was added at the start, and stays open; an event that is left is reported at once.
            let _ = epoll.modify(inotify, &mut event(token));
        }
    }

    /// Reads all files, but not before that moment.
    fn read_whole_from(&mut self, from: Moment, now: Moment) -> bool {
        if from > now {
            self.due = Some(from);
            return false;
        }
        self.folder.arm();
        self.read_whole(now);
        true
    }

    /// Reads some of the files that have changed; returns whether one says something else.
    fn read_changed(&mut self, most: usize, now: Moment) -> bool {
        let mut is_other = false;
        for _ in 0..most {
            let Some(file) = self.changed.pop_first() else {
                break;
            };
            is_other |= self.registry.read_again(&file);
        }
        if self.registry.is_cut() {
            self.is_stale = true;
            self.look_at(self.read_whole + WHOLE);
        }
        self.tell();
        if !self.changed.is_empty() {
            self.due = Some(now);
        }
        self.look_at_untold(now);
        is_other
    }

    fn read_whole(&mut self, now: Moment) {
        let begun = Moment::now();
        self.registry = Registry::read(self.folder.folder());
        self.changed.clear();
        self.read_whole = now;
        self.took = Moment::now() - begun;
        // One that was made between the two looks is not watched yet.
        let is_late = self.folder.is_astray();
        let is_watched = self.folder.inotify().is_some();
        self.is_stale = !is_watched || is_late;
        self.due = match (is_watched, is_late) {
            (false, _) => Some(now + UNTOLD),
            (true, true) => Some(now + WHOLE),
            (true, false) => None,
        };
        self.look_at_untold(now);
        self.tell();
    }

    fn look_at_untold(&mut self, now: Moment) {
        if self.registry.untold().next().is_some() {
            self.look_at(now + UNTOLD);
        }
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
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

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
            watched.write("a.conf", &format!("web={}\n", &cid[4..]));
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
        watched.write("a.conf", "web=6\n");
        watched.wait_for("web", Some("CID 6"));
        // Another folder in its place, with other files.
        let before = watched.place.path().join("run/before");
        fs::rename(watched.path(""), &before).unwrap();
        watched.make();
        watched.write("a.conf", "web=7\n");
        watched.wait_for("web", Some("CID 7"));
        fs::write(before.join("a.conf"), "web=8\n").unwrap();
        watched.write("z.conf", "end=9\n");
        watched.wait_for("end", Some("CID 9"));
        watched.wait_for("web", Some("CID 7"));
    }

    #[test]
    fn a_writer_keeps_its_file_open_and_a_link_leads_to_what_changes_elsewhere() {
        let mut watched = Watched::new();
        watched.make();
        let mut file = File::create(watched.path("a.conf")).unwrap();
        let elsewhere = watched.place.path().join("elsewhere");
        symlink(&elsewhere, watched.path("b.conf")).unwrap();
        for cid in ["CID 3", "CID 4"] {
            file.set_len(0).unwrap();
            write!(file, "# c\nweb={}\nd", &cid[4..]).unwrap();
            watched.wait_for("web", Some(cid));
            fs::write(&elsewhere, format!("db={}\n", &cid[4..])).unwrap();
            watched.wait_for("db", Some(cid));
            fs::remove_file(&elsewhere).unwrap();
            watched.wait_for("db", None);
        }
        // No newline follows.
        write!(file, "b=12").unwrap();
        watched.wait_for("db", Some("CID 12"));
        fs::remove_file(watched.path("b.conf")).unwrap();
        watched.write("z.conf", "end=9\n");
        watched.wait_for("end", Some("CID 9"));
        // With the last link nothing is looked at any more.
        while watched.watch.deadline().is_some() {
            let now = watched.watch.deadline().unwrap();
            watched.watch.renew(&watched.epoll, 7, now);
        }
        assert_eq!(watched.watch.registry().untold().count(), 0);
    }

    /// Whoever comes is judged by what is there then, however much and whatever has changed.
    #[test]
    fn who_comes_has_all_read_that_has_changed() {
        let mut watched = Watched::new();
        watched.make();
        watched.write("a.conf", "web=3\n");
        watched.wait_for("web", Some("CID 3"));
        let expect = |watched: &mut Watched, place: &str| {
            watched
                .watch
                .renew_at_once(&watched.epoll, 7, Moment::now());
            let found = watched.watch.registry().location("web");
            assert_eq!(found.unwrap().to_string(), place);
        };
        for number in 0..2 * FILES {
            watched.write(&format!("{number}.conf"), "");
        }
        watched.write("a.conf", "web=4\n");
        expect(&mut watched, "CID 4");
        // Nothing that is watched tells of a folder above.
        let run = watched.place.path().join("run");
        fs::rename(&run, watched.place.path().join("before")).unwrap();
        watched.make();
        watched.write("a.conf", "web=5\n");
        expect(&mut watched, "CID 5");
        watched.write("a.conf", "web=6\n");
        expect(&mut watched, "CID 6");
    }

    #[test]
    fn a_thousand_changes_are_read_a_few_times() {
        let mut watched = Watched::new();
        watched.make();
        watched.write("a.conf", "web=3\n");
        watched.wait_for("web", Some("CID 3"));
        for number in 0..1000 {
            watched.write("a.conf", &format!("web={}\n", 5 + number));
            watched.write(&format!("{number}.conf"), &format!("m{number}=3\n"));
        }
        watched.write("z.conf", "end=9\n");
        let changes = watched.wait_for("end", Some("CID 9"));
        watched.wait_for("m500", Some("CID 3"));
        watched.wait_for("web", Some("CID 1004"));
        assert!(changes <= 10, "{changes}");
    }

    #[test]
    fn more_events_than_the_kernel_keeps_lose_no_name() {
        let mut watched = Watched::new();
        watched.make();
        watched.write("a.conf", "web=3\n");
        watched.wait_for("web", Some("CID 3"));
        let queued = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let queued: usize = queued.trim().parse().unwrap();
        // Two names in turn, since the same event twice is one; a new file is three events and its end one.
        for number in 0..queued.min(100_000) / 4 + 10 {
            let name = watched.path(&format!("{}.conf~", number % 2));
            fs::write(&name, "").unwrap();
            fs::remove_file(name).unwrap();
        }
        watched.write("a.conf", "web=4\n");
        watched.wait_for("web", Some("CID 4"));
    }

    #[test]
    fn of_too_many_files_those_are_read_that_come_first_by_now() {
        let mut watched = Watched::new();
        watched.make();
        for number in 0..4096 {
            fs::write(watched.path(&format!("m{number:04}.conf")), "").unwrap();
        }
        watched.write("m4095.conf", "last=3\n");
        watched.wait_for("last", Some("CID 3"));
        watched.write("a.conf", "first=4\n");
        watched.wait_for("first", Some("CID 4"));
        watched.wait_for("last", None);
        fs::remove_file(watched.path("a.conf")).unwrap();
        watched.wait_for("last", Some("CID 3"));
        watched.wait_for("first", None);
    }

    #[test]
    fn without_inotify_the_folder_is_read_each_second() {
        let mut watched = Watched::new();
        watched.watch.folder.lose_inotify();
        watched.watch.read_whole(Moment::now());
        watched.make();
        watched.write("a.conf", "web=3\n");
        watched.wait_for("web", Some("CID 3"));
    }
}
