//! The files of the registry as they are on the disk: all of them, or one again. Bounded, since any process may look.

use std::collections::BinaryHeap;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use super::{ENDING, File, Registry};
use crate::configured::{self, SETTLED};

/// Far above what a host has; those whose names come after these are not read.
const FILES_MAX: usize = 4096;
/// Of one file, which names a few machines.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Of all of them.
const BYTES_MAX: usize = 1 << 20;

impl Registry {
    /// Reads all files of a folder; one that does not exist has none. What cannot be read is a problem, and no error.
    pub fn read(folder: &Path) -> Registry {
        let mut registry = Registry {
            folder: folder.to_owned(),
            ..Registry::default()
        };
        match files(folder) {
            Ok((mut files, count)) => {
                if count > FILES_MAX {
                    let first = files.split_off(FILES_MAX).concat();
                    registry.is_cut = true;
                    registry.problem = Some(format!(
                        "{}: {count} files, and {FILES_MAX} are read: {first} and those whose names come after it are left out",
                        folder.display()
                    ));
                }
                for file in &files {
                    registry.read_again(file);
                }
            }
            Err(error) => {
                registry.problem = Some(format!("cannot read {}: {error}", folder.display()));
            }
        }
        registry
    }

    /// Reads all files like [`Registry::read`], and waits a second where the last line of one may be half written.
    pub fn read_whole(folder: &Path) -> Registry {
        let registry = Registry::read(folder);
        if !registry.files.values().any(|file| file.is_unfinished) {
            return registry;
        }
        thread::sleep(SETTLED);
        Registry::read(folder)
    }

    /// Reads one file again, or forgets it if it is gone; returns whether it says something else. What has another name than
    /// the files of a registry is nothing.
    pub fn read_again(&mut self, name: &str) -> bool {
        if !is_file_name(name) {
            return false;
        }
        let before = self.remove(name);
        let now = match self.files.len() >= FILES_MAX {
            true => {
                self.is_cut = true;
                None
            }
            false => self.read_file(name),
        };
        let has_changed = now != before;
        if let Some(file) = now {
            self.insert(name, file);
        }
        has_changed
    }

    fn read_file(&mut self, name: &str) -> Option<File> {
        let path = self.folder.join(name);
        let is_link = path.is_symlink();
        let left_out = |reason: String| File {
            is_left_out: true,
            problems: vec![(None, format!("cannot read {}: {reason}", path.display()))],
            ..File::default()
        };
        let mut is_unfinished = false;
        let file = match configured::read(&path, FILE_BYTES_MAX) {
            Ok(None) => is_link.then(File::default)?,
            Ok(Some(text)) if self.bytes + text.len() > BYTES_MAX => {
                self.is_cut = true;
                left_out(format!(
                    "the files together are larger than {BYTES_MAX} bytes"
                ))
            }
            Ok(Some(text)) if text.is_empty() || text.ends_with('\n') => self.file(name, &text),
            Ok(Some(text)) => {
                is_unfinished = !configured::is_settled(&path);
                let newline = if is_unfinished { "" } else { "\n" };
                self.file(name, &(text + newline))
            }
            Err(error) => left_out(error.to_string()),
        };
        Some(File {
            is_link,
            is_unfinished,
            ..file
        })
    }
}

/// A name that begins with a dot is that of a file which is still being written.
fn is_file_name(name: &str) -> bool {
    name.ends_with(ENDING) && !name.starts_with('.')
}

