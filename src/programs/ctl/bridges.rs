//! Finds the bridges of this machine, and asks each one that runs what it does.
//!
//! One that runs has a control socket, see [`crate::serve::control`]. Whoever may not open it, or gets no answer,
//! hears which one that is.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::socket::AddressFamily;

use super::bridge::{Activity, Bridge};
use super::check::units::{self, Manager};
use super::sockets;
use super::wanted::{self, is_wanted};
use crate::accounting::snapshot::Snapshot;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::programs::unit_folder::{self, OF_USER};
use crate::serve::control::SOCKET_NAME;
use crate::{sys, unix_path};

/// For a whole answer. A bridge waits two seconds for a thread that is stuck.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Until a bridge is asked again that has closed without an answer.
const PAUSE: Duration = Duration::from_millis(50);
/// A million connections have less.
const ANSWER_MAX: usize = 1 << 29;
/// How often a bridge is asked whose connections changed while it answered.
const ATTEMPTS: usize = 5;

/// A bridge that could not be asked.
#[derive(Debug)]
pub(super) struct Unread {
    /// Name of its units, without suffix.
    pub name: String,
    /// Why.
    pub error: Error,
}

/// All bridges, by name.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Those of which something is known.
    pub bridges: Vec<Bridge>,
    /// The others.
    pub unread: Vec<Unread>,
}

impl Survey {
    /// Returns whether there is no bridge at all.
    pub(super) fn is_empty(&self) -> bool {
        self.bridges.is_empty() && self.unread.is_empty()
    }

