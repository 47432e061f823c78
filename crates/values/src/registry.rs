//! Names that programs give to machines while those run: what is written in the files of a folder, and what of it holds.
//!
//! Whoever starts a machine writes a file and removes it when the machine is gone. Nobody is asked and nobody waits. Files
//! are read in [`folder`]; the rest is pure. A line that says nothing valid is told and skipped, so that a file breaks
//! nothing but itself; the earliest file in the order of their names holds where two give a name, as in tmpfiles.d(5).

mod folder;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::invalid::Invalid;
use crate::location::Location;
use crate::names::{SUFFIX, is_name};
use crate::vsock::Cid;

/// Ends the name of each of its files; what ends otherwise is nobody's, as what is being written.
pub const ENDING: &str = ".conf";

/// Why a last line does not count.
const UNFINISHED: &str =
    "no newline ends it, so it may be half written; it counts a second after the last write";

/// Lines of a file that are told.
const PROBLEMS_MAX: usize = 8;

/// A name with its machine, and the line that says so, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line.
    pub line: usize,
    /// The name, in lower case.
    pub name: String,
    /// Its machine.
    pub location: Location,
}

/// An entry with its file.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// The folder.
    folder: &'a Path,
    /// The name of the file.
    file: &'a str,
    /// What it says.
    pub entry: &'a Entry,
}

impl Placed<'_> {
    /// Returns the file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.file)
    }

    /// Returns `FILE:LINE`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.path().display(), self.entry.line)
    }
}

/// A line that says nothing valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The name that it was to give, if any.
    pub name: Option<String>,
    /// What is wrong.
    pub text: String,
}

/// What one file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct File {
    bytes: usize,
    /// It is a symbolic link, so that nothing in the folder changes when what it says does.
    is_link: bool,
    /// No newline ends it, and it was written to a moment ago.
    is_unfinished: bool,
    /// Nothing of it was read, and the one problem says why.
    is_left_out: bool,
    entries: Vec<Entry>,
    /// Whole messages, each with the name that it is about, if any.
    problems: Vec<(Option<String>, String)>,
}

/// All files of a folder as they were when each was read.
#[derive(Debug, Default)]
pub struct Registry {
    folder: PathBuf,
    files: BTreeMap<String, File>,
    /// Of all files together.
    bytes: usize,
    /// Files were left out, as there are too many or they are too large together.
    is_cut: bool,
    /// What is wrong with the folder itself.
    problem: Option<String>,
}

impl Registry {
    /// Returns where the machine of that name is, which is in lower case and without `.vsock`.
    pub fn location(&self, name: &str) -> Option<&Location> {
        let mut entries = self.entries().map(|placed| placed.entry);
        entries
            .find(|entry| entry.name == name)
            .map(|entry| &entry.location)
    }

    /// Returns all entries, those of the file that holds first.
    pub fn entries(&self) -> impl Iterator<Item = Placed<'_>> {
        self.files.iter().flat_map(move |(file, said)| {
            said.entries.iter().map(move |entry| Placed {
                folder: &self.folder,
                file,
                entry,
            })
        })
    }

    /// Returns the entries that hold, and those that an earlier file overrules with another machine, each with that one.
    pub fn sorted(&self) -> (Vec<Placed<'_>>, Vec<(Placed<'_>, Placed<'_>)>) {
        let mut first: HashMap<&str, Placed<'_>> = HashMap::new();
        let (mut holding, mut overruled) = (Vec::new(), Vec::new());
        for placed in self.entries() {
            match first.get(&*placed.entry.name) {
                None => {
                    first.insert(&placed.entry.name, placed);
                    holding.push(placed);
                }
                Some(earlier) if earlier.entry.location != placed.entry.location => {
                    overruled.push((placed, *earlier));
                }
                Some(_) => {}
            }
        }
        (holding, overruled)
    }

    /// Returns what is wrong, each with its file and line.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        let of_files = self.files.values().flat_map(|file| &file.problems);
        let of_files = of_files.map(|(_, text)| text);
        self.problem.iter().chain(of_files).map(|text| &**text)
    }

    /// Returns why a name, which is in lower case, may be missing: what is wrong with the first line that should have given it,
    /// else what was not read.
    pub fn problem_of(&self, name: &str) -> Option<String> {
        let mut problems = self.files.values().flat_map(|file| &file.problems);
        let problem = problems.find(|(of, _)| of.as_deref() == Some(name));
        problem
            .map(|(_, text)| text.clone())
            .or_else(|| self.unread())
    }

    /// Returns what was not read, in one line.
    fn unread(&self) -> Option<String> {
        let left_out = self.files.values().filter(|file| file.is_left_out);
        let problems = left_out.flat_map(|file| &file.problems);
        let mut unread = self
            .problem
            .iter()
            .chain(problems.map(|(_, problem)| problem));
        let first = unread.next()?;
        let others = match unread.count() {
            0 => String::new(),
            more => format!(", nor {more} more"),
        };
        Some(format!(
            "{first}{others}: if the name is there, put that right, or give its CID"
        ))
    }

    /// Returns whether files were left out, as there are too many or they are too large together: which these are may be
    /// another question with each change.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the names of the files that may say something else soon without a change in the folder: symbolic links, also
    /// those that lead nowhere now, and those whose last line may be half written.
    pub fn untold(&self) -> impl Iterator<Item = &str> {
        let is_untold = |file: &File| file.is_link || file.is_unfinished;
        let untold = self.files.iter().filter(move |(_, file)| is_untold(file));
        untold.map(|(name, _)| &**name)
    }

    /// Returns what a file of that text says.
    fn file(&self, name: &str, text: &str) -> File {
        let path = self.folder.join(name);
        let (entries, problems) = parse(text);
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        let told = |Problem { line, name, text }| {
            let text = format!("{}:{line}: {text}", path.display());
            (name, text)
        };
        let mut problems: Vec<_> = problems.into_iter().take(PROBLEMS_MAX).map(told).collect();
        if more > 0 {
            let text = format!("{}: {more} more lines like that", path.display());
            problems.push((None, text));
        }
        File {
            bytes: text.len(),
            is_link: false,
            is_unfinished: false,
            is_left_out: false,
            entries,
            problems,
        }
    }

    fn insert(&mut self, name: &str, file: File) {
        self.bytes += file.bytes;
        self.files.insert(name.to_owned(), file);
    }

    fn remove(&mut self, name: &str) -> Option<File> {
        let file = self.files.remove(name)?;
        self.bytes -= file.bytes;
        Some(file)
    }
}

