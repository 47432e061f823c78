//! The rule files of a gateway, read at the start and again when they have changed.
//!
//! Whether they have is asked of the kernel before each decision, which costs a few calls: so a change holds from the next
//! request on, and nothing can be missed. Files with an error change nothing, and machines have the names of now all the
//! same.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use super::comer::without_cid;
use crate::configured;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway_rules::{self, ResolvedRule, Verb, Who};
use crate::known::Known;
use crate::names::{self, GivenNames, Names};
use crate::unusable::Unusable;

/// Lines with problems that are told at once.
const TOLD_MAX: usize = 5;
/// Lines with problems after which nothing more is read.
const PROBLEMS_MAX: usize = 1000;
/// Files in the folder, and bytes of all together, far above what anybody writes by hand.
const FILES_MAX: usize = 1000;
const BYTES_MAX: usize = 4 << 20;
/// Letters that may be wrong in the name of a machine that is still known for what was meant.
const SLIPS_MAX: usize = 2;

/// Rules that hold.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    rules: Vec<ResolvedRule>,
    files: Arc<str>,
}

impl Rules {
    /// Returns the first rule that lets a peer go there.
    pub(crate) fn find(&self, who: Who, asked: &Endpoint) -> Option<&ResolvedRule> {
        self.rules.iter().find(|rule| rule.allows(who, asked))
    }

    /// Returns all of them, in the order in which they are asked.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ResolvedRule> {
        self.rules.iter()
    }

    /// Returns whether a rule names an address for a peer as an address.
    pub(crate) fn names_address(&self, who: Who, ip: IpAddr, port: u16) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.names_address(who, ip, port))
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.rules.len()
    }

    /// Returns where they stand, in words.
    pub(crate) fn files(&self) -> &str {
        &self.files
    }
}

/// Where the rules are written.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// [`gateway_rules::PATH`] and [`gateway_rules::FOLDER`]; there may be neither.
    Usual,
    /// One file.
    File(PathBuf),
}

/// The files, and what was last read from them.
#[derive(Debug)]
pub(crate) struct RuleFiles {
    source: Source,
    names: Option<GivenNames>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Arc<Rules>,
    /// What they were made of.
    written: Written,
    /// What is wrong with the files since then, as it was told.
    problems: Vec<String>,
    /// How the files were when they were read.
    seen: Vec<Seen>,
    /// How those with names of machines were when these were looked up.
    names_seen: Vec<Seen>,
    /// Their names may be those of other machines by now.
    is_renamed: bool,
    /// A file was being written when they were read.
    is_unfinished: bool,
}

/// What was read at once.
struct Read {
    written: Written,
    rules: Rules,
    /// What names no machine, one line each.
    unknown: Vec<String>,
    /// A file was being written, and says what it said before.
    is_unfinished: bool,
}

/// A file as it was at a moment.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    /// Which file it is, its size, and when it was last changed; none if it is not there.
    file: Option<(u64, u64, u64, [i64; 4])>,
    /// When that was, if it had changed a moment before: it may change once more in the same tick of the clock of its file
    /// system, and look the same. So it is read again at the next question.
    unsettled: Option<SystemTime>,
}

/// Longer than a tick of that clock, which is 10 ms at most (CONFIG_HZ=100).
const TICK: Duration = Duration::from_millis(20);

impl RuleFiles {
    /// Reads them, and waits for up to a second where one is being written.
    ///
    /// Errors: all that is wrong with them, in one line.
    pub(crate) fn read(source: Source, names: Option<GivenNames>) -> Result<RuleFiles> {
        let (seen, names_seen) = (source.seen(), names_seen());
        let read = source.whole(&Known::now(names.as_ref()));
        let read = read.map_err(|problems| Error::Usage(in_a_line(&problems)))?;
        let (written, rules) = (read.written, read.rules);
        warn_of(&read.unknown);
        let state = State {
            rules: Arc::new(rules),
            written,
            problems: Vec::new(),
            seen,
            names_seen,
            is_renamed: false,
            is_unfinished: read.is_unfinished,
        };
        Ok(RuleFiles {
            source,
            names,
            state: Mutex::new(state),
        })
    }