/// Returns the first names in their order, at most one file too many, and how many there are.
fn files(folder: &Path) -> io::Result<(Vec<String>, usize)> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        entries => entries?,
    };
    let (mut first, mut count) = (BinaryHeap::new(), 0);
    for entry in entries {
        let name = entry?.file_name().into_string().ok();
        let Some(name) = name.filter(|name| is_file_name(name)) else {
            continue;
        };
        count += 1;
        first.push(name);
        if first.len() > FILES_MAX + 1 {
            first.pop();
        }
    }
    Ok((first.into_sorted_vec(), count))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn what_is_no_file_of_a_registry_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in [".web.conf", "web.conf.tmp", "web", "db.conf"] {
            fs::write(path(name), "web=3\ndb=4\n").unwrap();
        }
        fs::create_dir(path("folder.conf")).unwrap();
        symlink("/dev/zero", path("zero.conf")).unwrap();
        symlink("nowhere", path("gone.conf")).unwrap();
        fs::write(path("large.conf"), vec![b'#'; 65 << 10]).unwrap();
        let registry = Registry::read(folder.path());
        assert_eq!(registry.entries().count(), 2);
        let problems: Vec<&str> = registry.problems().collect();
        for (problem, words) in problems.iter().zip([
            "folder.conf: not a regular file",
            "large.conf: larger than 64 KiB",
            "zero.conf: not a regular file",
        ]) {
            assert!(problem.ends_with(words), "{problem}");
        }
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn a_file_is_read_again_and_forgotten_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.conf");
        let mut registry = Registry::read(&folder.path().join("missing"));
        assert_eq!(
            (registry.entries().count(), registry.problems().count()),
            (0, 0)
        );
        registry = Registry::read(folder.path());
        for text in ["web=3\n", "web=5\n"] {
            fs::write(&file, text).unwrap();
            registry.read_again("web.conf");
            let told: Vec<String> = registry
                .entries()
                .map(|placed| format!("{}={}", placed.entry.name, placed.entry.location))
                .collect();
            assert_eq!(told, [text.trim_end().replace('=', "=CID ")]);
        }
        fs::remove_file(file).unwrap();
        registry.read_again("web.conf");
        assert_eq!(registry.entries().count(), 0);
    }

    #[test]
    fn a_last_line_without_a_newline_counts_once_the_file_is_written_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        fs::write(&path, "web=3\nup=12").unwrap();
        let now = SystemTime::now();
        let minute = Duration::from_secs(60);
        for (written, is_whole) in [(now, false), (now - minute, true), (now + minute, true)] {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
            let registry = Registry::read(folder.path());
            // A machine that stands still here for a second is no failure.
            let is_late = !is_whole && now.elapsed().unwrap() >= SETTLED;
            assert!(is_late || registry.location("up").is_some() == is_whole);
            assert!(is_late || (registry.problems().count() == 0) == is_whole);
            assert!(is_late || (registry.untold().count() == 0) == is_whole);
            assert!(registry.location("web").is_some());
        }
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::now())
            .unwrap();
        let up = Registry::read_whole(folder.path());
        assert_eq!(up.location("up").unwrap().to_string(), "CID 12");
    }

    #[test]
    fn more_than_fits_is_told_and_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: String, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let filler = "#".repeat(60 << 10);
        (0..18).for_each(|number| write(format!("{number:02}.conf"), &filler));
        write("99.conf".to_owned(), "web=3\n");
        let registry = Registry::read(folder.path());
        let problems: Vec<&str> = registry.problems().collect();
        let words = "17.conf: the files together are larger than 1048576 bytes";
        assert!(
            problems[0].ends_with(words) && problems.len() == 1,
            "{problems:?}"
        );
        assert_eq!(registry.entries().count(), 1);
        assert!(registry.is_cut());
    }

    #[test]
    fn of_too_many_files_the_first_ones_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            fs::write(
                folder.path().join(name),
                format!("{name}=3\n").replace(".conf", ""),
            )
            .unwrap()
        };
        // In no order, as a folder has them.
        let number = |index: usize| index * 1009 % 5000;
        (0..5000).for_each(|index| write(&format!("m{:04}.conf", number(index))));
        let mut registry = Registry::read(folder.path());
        let expect = |registry: &Registry, last: &str, words: &str| {
            let problems = Vec::from_iter(registry.problems());
            assert!(
                problems.len() == 1 && problems[0].ends_with(words),
                "{problems:?}"
            );
            let entries = Vec::from_iter(registry.entries());
            assert_eq!(
                (entries.len(), &*entries[FILES_MAX - 1].entry.name),
                (FILES_MAX, last)
            );
        };
        let words = ": 5000 files, and 4096 are read: m4096.conf and those whose names come after it are left out";
        expect(&registry, "m4095", words);
        // An earlier one is to be read with all others anew.
        write("a0.conf");
        assert!(registry.is_cut() && !registry.read_again("a0.conf"));
        let words = ": 5001 files, and 4096 are read: m4095.conf and those whose names come after it are left out";
        expect(&Registry::read(folder.path()), "m4094", words);
        for index in 0..5000 {
            fs::remove_file(folder.path().join(format!("m{index:04}.conf"))).unwrap();
        }
        registry = Registry::read(folder.path());
        assert!(!registry.is_cut() && registry.location("a0").is_some());
    }
}