/// Splits the text of a file into names with their machines, and the lines that are none, with the reason.
///
/// Text form of a line: `web=3`, or `web=/run/web/guest.vsock`; blank, or a comment that begins with `#` or `;`. It counts once
/// a newline ends it: what is there of a line that is being written, such as `web=1` of `web=12`, is another machine. Who reads
/// a file that is written no more adds the newline that its last line lacks.
pub fn parse(text: &str) -> (Vec<Entry>, Vec<Problem>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    let mut names = HashSet::new();
    for (index, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let read = match whole.ends_with('\n') {
            true => read_line(line),
            false => Err(Invalid::new("line", line, UNFINISHED)),
        };
        let entry = read.and_then(|(name, location)| match names.insert(name.clone()) {
            true => Ok((name, location)),
            false => Err(Invalid::new("line", line, "the name is given twice")),
        });
        match entry {
            Ok((name, location)) => entries.push(Entry {
                line: index + 1,
                name,
                location,
            }),
            Err(problem) => problems.push(Problem {
                line: index + 1,
                name: line.split_once('=').map(|(name, _)| meant(name)),
                text: problem.to_string(),
            }),
        }
    }
    (entries, problems)
}

/// Returns the name that was meant by what stands there in its place.
fn meant(name: &str) -> String {
    let name = name
        .trim_start_matches('\u{feff}')
        .trim()
        .to_ascii_lowercase();
    name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned()
}