    /// Returns the rules that hold now.
    pub(crate) fn current(&self) -> Arc<Rules> {
        // Whoever panicked has left nothing half done in it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, names_seen) = (self.source.seen(), names_seen());
        let has_changed = seen != state.seen || state.is_unfinished;
        let is_renamed = std::mem::take(&mut state.is_renamed) || names_seen != state.names_seen;
        if !has_changed && !is_renamed {
            return state.rules.clone();
        }
        state.names_seen = names_seen;
        let names = Known::now(self.names.as_ref());
        if has_changed {
            state.seen = seen;
            let read = self.source.written(&names, Some(&state.written));
            state.is_unfinished = read.as_ref().is_ok_and(|read| read.is_unfinished);
            match read {
                Ok(Read {
                    written,
                    rules,
                    unknown,
                    ..
                }) => {
                    let was_wrong = !std::mem::take(&mut state.problems).is_empty();
                    if was_wrong || written != state.written {
                        let count = in_words(rules.count());
                        log::info!("{count} of {} from now on", rules.files());
                        warn_of(&unknown);
                    }
                    (state.written, state.rules) = (written, Arc::new(rules));
                    return state.rules.clone();
                }
                Err(problems) if problems == state.problems => {}
                Err(problems) => {
                    log::warn!(
                        "{}; the rules that held before still hold, {}",
                        in_a_line(&problems),
                        in_words(state.rules.count())
                    );
                    state.problems = problems;
                }
            }
        }
        // Also of those that were kept: a name may be another machine's by now.
        state.rules = Arc::new(state.written.resolve(&names));
        state.rules.clone()
    }

    /// Has names of machines looked up again at the next request.
    pub(crate) fn look_up_again(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_renamed = true;
    }

    #[cfg(test)]
    pub(crate) fn of_text(text: &str, names: &GivenNames) -> RuleFiles {
        let files: Arc<str> = "gateway.conf".into();
        let texts = vec![(files.clone(), text.to_owned())];
        let written = Written { texts, files };
        let rules = written.resolve(&Known::now(Some(names)));
        // What cannot be there is at all times as it was.
        let source = Source::File(PathBuf::new());
        let state = State {
            rules: Arc::new(rules),
            written,
            problems: Vec::new(),
            seen: source.seen(),
            names_seen: names_seen(),
            is_renamed: false,
            is_unfinished: false,
        };
        RuleFiles {
            source,
            names: Some(names.clone()),
            state: Mutex::new(state),
        }
    }
}

/// Says which machines of rules nobody knows: they may yet be started, or the name is misspelt.
fn warn_of(unknown: &[String]) {
    if !unknown.is_empty() {
        log::warn!("{}; left out until then", in_a_line(unknown));
    }
}

/// Returns a number of rules.
pub(crate) fn in_words(count: usize) -> String {
    match count {
        0 => "no rule".to_owned(),
        1 => "1 rule".to_owned(),
        _ => format!("{count} rules"),
    }
}

fn in_a_line(problems: &[String]) -> String {
    let told = problems.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>();
    match problems.len().saturating_sub(TOLD_MAX) {
        0 => told.join("; "),
        more => format!("{}; {more} more", told.join("; ")),
    }
}

impl Source {
    /// Returns the files in the order in which they are read.
    ///
    /// Errors: the folder cannot be read.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, Error> {
        match self {
            Source::File(path) => Ok(vec![path.clone()]),
            Source::Usual => {
                let folder = Path::new(gateway_rules::FOLDER);
                let mut files = configured_in(folder).map_err(Error::file("read", folder))?;
                files.sort_unstable();
                files.insert(0, PathBuf::from(gateway_rules::PATH));
                Ok(files)
            }
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let files = self.files().unwrap_or_default();
        let folder = PathBuf::from(gateway_rules::FOLDER);
        look(files.into_iter().chain([folder]))
    }

