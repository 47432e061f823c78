//! Why what is configured cannot be used: a file, a line of it, a name that it does not have.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config_file;
use crate::invalid::Invalid;
use crate::names;
use crate::unix_name::UnixName;

/// Something configured that cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unusable {
    /// A file that cannot be read, written or found.
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A line of a configuration file that says nothing valid.
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Names that were given and are none, when one is looked up.
    Names {
        /// What is wrong with them.
        problem: Invalid,
    },
    /// A name that no machine has.
    UnknownMachine {
        /// The name without `.vsock`.
        name: String,
        /// What is wrong with the line that should have given it, or what was not read where it may be given.
        problem: Option<String>,
    },
    /// A machine that is reached over hybrid vsock, where one with a CID is needed.
    NoCid {
        /// Its name without `.vsock`.
        name: String,
        /// The socket of its VMM.
        socket: UnixName,
    },
}

impl Unusable {
    /// Names a failed operation on a file; for use with `map_err`.
    pub fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Unusable {
        let path = path.to_owned();
        move |source| Unusable::File {
            operation,
            path,
            source,
        }
    }
}

impl Unusable {
    /// Returns whether it is a machine that is not there now, and may be there later.
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Unusable::UnknownMachine { .. } | Unusable::NoCid { .. }
        )
    }

    /// Returns what a list of machines with a name comes to that is no CID now.
    pub fn in_a_list(&self) -> &'static str {
        match self {
            Unusable::NoCid { .. } => {
                "it comes to the socket of its monitor alone, as vsock-bridge-mux@ has it, and no list is for that"
            }
            _ => "it may come in once it is there",
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::File {
                operation, path, ..
            } => write!(f, "cannot {operation} {}", path.display()),
            Unusable::Line {
                path,
                line,
                problem,
            } => write!(f, "{}:{line}: {problem}", path.display()),
            Unusable::Names { problem } => write!(f, "{}: {problem}", names::VARIABLE),
            Unusable::UnknownMachine {
                name,
                problem: Some(problem),
            } => write!(f, "no machine is named {name:?}: {problem}"),
            Unusable::UnknownMachine { name, .. } => write!(
                f,
                "no machine is named {name:?}: give its CID, or name it in {}, e.g. {}=\"{name}=3\", or in a file in {}",
                config_file::PATH,
                names::VARIABLE,
                names::REGISTRY
            ),
            Unusable::NoCid { name, socket } => write!(
                f,
                "the machine {name:?} has no CID: it is reached over hybrid vsock, by {socket}"
            ),
        }
    }
}

impl Error for Unusable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Unusable::File { source, .. } => Some(source),
            Unusable::Line { .. }
            | Unusable::Names { .. }
            | Unusable::UnknownMachine { .. }
            | Unusable::NoCid { .. } => None,
        }
    }
}