fn read_line(line: &str) -> Result<(String, Location), Invalid> {
    let fail = |hint| Err(Invalid::new("line", line, hint));
    let Some((name, machine)) = line.split_once('=') else {
        return fail("expected NAME=CID or NAME=PATH, e.g. web=3");
    };
    let name = name.to_ascii_lowercase();
    if !is_name(&name) {
        return fail(
            "expected NAME=CID or NAME=PATH with a NAME of letters, digits and hyphens, at least one of them a letter, \
             that is not any, host, local or mapped",
        );
    }
    match machine.parse() {
        // Whoever may come in as `local` is said by the administrator alone.
        Ok(Location::Cid(Cid::LOCAL)) => {
            fail("CID 1 is this machine itself, which has its name: local")
        }
        Err(_) if !machine.starts_with('/') => fail(
            "expected a CID from 2 to 4294967294, or the path of a socket of hybrid vsock, behind `=`",
        ),
        location => location.map(|location| (name, location)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(registry: &mut Registry, name: &str, text: &str) {
        registry.remove(name);
        let file = registry.file(name, text);
        registry.insert(name, file);
    }

    fn registry(files: &[(&str, &str)]) -> Registry {
        let mut registry = Registry {
            folder: PathBuf::from("/names"),
            ..Registry::default()
        };
        for (name, text) in files {
            put(&mut registry, name, text);
        }
        registry
    }

    #[test]
    fn lines_are_names_with_their_machines() {
        let text = "# c\n; c\n\n Web=3 \r\nup=host\nhy=/run/hy/guest.vsock\n";
        let (entries, problems) = parse(text);
        let told = |entry: &Entry| format!("{} {} {}", entry.line, entry.name, entry.location);
        let told: Vec<String> = entries.iter().map(told).collect();
        assert_eq!(
            told,
            ["4 web CID 3", "5 up CID 2", "6 hy /run/hy/guest.vsock"]
        );
        assert_eq!(problems, []);
    }

    #[test]
    fn a_line_that_names_no_machine_is_told_and_the_others_are_kept() {
        for (line, words) in [
            ("web", "expected NAME=CID or NAME=PATH"),
            ("=3", "with a NAME of letters"),
            ("web =3", "with a NAME of letters"),
            ("3=4", "with a NAME of letters"),
            ("local=3", "with a NAME of letters"),
            ("web=", "expected a CID"),
            ("web= 3", "expected a CID"),
            ("web=0", "expected a CID"),
            ("web=4294967295", "expected a CID"),
            ("web=@x", "expected a CID"),
            ("web=1", "this machine itself"),
            ("web=local", "this machine itself"),
            ("web=/", "absolute path"),
            ("web=/run/web.sock # c", "without spaces"),
            ("DB=5", "twice"),
        ] {
            let (entries, problems) = parse(&format!("db=4\n{line}\nend=5\n"));
            assert_eq!(entries.len(), 2, "{line}: {entries:?}");
            let [problem] = &problems[..] else {
                panic!("{line}: {problems:?}")
            };
            assert_eq!(problem.line, 2);
            assert!(problem.text.contains(words), "{line}: {problem:?}");
        }
    }

    /// However much of a file is written by now, a name is that of its machine or of none.
    #[test]
    fn a_line_counts_once_a_newline_ends_it() {
        let text = "web=12\n# c\ndb=/run/db/guest.vsock\n";
        for length in 0..=text.len() {
            let (entries, problems) = parse(&text[..length]);
            for entry in entries {
                let told = format!("{}={}", entry.name, entry.location).replace("CID ", "");
                let whole = text.lines().nth(entry.line - 1);
                assert_eq!(Some(&*told), whole, "of {length} bytes");
            }
            let is_half =
                !text[..length].ends_with('\n') && !(7..11).contains(&length) && length > 0;
            assert_eq!(
                problems.len(),
                usize::from(is_half),
                "{length}: {problems:?}"
            );
        }
        for line in ["Web = 3", "web.vsock=3", "\u{feff}web=3"] {
            let (_, problems) = parse(&format!("{line}\n"));
            assert_eq!(problems[0].name.as_deref(), Some("web"), "{line}");
        }
        let (entries, problems) = parse("web=3\n up=12");
        assert_eq!(entries.len(), 1);
        let [problem] = &problems[..] else {
            panic!("{problems:?}")
        };
        let line = "\"up=12\" is not a valid line: no newline ends it, so it may be half written; it counts \
                    a second after the last write";
        assert_eq!((problem.line, &*problem.text), (2, line));
    }

    #[test]
    fn the_earliest_file_holds_and_the_other_is_known() {
        let registry = registry(&[
            ("b.conf", "web=4\ndb=5\nsame=7\n"),
            ("a.conf", "# c\nweb=3\nsame=7\n"),
        ]);
        let cid = |name| registry.location(name).unwrap().to_string();
        assert_eq!((cid("web"), cid("db")), ("CID 3".into(), "CID 5".into()));
        assert_eq!(registry.location("nobody"), None);
        let (holding, overruled) = registry.sorted();
        let places = |placed: &[Placed<'_>]| {
            let places = placed.iter().map(Placed::place);
            places.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            places(&holding),
            "/names/a.conf:2 /names/a.conf:3 /names/b.conf:2"
        );
        let [(overruled, earlier)] = overruled[..] else {
            panic!("{overruled:?}")
        };
        assert_eq!(
            places(&[overruled, earlier]),
            "/names/b.conf:1 /names/a.conf:2"
        );
    }

    #[test]
    fn a_name_that_is_missing_may_be_in_what_was_not_read() {
        let mut registry = registry(&[("a.conf", "web=3\ndb=x\n")]);
        assert_eq!(registry.problem_of("new"), None);
        for name in ["b.conf", "c.conf"] {
            let problem = (None, format!("cannot read /names/{name}: no"));
            let file = File {
                is_left_out: true,
                problems: vec![problem],
                ..File::default()
            };
            registry.insert(name, file);
        }
        let problem = registry.problem_of("new").unwrap();
        assert!(
            problem.starts_with("cannot read /names/b.conf: no, nor 1 more: "),
            "{problem}"
        );
        let problem = registry.problem_of("db").unwrap();
        assert!(problem.starts_with("/names/a.conf:2: "), "{problem}");
    }

    #[test]
    fn a_file_that_is_put_again_says_only_the_new() {
        let mut registry = registry(&[("a.conf", "web=3\nx\n"), ("b.conf", "y\n")]);
        let problems: Vec<&str> = registry.problems().collect();
        assert!(
            problems[0].starts_with("/names/a.conf:2: \"x\""),
            "{problems:?}"
        );
        assert_eq!(problems.len(), 2);
        put(&mut registry, "a.conf", &"x\n".repeat(30));
        let problems: Vec<&str> = registry.problems().collect();
        assert_eq!(
            (problems.len(), problems[8]),
            (10, "/names/a.conf: 22 more lines like that")
        );
        put(&mut registry, "a.conf", "web=9\n");
        assert_eq!(
            registry.location("web"),
            Some(&Location::Cid(Cid::new(9).unwrap()))
        );
        assert_eq!(registry.problems().count(), 1);
    }
}