    /// Reads all files, and waits for up to a second where one is being written. Gives what names no machine besides, one line
    /// each, which is left out.
    ///
    /// Errors: what is wrong with them, one line each.
    pub(crate) fn read(
        &self,
        names: Option<&GivenNames>,
    ) -> Result<(Rules, Vec<String>), Vec<String>> {
        let read = self.whole(&Known::settled(names))?;
        Ok((read.rules, read.unknown))
    }

    /// As [`Source::read`], with what is to be read again when names change.
    fn whole(&self, names: &Known<'_>) -> Result<Read, Vec<String>> {
        match self.written(names, None)? {
            read if read.is_unfinished => {
                thread::sleep(configured::SETTLED);
                self.written(names, None)
            }
            read => Ok(read),
        }
    }

    /// Reads all files as they are. One that is being written says what it said in `former`, if it was there: half of a line,
    /// such as `web db:54` of `web db:5432`, leads elsewhere, and without a line that sends a peer somewhere `as-peer` one of a
    /// later file may.
    fn written(&self, names: &Known<'_>, former: Option<&Written>) -> Result<Read, Vec<String>> {
        let (mut reading, mut texts) = (Reading::default(), Vec::new());
        let mut is_unfinished = false;
        let files = self.files().map_err(|error| vec![error.report()])?;
        if files.len() > FILES_MAX {
            return Err(vec![format!(
                "{}: more than {FILES_MAX} files",
                gateway_rules::FOLDER
            )]);
        }
        for path in files {
            match configured::text(&path) {
                Ok(text) => {
                    let file: Arc<str> = path.display().to_string().into();
                    let text = match is_whole(&path, &text) {
                        true => text,
                        false => {
                            is_unfinished = true;
                            let former = former.and_then(|former| former.text(&file));
                            former.unwrap_or_default().to_owned()
                        }
                    };
                    reading.add(&file, &text, names);
                    texts.push((file, text));
                }
                Err(error) => reading.problems.push(Error::from(error).report()),
            }
        }
        if let Source::File(path) = self {
            if let Err(error) = fs::metadata(path) {
                reading.problems = vec![Error::file("read", path)(error).report()];
            }
        }
        if !reading.problems.is_empty() {
            return Err(reading.problems);
        }
        let files: Arc<str> = self.in_words().into();
        let written = Written {
            texts,
            files: files.clone(),
        };
        let (rules, unknown) = reading.rules(files);
        Ok(Read {
            written,
            rules,
            unknown,
            is_unfinished,
        })
    }

    fn in_words(&self) -> String {
        match self {
            Source::Usual => gateway_rules::PATH.to_owned(),
            Source::File(path) => path.display().to_string(),
        }
    }
}

/// Returns whether all of a file was read: a newline is its end, or it is written no more. One that is empty may just have been
/// cut off to be written.
fn is_whole(path: &Path, text: &str) -> bool {
    text.ends_with('\n') || configured::is_settled(path)
}

/// Looks at the files of the registry, which say who a name is.
fn names_seen() -> Vec<Seen> {
    let files = configured_in(Path::new(names::REGISTRY)).unwrap_or_default();
    look(files)
}

fn look(files: impl IntoIterator<Item = PathBuf>) -> Vec<Seen> {
    let now = SystemTime::now();
    let files = files.into_iter();
    files.map(|path| Seen::new(path, now)).collect()
}