    /// Returns what is wrong: bridges that are not there, or could not be asked.
    pub(super) fn errors(self, units: &[wanted::Unit]) -> Vec<Error> {
        let names = self.bridges.iter().map(|bridge| &*bridge.name);
        let names: Vec<&str> = names
            .chain(self.unread.iter().map(|unread| &*unread.name))
            .collect();
        let missing = wanted::missing(units, &names).into_iter();
        let missing = missing.map(|name| Error::NoBridge {
            name: name.to_owned(),
        });
        let missing: Vec<Error> = missing.collect();
        let mut is_refused = false;
        let unread = self.unread.into_iter().map(|unread| unread.error);
        // Whoever is not root is told so once.
        let unread =
            unread.filter(|error| !is_denied(error) || !std::mem::replace(&mut is_refused, true));
        missing.into_iter().chain(unread).collect()
    }
}

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::Control { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

/// Logs what is wrong.
///
/// Errors: the last one, which is for the caller to log.
pub(super) fn complain(mut errors: Vec<Error>) -> Result<()> {
    let last = errors.pop();
    for error in errors {
        log::error!("{}", error.report());
    }
    last.map_or(Ok(()), Err)
}

/// Asks the bridges that are meant, all at once; without `units`, all of them.
///
/// Errors: [`Error::Control`] when not even their folder can be read; [`Error::Usage`] for a user who has none.
pub(super) fn survey(manager: Manager, units: &[wanted::Unit]) -> Result<Survey> {
    let folder = folder(manager)?;
    let mut folders =
        unit_folder::all(&folder, SOCKET_NAME).map_err(|source| failure(folder.clone(), source))?;
    folders.retain(|name, _| is_wanted(units, name));
    let paths: Vec<PathBuf> = (folders.values())
        .map(|folder| folder.join(SOCKET_NAME))
        .collect();
    let answers = answers(&paths);
    let mut survey = Survey::default();
    for ((name, path), answer) in folders.into_keys().zip(paths).zip(answers) {
        match answer {
            Ok(snapshot) => survey.bridges.push(Bridge {
                name,
                activity: Activity::Running(Box::new(snapshot)),
            }),
            // The process is about to listen, or has left.
            Err(source) if source.kind() == ErrorKind::NotFound => {}
            Err(source) => survey.unread.push(Unread {
                name,
                error: failure(path, source),
            }),
        }
    }
    add_silent(&mut survey, manager, units);
    Ok(survey)
}

/// Returns whether its process has left a socket behind, as after a kill.
fn is_gone(unread: &Unread) -> bool {
    let kind = |error: &Error| match error {
        Error::Control { source, .. } => Some(source.kind()),
        _ => None,
    };
    kind(&unread.error) == Some(ErrorKind::ConnectionRefused)
}

/// Asks one bridge, by the name of its units without suffix; none if it has no process that answers this user.
pub(super) fn snapshot(name: &str) -> Option<Snapshot> {
    let folders = unit_folder::all(Path::new(unit_folder::OF_MACHINE), SOCKET_NAME).ok()?;
    ask(&folders.get(name)?.join(SOCKET_NAME)).ok()
}

/// Asks each in a thread of its own, so that one which does not answer delays no other.
fn answers(paths: &[PathBuf]) -> Vec<io::Result<Snapshot>> {
    thread::scope(|scope| {
        let threads: Vec<_> = paths
            .iter()
            .map(|path| thread::Builder::new().spawn_scoped(scope, || ask(path)))
            .collect();
        let panicked = |_| Err(ErrorKind::Other.into());
        threads
            .into_iter()
            .map(|thread| thread?.join().unwrap_or_else(panicked))
            .collect()
    })
}

/// Adds those that only systemd knows of, where it can be asked.
fn add_silent(survey: &mut Survey, manager: Manager, wanted: &[wanted::Unit]) {
    let units = units::gather(manager).unwrap_or_else(|problem| {
        log::debug!("bridges that wait are not shown: {problem}");
        Vec::new()
    });
    let mut silent = sockets::bridges(&units);
    silent.retain(|bridge| is_wanted(wanted, &bridge.name));
    for bridge in silent {
        // systemd knows better: another process is about to start.
        (survey.unread).retain(|unread| unread.name != bridge.name || !is_gone(unread));
        let running = survey.bridges.iter().map(|bridge| &bridge.name);
        let mut known = running.chain(survey.unread.iter().map(|unread| &unread.name));
        if !known.any(|name| *name == bridge.name) {
            survey.bridges.push(bridge);
        }
    }
    survey
        .bridges
        .sort_by(|one, other| one.name.cmp(&other.name));
}

/// Returns the folder of the folders of all services.
fn folder(manager: Manager) -> Result<PathBuf> {
    match manager {
        Manager::System => Ok(PathBuf::from(unit_folder::OF_MACHINE)),
        Manager::User => match unit_folder::of_user() {
            Some(folder) => Ok(folder),
            None => Err(Error::Usage(format!(
                "{OF_USER} is not set, so that your bridges cannot be found: log in by ssh, or by `machinectl shell USER@`"
            ))),
        },
    }
}

fn failure(path: PathBuf, source: io::Error) -> Error {
    let hint = match source.kind() {
        ErrorKind::PermissionDenied => " (run it as root)",
        ErrorKind::ConnectionRefused => " (its process is gone)",
        ErrorKind::TimedOut => " (it does not answer; its log may tell why)",
        ErrorKind::UnexpectedEof => " (it answers others; try again)",
        _ => "",
    };
    Error::Control { path, hint, source }
}

/// Asks one bridge. Its totals and its connections must be of the same moment, or a sum over both would fall.
fn ask(path: &Path) -> io::Result<Snapshot> {
    let until = Moment::now() + ANSWER_TIME;
    let mut snapshot = ask_in_turn(path, until)?;
    for _ in 1..ATTEMPTS {
        if snapshot.open == snapshot.connections.len() {
            break;
        }
        snapshot = ask_in_turn(path, until)?;
    }
    Ok(snapshot)
}

/// Asks again while it answers as many others as it may.
fn ask_in_turn(path: &Path, until: Moment) -> io::Result<Snapshot> {
    let mut was_busy = false;
    loop {
        match ask_once(path, until) {
            // Nothing tells when it has room: it is time itself that is waited for.
            Err(error) if is_busy(&error) && Moment::now() + PAUSE < until => {
                was_busy = true;
                thread::sleep(PAUSE);
            }
            // The time was over in the middle of one more attempt.
            Err(error) if was_busy && error.kind() == ErrorKind::TimedOut => {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            result => return result,
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == ErrorKind::UnexpectedEof
}

fn ask_once(path: &Path, until: Moment) -> io::Result<Snapshot> {
    let socket = sys::stream_socket(AddressFamily::Unix)?;
    unix_path::connect(socket.as_fd(), path).map_err(|errno| match errno {
        // Its queue is full of others.
        nix::errno::Errno::EAGAIN => ErrorKind::TimedOut.into(),
        errno => io::Error::from(errno),
    })?;
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    let answer = read_until(&mut stream, until)?;
    if answer.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Reads to the end, but not for longer, nor more than a bridge can have to say.
fn read_until(stream: &mut UnixStream, until: Moment) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while answer.len() < ANSWER_MAX {
        let left = until - Moment::now();
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend(&buffer[..count]),
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::FileTooLarge.into())
}

/// One bridge that runs and one that waits, for the tests of what is printed of them.
#[cfg(test)]
pub(super) fn example() -> Vec<Bridge> {
    use crate::accounting::counters::ConnectTimes;
    use crate::accounting::snapshot::{Failure, OpenConnection, Stage};

    let connection = |peer: &str, cid, stage| OpenConnection {
        peer: peer.to_owned(),
        cid,
        target: "[::1]:445".to_owned(),
        stage,
        inbound_bytes: 0,
        outbound_bytes: 0,
        age_seconds: 1.0,
        idle_seconds: 1.0,
    };
    let reason = |&(name, count): &(&str, u64)| (name.to_owned(), count);
    let reasons = |all: &[_]| all.iter().map(reason).collect();
    let snapshot = Snapshot {
        pid: 4711,
        state: "serving".to_owned(),
        listeners: vec!["vsock::445".to_owned()],
        target: "[::1]:445".to_owned(),
        allow_cid: Some("any".to_owned()),
        open: 3,
        served: 1204,
        refused: 2,
        refused_by_reason: reasons(&[("max_connections", 0), ("not_allowed", 1)]),
        unreachable: 1,
        unreachable_by_reason: reasons(&[("other", 0), ("refused", 1)]),
        last_failure: Some(Failure {
            reason: "cannot connect".to_owned(),
            age_seconds: 1.5,
        }),
        inbound_bytes: 1000,
        outbound_bytes: 2000,
        connect_times: Some(ConnectTimes {
            count: 1206,
            sum_seconds: 12.5,
            buckets: vec![(0.001, 1000), (10.0, 1205)],
        }),
        connections: vec![
            OpenConnection {
                inbound_bytes: 3 << 29,
                outbound_bytes: 12,
                age_seconds: 3720.5,
                idle_seconds: 0.25,
                ..connection("vsock:3:1025", Some(3), Stage::Open)
            },
            OpenConnection {
                outbound_bytes: 4096,
                age_seconds: 200.0,
                idle_seconds: 121.0,
                ..connection("vsock:3:1026", Some(3), Stage::HalfClosed)
            },
            connection("[::1]:50000", None, Stage::Connecting),
        ],
    };
    let waiting = Activity::Silent {
        state: "waiting",
        listeners: vec!["[fd00::2]:445".to_owned()],
        allow_cid: None,
    };
    let bridge = |name: &str, activity| Bridge {
        name: name.to_owned(),
        activity,
    };
    vec![
        bridge("vsock-bridge-ipv6@445", waiting),
        bridge("vsock-bridge@445", Activity::Running(Box::new(snapshot))),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn one_that_has_hung_up_before_the_time_was_over_answers_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let holding = thread::spawn(move || {
            drop(listener.accept().unwrap());
            (listener.accept().unwrap(), listener)
        });
        let error = ask_in_turn(&path, Moment::now() + Duration::from_secs(2)).err();
        assert_eq!(error.unwrap().kind(), ErrorKind::UnexpectedEof);
        holding.join().unwrap();
    }
}
