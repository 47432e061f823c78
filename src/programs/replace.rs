//! A program that takes the place of this one, with a connected socket: no relay is in the path.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, dup2, eaccess};

use crate::error::{Error, Result};
use crate::stream::Stream;
use crate::sys;

/// What may fail for want of descriptors.
const COPY: &str = "copy the descriptor of the connected socket";
/// Where programs are looked for without PATH, as execvp(3) does.
const SEARCH: &str = "/bin:/usr/bin";

/// A descriptor that is kept for the socket, so that nothing else has its number by then.
#[derive(Debug)]
pub(super) struct Kept(OwnedFd);

impl Kept {
    /// Errors: [`Error::Usage`] for a number that this process may not have, or that is taken.
    pub(super) fn new(number: i32) -> Result<Kept> {
        // Without a limit to be found the kernel has the last word.
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
        if u64::try_from(number).is_ok_and(|number| number >= limit) {
            return Err(Error::Usage(format!(
                "`--fd {number}`: a process may have no descriptor above {} here; choose a lower one, or raise `ulimit -n`",
                limit.saturating_sub(1)
            )));
        }
        // The first one from there on that is free; which file it is of does not matter.
        let kept = sys::copy_from(io::stdin().as_fd(), number).map_err(Error::system(COPY))?;
        match kept.as_raw_fd() == number {
            true => Ok(Kept(kept)),
            false => Err(Error::Usage(format!(
                "`--fd {number}`: descriptor {number} is open already; choose another one, or close it before"
            ))),
        }
    }

    /// Has the socket take its place, and leaves it open for the program.
    fn take(self, socket: &OwnedFd) -> Result<()> {
        let Kept(mut kept) = self;
        dup2(socket, &mut kept).map_err(Error::system(COPY))?;
        // The program's from now on.
        let _ = kept.into_raw_fd();
        Ok(())
    }
}

/// Checks that a program that is to be run can be, as far as that is known before. `argument`: which argument it is.
///
/// Errors: those of [`expect_name`]; [`Error::Usage`] for a whole line; [`Unusable::File`](crate::unusable::Unusable::File).
pub(super) fn expect_program(argument: &str, command: &[OsString]) -> Result<()> {
    expect_name(argument, command)?;
    let Some(name) = command.first() else {
        return Ok(());
    };
    let found = match name.as_bytes().contains(&b'/') {
        true => may_run(name.as_ref()),
        false => find(name, &env::var_os("PATH").unwrap_or(SEARCH.into())),
    };
    match found {
        // Of the whole line in quotes, as a shell takes it.
        Err(_) if name.as_bytes().contains(&b' ') => Err(Error::Usage(format!(
            "`{argument}`: no program is named {name:?}: write it and each of its arguments as words of their own, without \
             quotes around all of them"
        ))),
        Err(errno @ (Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR)) => {
            Err(Error::file("run", name.as_ref())(errno.into()))
        }
        // The kernel has the last word.
        _ => Ok(()),
    }
}

/// Looks a program up, as execvp(3) does: what may not be run is passed over for what may.
fn find(name: &OsStr, folders: &OsStr) -> Result<(), Errno> {
    let mut reason = Errno::ENOENT;
    for folder in env::split_paths(folders) {
        match may_run(&folder.join(name)) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(Errno::EACCES) => reason = Errno::EACCES,
            found => return found,
        }
    }
    Err(reason)
}

fn may_run(path: &Path) -> Result<(), Errno> {
    eaccess(path, AccessFlags::X_OK)?;
    match fs::metadata(path) {
        Ok(file) if !file.is_file() => Err(Errno::EACCES),
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

/// Runs a program in the place of this one. The socket is its standard input and output, or what is kept for it, and its mode is
/// that of a fresh one. Returns only if that fails.
///
/// Errors: [`Unusable::File`](crate::unusable::Unusable::File) for what cannot be run.
pub(super) fn replace(stream: Stream, kept: Option<Kept>, mut program: Command) -> Result<()> {
    let family = stream.family();
    let socket = stream
        .into_blocking()
        .map_err(Error::system("make the connected socket blocking"))?;
    let own = copy(&socket)?;
    match kept {
        Some(kept) => kept.take(&socket)?,
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_is_found_as_the_library_finds_it() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for (folder, mode) in [("a", 0o644), ("b", 0o755)] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("x"), "").unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(at(folder).join("x"), mode).unwrap();
        }
        fs::create_dir(at("a/y")).unwrap();
        for (name, folders, found) in [
            ("x", &["a", "b"][..], Ok(())),
            ("x", &["a", "missing"], Err(Errno::EACCES)),
            ("x", &["missing", "a/x"], Err(Errno::ENOENT)),
            ("y", &["a"], Err(Errno::EACCES)),
            ("x", &[], Err(Errno::ENOENT)),
        ] {
            let folders = env::join_paths(folders.iter().map(|folder| at(folder))).unwrap();
            assert_eq!(find(name.as_ref(), &folders), found, "{name} {folders:?}");
        }
        let program = |path: &str| expect_program("x", &[at(path).into_os_string()]);
        assert!(program("b/x").is_ok());
        let line = program("b/x -c 'y z'").unwrap_err();
        assert!(line.is_usage() && line.report().contains("as words of their own"));
        let problem = program("a/x").unwrap_err().report();
        assert!(
            problem.ends_with("a/x: Permission denied (os error 13)"),
            "{problem}"
        );
    }
}