impl Seen {
    fn new(path: PathBuf, now: SystemTime) -> Seen {
        let metadata = fs::metadata(&path).ok();
        let file = metadata.map(|file| {
            let times = [
                file.mtime(),
                file.mtime_nsec(),
                file.ctime(),
                file.ctime_nsec(),
            ];
            (file.dev(), file.ino(), file.size(), times)
        });
        let is_unsettled = file.is_some_and(|(_, _, _, [_, _, seconds, rest])| {
            let changed = Duration::new(seconds.unsigned_abs(), rest.unsigned_abs() as u32);
            let changed = SystemTime::UNIX_EPOCH + changed;
            // One of the future is no sign of anything.
            (now.duration_since(changed)).is_ok_and(|age| age < TICK)
        });
        Seen {
            path,
            file,
            unsettled: is_unsettled.then_some(now),
        }
    }
}

/// Returns the files of a folder that are meant; none where there is no folder.
fn configured_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    let is_hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(b".")
    };
    // A name that begins with a dot is that of a file which is still being written.
    let is_meant =
        |path: &PathBuf| path.extension().is_some_and(|end| end == "conf") && !is_hidden(path);
    Ok(paths.into_iter().filter(is_meant).collect())
}

/// Rules as they are written, with machines by their names: as text, of which many need the least memory.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    /// Each with its file.
    texts: Vec<(Arc<str>, String)>,
    /// Where they stand, in words.
    files: Arc<str>,
}

impl Written {
    /// Returns what a file said.
    fn text(&self, file: &str) -> Option<&str> {
        let mut texts = self.texts.iter();
        let found = texts.find(|(name, _)| &**name == file);
        found.map(|(_, text)| &**text)
    }

    /// Looks the names up.
    fn resolve(&self, names: &Known<'_>) -> Rules {
        let mut reading = Reading::default();
        for (file, text) in &self.texts {
            reading.add(file, text, names);
        }
        reading.rules(self.files.clone()).0
    }
}

/// Names the machine that may be meant, and how a host of one label is written.
fn explain(error: &Unusable, names: &Known<'_>) -> String {
    // Where a rule leads, the name is enough.
    if let Unusable::NoCid { .. } = error {
        return without_cid(error);
    }
    let Unusable::UnknownMachine { name, problem } = error else {
        return error.to_string();
    };
    match gateway_rules::verb(name) {
        Some(Verb::Allows) => {
            return format!(
                "no machine is named {name:?}: every rule allows, without a word for it"
            );
        }
        Some(Verb::Forbids) => {
            return format!(
                "no machine is named {name:?}: no rule forbids, what none allows is refused"
            );
        }
        None => {}
    }
    if ["all", "everybody", "everyone"].contains(&&**name) {
        return format!("no machine is named {name:?}, did you mean any?");
    }
    match names
        .administrators()
        .ok()
        .and_then(|names| meant(name, names))
    {
        Some(meant) => format!("no machine is named {name:?}, did you mean {meant}?"),
        None if problem.is_some() => error.to_string(),
        None => format!("{error}; a host that a resolver knows is written with a dot"),
    }
}

/// Rules and problems of files that are read one after the other.
#[derive(Default)]
struct Reading {
    rules: Vec<ResolvedRule>,
    /// What names no machine, one line each.
    unknown: Vec<String>,
    problems: Vec<String>,
    bytes: usize,
}

impl Reading {
    fn add(&mut self, file: &Arc<str>, text: &str, names: &Known<'_>) {
        self.bytes += text.len();
        if self.bytes > BYTES_MAX {
            let problem = format!("{file}: all rules together are larger than 4 MiB");
            self.problems.push(problem);
            return;
        }
        for rule in gateway_rules::parse(text) {
            match rule {
                Err((line, _)) if self.problems.len() >= PROBLEMS_MAX => {
                    let problem = format!("{file}:{line}: the lines from here on were not read");
                    self.problems.push(problem);
                    return;
                }
                Err((line, problem)) => self.problems.push(format!("{file}:{line}: {problem}")),
                Ok(rule) => {
                    let (rule, unknown) = rule.resolve(file.clone(), names);
                    let told = |problem| format!("{}: {}", rule.place(), explain(&problem, names));
                    self.unknown.extend(unknown.into_iter().map(told));
                    self.rules.push(rule);
                }
            }
        }
    }

