//! Another program, asked one question: what it says within a time limit, and then its end.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::clock::Moment;
use crate::sys;

/// For a program that somebody waits for: one that is stuck is a thing to be told, and not to wait for.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(10);
/// More than any answer, such as systemctl's of ten thousand units; a program that says more is not the one that was meant.
const ANSWER_MAX: usize = 16 << 20;

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    /// On stdout.
    pub(crate) answer: String,
    /// On stderr.
    pub(crate) complaint: String,
}

/// Asks a program; none if there is no such program.
///
/// Errors: why it was not heard to its end, in a line that begins with its name.
pub(crate) fn ask(
    program: &str,
    arguments: &[&str],
    deadline: Moment,
) -> Result<Option<Said>, String> {
    let Some(mut asked) = Asked::start(program.as_ref(), arguments)? else {
        return Ok(None);
    };
    asked.said(deadline).map(Some)
}

/// Asks a program whose answer is how it ends; none if there is no such program.
///
/// Errors: as of [`ask`].
pub(crate) fn try_out(
    program: &OsStr,
    arguments: &[impl AsRef<OsStr>],
    deadline: Moment,
) -> Result<Option<(ExitStatus, Said)>, String> {
    let Some(mut asked) = Asked::start(program, arguments)? else {
        return Ok(None);
    };
    let said = asked.said(deadline)?;
    Ok(Some((asked.status(deadline)?, said)))
}

/// A program that runs. It is ended with this, whatever keeps it; one that has ended is not there to be killed.
struct Asked {
    name: String,
    child: Child,
}

impl Asked {
    fn start(program: &OsStr, arguments: &[impl AsRef<OsStr>]) -> Result<Option<Asked>, String> {
        let child = Command::new(program)
            .args(arguments)
            // What it says is read here and not by a person.
            .env("LC_ALL", "C")
            // machinectl and systemctl tell the service manager how they ended, as if they were a service.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let name = program.to_string_lossy().into_owned();
        match child {
            Ok(child) => Ok(Some(Asked { name, child })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{name} cannot be run: {error}")),
        }
    }

    fn said(&mut self, deadline: Moment) -> Result<Said, String> {
        let heard = hear(&mut self.child, deadline).map_err(|errno| self.problem(errno))?;
        let [answer, complaint] = heard.map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(Said { answer, complaint })
    }

    /// Waits for its end, which may be later than that of what it says.
    fn status(&mut self, deadline: Moment) -> Result<ExitStatus, String> {
        let process = Pid::from_raw(self.child.id() as i32);
        let has_ended = sys::process_descriptor(process).and_then(|end| {
            while !readable([Some(end.as_fd()), None], deadline)?[0] {}
            Ok(())
        });
        has_ended.map_err(|errno| self.problem(errno))?;
        (self.child.wait()).map_err(|error| format!("{} is lost: {error}", self.name))
    }

    fn problem(&self, errno: Errno) -> String {
        let name = &self.name;
        match errno {
            Errno::ETIMEDOUT => format!("{name} gave no answer in time"),
            Errno::EMSGSIZE => format!("{name} does not stop talking"),
            errno => format!("{name} cannot be heard: {}", errno.desc()),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads stdout and stderr to their ends.
fn hear(child: &mut Child, deadline: Moment) -> Result<[Vec<u8>; 2], Errno> {
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    while stdout.is_some() || stderr.is_some() {
        let fds = [
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ];
        let [is_answering, is_complaining] = readable(fds, deadline)?;
        if is_answering && !read_on(stdout.as_mut(), &mut answer)? {
            stdout = None;
        }
        if is_complaining && !read_on(stderr.as_mut(), &mut complaint)? {
            stderr = None;
        }
    }
    Ok([answer, complaint])
}

/// Waits until one of them can be read.
fn readable(fds: [Option<BorrowedFd<'_>>; 2], deadline: Moment) -> Result<[bool; 2], Errno> {
    let left = deadline - Moment::now();
    if left.is_zero() {
        return Err(Errno::ETIMEDOUT);
    }
    // Rounded up, so that the deadline has passed when the time is over.
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    let mut watched: Vec<PollFd<'_>> = fds
        .iter()
        .flatten()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    match poll(&mut watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let mut watched = watched.iter();
    Ok(fds.map(|fd| {
        fd.and_then(|_| watched.next())
            .is_some_and(|polled| polled.any().unwrap_or(false))
    }))
}

/// Reads once; tells whether there may be more.
fn read_on(from: Option<&mut impl Read>, to: &mut Vec<u8>) -> Result<bool, Errno> {
    let Some(from) = from else {
        return Ok(false);
    };
    let mut buffer = [0; 16 * 1024];
    let count = match from.read(&mut buffer) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
        Err(error) => return Err(error.try_into().unwrap_or(Errno::EIO)),
    };
    to.extend_from_slice(&buffer[..count]);
    match to.len() > ANSWER_MAX {
        true => Err(Errno::EMSGSIZE),
        false => Ok(count > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a script ended, and what it complained of.
    fn try_script(script: &str, time: Duration) -> Result<(Option<i32>, String), String> {
        let tried = try_out("sh".as_ref(), &["-c", script], Moment::now() + time)?;
        let (status, said) = tried.unwrap();
        Ok((status.code(), said.complaint))
    }

    #[test]
    fn a_program_closes_what_it_writes_to_and_ends_later_its_status_is_waited_for() {
        let ended = try_script("echo no >&2; exec >&- 2>&-; sleep 0.2; exit 3", LONG);
        assert_eq!(ended, Ok((Some(3), "no\n".to_owned())));
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_whether_it_is_silent_or_has_closed_all() {
        let problem = Err("sh gave no answer in time".to_owned());
        for script in ["sleep 60", "exec >&- 2>&-; sleep 60"] {
            assert_eq!(try_script(script, Duration::from_millis(100)), problem);
        }
    }

    #[test]
    fn there_is_no_such_program() {
        let tried = try_out("/no/such/program".as_ref(), &["x"], Moment::now() + LONG);
        assert!(matches!(tried, Ok(None)), "{tried:?}");
    }

    const LONG: Duration = Duration::from_secs(20);
}
