//! Another program, asked one question: what it says within a time limit, and then its end.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::Moment;

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
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{program} cannot be run: {error}")),
    };
    let heard = hear(&mut child, deadline);
    // Whatever keeps it after both ends, or after the deadline, is not waited for. One that has ended is not there to be
    // killed.
    let _ = child.kill();
    let _ = child.wait();
    match heard {
        Ok((answer, complaint)) => Ok(Some(Said {
            answer: String::from_utf8_lossy(&answer).into_owned(),
            complaint: String::from_utf8_lossy(&complaint).into_owned(),
        })),
        Err(Errno::ETIMEDOUT) => Err(format!("{program} gave no answer in time")),
        Err(Errno::EMSGSIZE) => Err(format!("{program} does not stop talking")),
        Err(errno) => Err(format!("{program} cannot be heard: {}", errno.desc())),
    }
}

/// Reads stdout and stderr to their ends.
fn hear(child: &mut Child, deadline: Moment) -> Result<(Vec<u8>, Vec<u8>), Errno> {
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
    Ok((answer, complaint))
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