    /// Returns the rules, and what names no machine.
    fn rules(mut self, files: Arc<str>) -> (Rules, Vec<String>) {
        self.rules.shrink_to_fit();
        let rules = Rules {
            rules: self.rules,
            files,
        };
        (rules, self.unknown)
    }
}

/// Finds the name that differs in the fewest letters, and few.
fn meant<'a>(name: &str, names: &'a Names) -> Option<&'a str> {
    let known = names.given().map(|(known, _)| known).chain(["host"]);
    let near = known.map(|known| (strsim::osa_distance(known, name), known));
    near.filter(|&(slips, known)| slips <= SLIPS_MAX.min(known.len() / 2))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::vsock::Cid;

    fn names() -> Option<GivenNames> {
        "web=3 db=4".parse().ok()
    }

    fn web() -> Who {
        Who::Machine(Cid::new(3).unwrap())
    }

    fn place(rules: &Rules, asked: &str) -> Option<String> {
        let asked = asked.parse().unwrap();
        Some(
            rules
                .find(web(), &asked)?
                .place()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned(),
        )
    }

    #[test]
    fn a_folder_of_rules_that_cannot_be_read_is_not_one_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let (absent, file) = (folder.path().join("absent"), folder.path().join("a.conf"));
        fs::write(&file, "").unwrap();
        assert_eq!(configured_in(&absent).unwrap(), [""; 0].map(PathBuf::from));
        assert!(configured_in(&file).is_err());
        for name in ["a.txt", ".a.conf", "a.conf~"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(configured_in(folder.path()).unwrap(), [file]);
    }

    #[test]
    fn a_change_holds_from_the_next_question_on_and_an_error_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, "web db:1\n").unwrap();
        let files = RuleFiles::read(Source::File(path.clone()), names()).unwrap();
        assert_eq!(
            place(&files.current(), "vsock:4:1").as_deref(),
            Some("rules:1")
        );
        fs::write(&path, "# other\nweb db:2\n").unwrap();
        assert_eq!(place(&files.current(), "vsock:4:1"), None);
        assert_eq!(
            place(&files.current(), "vsock:4:2").as_deref(),
            Some("rules:2")
        );
        for text in ["web db:3\nweb db:x\n", "web db\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(
                place(&files.current(), "vsock:4:2").as_deref(),
                Some("rules:2")
            );
            assert_eq!(place(&files.current(), "vsock:4:3"), None);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(
            place(&files.current(), "vsock:4:2").as_deref(),
            Some("rules:2")
        );
        // As an editor does, or a program that writes beside and renames.
        let other = folder.path().join("other");
        fs::write(&other, "web db:5\n").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(
            place(&files.current(), "vsock:4:5").as_deref(),
            Some("rules:1")
        );
        fs::write(&other, "web db:6\n").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        assert_eq!(
            place(&files.current(), "vsock:4:6").as_deref(),
            Some("rules:1")
        );
    }

    /// Where times have no nanoseconds of their own (before Linux 6.13), a file of the same length looks the same then.
    #[test]
    fn a_file_that_has_just_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, "web db:1\n").unwrap();
        let file = fs::metadata(&path).unwrap();
        let nanoseconds = file.ctime() as u64 * 1_000_000_000 + file.ctime_nsec() as u64;
        let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        let seen = |later| Seen::new(path.clone(), changed + Duration::from_millis(later));
        assert_ne!(seen(1), seen(2));
        assert_ne!(seen(1), seen(1000));
        assert_eq!(seen(1000), seen(2000));
    }

    /// However much is there by now of a file that is written in place, nobody comes where neither it nor what it was leads.
    #[test]
    fn a_file_that_is_being_written_opens_no_more_than_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let (old, new) = (
            "web db:1\n",
            "# c\nweb db:5432 as-peer\nweb 10.1.0.0/16:8080\n",
        );
        fs::write(&path, old).unwrap();
        let files = RuleFiles::read(Source::File(path.clone()), names()).unwrap();
        let mut whole = old;
        for length in 0..=new.len() {
            let (now, text) = (SystemTime::now(), &new[..length]);
            fs::write(&path, text).unwrap();
            let rules = files.current();
            // What ends with a line holds at once, and what does not leaves all as it was.
            if text.ends_with('\n') {
                whole = text;
            }
            let expected = whole.lines().filter(|line| !line.starts_with('#'));
            // A machine that stands still here for a second is no failure.
            let is_late = now.elapsed().is_ok_and(|age| age >= configured::SETTLED);
            let is_right = rules.iter().map(ResolvedRule::text).eq(expected);
            assert!(is_late || is_right, "{text:?}: {:?}", rules.rules);
        }
        assert_eq!(files.current().count(), 2);
    }

    #[test]
    fn a_last_line_without_a_newline_holds_once_the_file_is_written_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, "web db:1\n").unwrap();
        let files = RuleFiles::read(Source::File(path.clone()), names()).unwrap();
        let now = SystemTime::now();
        fs::write(&path, "web db:54").unwrap();
        let first = place(&files.current(), "vsock:4:54");
        assert!(first.is_none() || now.elapsed().unwrap() >= configured::SETTLED);
        // Nothing of this is seen in the folder, nor waited for.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(now - Duration::from_secs(60)).unwrap();
        assert!(place(&files.current(), "vsock:4:54").is_some());
        fs::write(&path, "").unwrap();
        file.set_modified(now - Duration::from_secs(50)).unwrap();
        assert_eq!(files.current().count(), 0);
        // Who reads once waits.
        fs::write(&path, "web db:7").unwrap();
        let (rules, _) = Source::File(path).read(names().as_ref()).unwrap();
        assert!(place(&rules, "vsock:4:7").is_some());
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let problem = |text: &str| {
            fs::write(&path, text).unwrap();
            let read = RuleFiles::read(Source::File(path.clone()), names());
            let line = read.unwrap_err().report();
            assert_eq!(line.lines().count(), 1, "{line}");
            line.replace(&*path.to_string_lossy(), "rules")
        };
        for (text, words) in [
            (
                "web db\n",
                "rules:1: \"db\" is not a valid destination: the port is missing",
            ),
            (&"x\n".repeat(9), "; 4 more"),
            (&"x\n".repeat(100_000), "; 996 more"),
            (&"#".repeat(1 << 21), "larger than 1024 KiB"),
        ] {
            let line = problem(text);
            assert!(line.contains(words), "{line}");
        }
        fs::remove_file(&path).unwrap();
        for path in [path, folder.path().to_owned()] {
            let read = RuleFiles::read(Source::File(path), names());
            assert!(read.is_err());
        }
    }

    #[test]
    fn a_machine_that_nobody_knows_is_told_and_the_rest_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, "wbe,web db:1 xyzzy:1\ndeny db:1\nall db:1\n").unwrap();
        let (rules, unknown) = (Source::File(path).read(names().as_ref())).unwrap();
        assert_eq!(place(&rules, "vsock:4:1").as_deref(), Some("rules:1"));
        for (line, words) in unknown.iter().zip([
            "rules:1: no machine is named \"wbe\", did you mean web?",
            "rules:1: no machine is named \"xyzzy\": give its CID",
            "rules:2: no machine is named \"deny\": no rule forbids",
            "rules:3: no machine is named \"all\", did you mean any?",
        ]) {
            assert!(line.contains(words), "{line}");
        }
        assert_eq!(unknown.len(), 4);
    }

    #[test]
    fn many_rules_are_read_and_asked_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let lines: String = (1..=60_000).map(|n| format!("9 4:{}\n", n)).collect();
        fs::write(&path, lines + "web db:1\n").unwrap();
        let files = RuleFiles::read(Source::File(path), names()).unwrap();
        assert_eq!(
            place(&files.current(), "vsock:4:1").as_deref(),
            Some("rules:60001")
        );
    }
}
