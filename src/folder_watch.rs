//! What changes in a folder, which need not be there yet: inotify(7) on it, or on the nearest one above it that is.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// Reads of events in one round; the kernel keeps 16384 events (fs.inotify.max_queued_events), 128 or more in each read.
const READS: usize = 128;

/// What of the folder can change what its files say.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    // Whoever writes may keep the file open.
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE);
/// What becomes of a folder that is watched.
const SELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// A folder that is watched.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    folder: PathBuf,
    /// None where there is none to be had.
    inotify: Option<Inotify>,
    /// The folder, or the nearest one above it that is there.
    watched: Option<(WatchDescriptor, PathBuf)>,
    /// Which folder it was when it began to be watched: device and inode; none if it was not there.
    identity: Option<(u64, u64)>,
}

/// What has changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Files of the folder.
    pub(crate) files: BTreeSet<String>,
    /// Any of them may have, and so may the folder: [`FolderWatch::arm`] has to be called.
    pub(crate) is_stale: bool,
}

impl FolderWatch {
    /// Watches nothing before [`FolderWatch::arm`].
    pub(crate) fn new(folder: &Path) -> FolderWatch {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.inspect_err(|errno| {
            let cause = errno.desc();
            log::warn!(
                "changes of {} cannot be watched, and so are seen later: {cause} (is fs.inotify.max_user_instances reached?)",
                folder.display()
            );
        });
        FolderWatch {
            folder: folder.to_owned(),
            inotify: inotify.ok(),
            watched: None,
            identity: None,
        }
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns what can be read when something has changed; none where nothing can be watched.
    pub(crate) fn inotify(&self) -> Option<&Inotify> {
        self.inotify.as_ref()
    }

    /// Returns whether changes wait that nobody has taken.
    pub(crate) fn has_changes(&self) -> bool {
        let is_readable = |inotify: &Inotify| {
            let mut watched = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            poll(&mut watched, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        };
        self.inotify.as_ref().is_some_and(is_readable)
    }

    /// Returns whether another folder is there by now than the one that is watched: nothing tells of a folder above it that is
    /// moved, of a mount over it, or of a symbolic link on the way that leads elsewhere.
    pub(crate) fn is_astray(&self) -> bool {
        identity(&self.folder) != self.identity
    }

    /// Watches the folder, or the nearest one above it that is there.
    pub(crate) fn arm(&mut self) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        if let Some((former, _)) = self.watched.take() {
            // It may be gone with its folder.
            let _ = inotify.rm_watch(former);
        }
        // Looked at before: what is there is at worst a later one, which is astray then.
        let there = identity(&self.folder);
        self.identity = None;
        for path in self.folder.ancestors() {
            let flags = match path == self.folder {
                true => CHANGES | SELF,
                false => AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | SELF,
            };
            match inotify.add_watch(path, flags) {
                Ok(watched) => {
                    self.identity = there.filter(|_| path == self.folder);
                    self.watched = Some((watched, path.to_owned()));
                    break;
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => {
                    let (path, cause) = (path.display(), errno.desc());
                    log::warn!(
                        "changes of {path} cannot be watched, and so are seen later: {cause}"
                    );
                    self.inotify = None;
                    return;
                }
            }
        }
    }

    /// Makes it one that can watch nothing.
    #[cfg(test)]
    pub(crate) fn lose_inotify(&mut self) {
        self.inotify = None;
    }

    /// Takes what has changed since the last time.
    pub(crate) fn take(&self) -> Changes {
        let mut changes = Changes::default();
        for _ in 0..READS {
            let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) else {
                break;
            };
            for event in events {
                self.add(event, &mut changes);
            }
        }
        changes
    }

    fn add(&self, event: InotifyEvent, changes: &mut Changes) {
        const GONE: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
            .union(AddWatchFlags::IN_MOVE_SELF)
            .union(AddWatchFlags::IN_UNMOUNT)
            .union(AddWatchFlags::IN_Q_OVERFLOW);
        let Some((watched, path)) = &self.watched else {
            changes.is_stale = true;
            return;
        };
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            changes.is_stale = true;
        } else if event.wd != *watched {
            // Of a folder that was watched before.
        } else if event.mask.intersects(GONE) {
            changes.is_stale = true;
        } else if *path == self.folder {
            let name = event.name.and_then(|name| name.into_string().ok());
            changes.files.extend(name);
        } else if let Some(name) = event.name {
            // The next folder on the way may be there now.
            changes.is_stale |= self.folder.starts_with(path.join(name));
        }
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    let folder = fs::metadata(folder).ok()?;
    Some((folder.dev(), folder.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_may_be_read_from_now_on_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.conf");
        fs::write(&file, "web=3\n").unwrap();
        let mut watch = FolderWatch::new(folder.path());
        watch.arm();
        watch.take();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(watch.take().files, BTreeSet::from(["web.conf".to_owned()]));
    }
}
