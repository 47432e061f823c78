//! A program that takes the place of this one, with a connected socket: no relay is in the path.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};

use crate::error::{Error, Result};
use crate::stream::Stream;

/// What may fail for want of descriptors.
const COPY: &str = "copy the descriptor of the connected socket";

/// Checks what can be known before anybody is connected to.
///
/// Errors: [`Error::Usage`] for a program without a name, and for a number that this process may not have.
pub(super) fn check(number: Option<i32>, command: &[OsString]) -> Result<()> {
    expect_name("--exec", command)?;
    // Without a limit to be found the kernel has the last word.
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    match number.and_then(|number| u64::try_from(number).ok()) {
        Some(number) if number >= limit => Err(Error::Usage(format!(
            "`--fd {number}`: a process may have no descriptor above {} here; choose a lower one, or raise `ulimit -n`",
            limit.saturating_sub(1)
        ))),
        _ => Ok(()),
    }
}

/// Checks that a program that is to be run has a name. `argument`: which argument it is.
///
/// Errors: [`Error::Usage`].
pub(super) fn expect_name(argument: &str, command: &[OsString]) -> Result<()> {
    match command.first().is_some_and(|name| name.is_empty()) {
        true => Err(Error::Usage(format!(
            "`{argument}`: the name of the program is empty; was a variable of the shell?"
        ))),
        false => Ok(()),
    }
}

/// Reads the number of a descriptor that a program may have besides its standard ones.
pub(super) fn parse_number(text: &str) -> Result<i32> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (3..1024).contains(number));
    number.ok_or_else(|| {
        let hint = "expected one from 3 to 1023; below are standard input, output and error";
        Error::invalid("number of a descriptor", text, hint)
    })
}

/// Runs a program in the place of this one. The socket is its standard input and output, or its descriptor with that
/// number, and its mode is that of a fresh one. Returns only if that fails.
///
/// Errors: [`Error::Usage`] for a number that is taken; [`Unusable::File`](crate::unusable::Unusable::File) for what cannot be
/// run.
pub(super) fn replace(stream: Stream, number: Option<i32>, mut program: Command) -> Result<()> {
    let family = stream.family();
    let socket = stream
        .into_blocking()
        .map_err(Error::system("make the connected socket blocking"))?;
    let own = copy(&socket)?;
    match number {
        Some(number) => keep_as(socket, number)?,
        None => {
            let input = copy(&socket)?;
            program.stdin(input).stdout(socket);
        }
    }
    // Lines that wait are written by a thread that ends here.
    log::logger().flush();
    let error = program.exec();
    // Nobody takes what was not served for a complete answer.
    Stream::socket(own, family).abort();
    Err(Error::file("run", Path::new(program.get_program()))(error))
}

/// Copies the descriptor, to be closed when the program begins.
fn copy(socket: &OwnedFd) -> Result<OwnedFd> {
    socket.try_clone().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        Error::system(COPY)(errno)
    })
}

/// Leaves the socket open for the program, as that descriptor.
fn keep_as(socket: OwnedFd, number: i32) -> Result<()> {
    if socket.as_raw_fd() == number {
        fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map_err(Error::system(COPY))?;
        // The program's from now on.
        let _ = socket.into_raw_fd();
        return Ok(());
    }
    // The first one from there on that is free.
    match fcntl(socket.as_fd(), FcntlArg::F_DUPFD(number)).map_err(Error::system(COPY))? {
        found if found == number => Ok(()),
        _ => Err(Error::Usage(format!(
            "`--fd {number}`: descriptor {number} is open already; choose another one, or close it before"
        ))),
    }
}
