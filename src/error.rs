//! What can go wrong, one variant for one failed operation, and how it is told in one line.
//!
//! Display names the operation and the object, never the cause: the chain is joined when printed.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;

use crate::endpoint::Endpoint;
use crate::invalid::Invalid;
use crate::prefix::Prefix;
use crate::unusable::Unusable;
use crate::vsock::Cid;

/// The result of everything that can fail here.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation with the object it failed on; the cause of the system is its `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that is not what it should be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Something configured that cannot be used, or a file of any kind.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Options that do not go together, or an option that is missing.
    #[error("{0}")]
    Usage(String),
    /// systemd passed nothing to serve.
    #[error(
        "no sockets were passed ({0}): start the socket unit, e.g. `systemctl start vsock-bridge@445.socket`, \
         or, without systemd, say where to listen, e.g. --listen vsock::445"
    )]
    NotActivated(String),
    /// One of the passed descriptors cannot be served.
    #[error("passed descriptor {number} ({name}): {problem}")]
    Descriptor {
        /// Its number.
        number: usize,
        /// Its name in LISTEN_FDNAMES.
        name: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A place where this process cannot listen.
    #[error("cannot listen on {address}{hint}")]
    Listen {
        /// The address that was given.
        address: Box<Endpoint>,
        /// In brackets, with a leading space: what this cause means here; or empty.
        hint: String,
        /// What the kernel said.
        source: Errno,
    },
    /// A name that gives no address.
    #[error("cannot resolve {name}: check the name, or give the address")]
    Resolve {
        /// The name as given.
        name: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// A machine whose CID its manager did not tell.
    #[error("cannot find {host}: {problem}")]
    Lookup {
        /// The host as it was given.
        host: String,
        /// What the manager said, or why it cannot be asked.
        problem: String,
    },
    /// Somebody who manages machines and does not tell which.
    #[error("cannot ask {manager} for its machines: {problem}")]
    Manager {
        /// Who.
        manager: String,
        /// What was said, or why nothing was.
        problem: String,
    },
    /// A target that cannot be reached.
    #[error("cannot connect to {target}{hint}")]
    Connect {
        /// The address that was tried.
        target: Box<Endpoint>,
        /// In brackets, with a leading space: what this cause means here; or empty.
        hint: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// A target that did not answer in time.
    #[error("cannot connect to {target}{hint}: no answer within {}", humantime::format_duration(*limit))]
    ConnectTimeout {
        /// The address that was tried.
        target: Box<Endpoint>,
        /// In brackets, with a leading space: what this may mean here; or empty.
        hint: &'static str,
        /// The limit, `--connect-timeout`.
        limit: Duration,
    },
    /// The machine behind a hybrid vsock socket did not accept.
    #[error("cannot connect to {target}: {problem}")]
    Mux {
        /// The address that was tried.
        target: Box<Endpoint>,
        /// What the other end sent instead of `OK`.
        problem: String,
    },
    /// A machine to which the gateway does not lead.
    #[error("cannot connect to {target} through the gateway: {problem}")]
    Tunnel {
        /// The machine and its port.
        target: Box<Endpoint>,
        /// What the gateway said.
        problem: String,
        /// Another try would be told the same.
        is_final: bool,
    },
    /// A machine, brought by the gateway, of which so many connections are open already.
    #[error("the limit --max-connections-per-peer={limit} is reached for CID {cid}")]
    PeerFull {
        /// The machine.
        cid: Cid,
        /// The limit.
        limit: usize,
    },
    /// What a peer of the gateway has asked for, and no rule allows.
    #[error("{0}")]
    NotAllowed(String),
    /// What a peer has sent to the gateway, and is no request that can be served.
    #[error("bad request: {0}")]
    Request(String),
    /// Each machine has a target of its own, and that peer has none.
    #[error("no target is given for {0}")]
    NoTarget(String),
    /// The destination of a connection has no CID to map it to.
    #[error("the destination {address} of the connection names no CID")]
    Unmapped {
        /// Where the peer connected to.
        address: String,
    },
    /// A source address that cannot be used.
    #[error("cannot use {address} as source address: is `--source` an address of this machine?")]
    Source {
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        source: Errno,
    },
    /// The local route of the prefix is missing.
    #[error(
        "`--source mapped` needs the local route of {prefix}: start vsock-bridge-prefix.service, \
         or run `vsockctl prefix up`"
    )]
    NoRoute {
        /// The prefix without route.
        prefix: Prefix,
    },
    /// The prefix is in use for something else.
    #[error(
        "{prefix} is already used on this machine ({by}): choose another one, e.g. `vsockctl prefix generate --write`"
    )]
    PrefixInUse {
        /// The prefix asked for.
        prefix: Prefix,
        /// The route that overlaps.
        by: String,
    },
    /// A routing request that the kernel refused.
    #[error("cannot {operation} (needs root or CAP_NET_ADMIN)")]
    Route {
        /// What was asked for.
        operation: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// IPv6 is switched off for lo.
    #[error(
        "cannot {operation}: IPv6 is disabled on lo; enable it with `sysctl -w net.ipv6.conf.lo.disable_ipv6=0` and in \
         /etc/sysctl.d"
    )]
    Ipv6Disabled {
        /// What was asked for.
        operation: String,
    },
    /// The kernel does without IPv6.
    #[error("cannot {operation}: this kernel has no IPv6; boot without ipv6.disable=1")]
    NoIpv6 {
        /// What was asked for.
        operation: String,
    },
    /// nft(8) cannot be run.
    #[error("cannot run nft (is the package nftables installed?)")]
    NoNft {
        /// What the kernel said.
        source: io::Error,
    },
    /// nft(8) did not do what it was told.
    #[error("cannot {operation} the rules ({cause}): {said}")]
    Rules {
        /// What was asked for.
        operation: &'static str,
        /// What that means.
        cause: &'static str,
        /// What nft said.
        said: String,
    },
    /// systemctl(1) did not do what it was told.
    #[error("`systemctl {arguments}` failed: {said}")]
    Systemctl {
        /// What it was told.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// A file of this machine that root alone may change, or read.
    #[error("cannot {operation} {} (run it as root)", path.display())]
    NotRoot {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that cannot be replaced because something is mounted on it.
    #[error(
        "cannot replace {}, which is a mount point, as in a container: give the lines to whoever makes that file, \
         e.g. with --add-host, or add them yourself",
        path.display()
    )]
    Mounted {
        /// The file.
        path: PathBuf,
    },
    /// A bridge that was asked for by its name.
    #[error("no bridge is named {name}; `vsockctl list` shows all that run or wait")]
    NoBridge {
        /// The name, without suffix.
        name: String,
    },
    /// A bridge that does not tell what it does.
    #[error("cannot look at a bridge through {}{hint}", path.display())]
    Control {
        /// Its control socket, or the folder of all of them.
        path: PathBuf,
        /// In brackets, with a leading space: what to do; or empty.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Standard output that takes nothing.
    #[error("cannot write to standard output")]
    Output {
        /// What the kernel said.
        source: io::Error,
    },
    /// A call of the system that has no better name.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// Things that must be true and are not; each was printed.
    #[error("{failed} failed: run the command in each FAIL line, from the top")]
    Checks {
        /// How many.
        failed: usize,
    },
    /// A connection that ended by a failure, in a program that serves only this one.
    #[error("connection {0}")]
    Ended(String),
}

impl Error {
    /// Tells that `text` is not a valid `what`.
    pub(crate) fn invalid(what: &'static str, text: &str, hint: impl Into<String>) -> Error {
        Invalid::new(what, text, hint).into()
    }

    /// Names a failed operation on a file; for use with `map_err`.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let fail = Unusable::file(operation, path);
        move |source| fail(source).into()
    }

    /// Names a failed system call; for use with `map_err`.
    pub(crate) fn system(operation: &'static str) -> impl FnOnce(Errno) -> Error {
        move |source| Error::System { operation, source }
    }

    /// Returns whether what the user typed is wrong, and not what came of it.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Usage(_)
                | Error::Invalid(_)
                | Error::Unusable(
                    Unusable::Names { .. }
                        | Unusable::UnknownMachine { .. }
                        | Unusable::NoCid { .. }
                )
        )
    }

    /// Returns whether it is a machine that is not there now, and may be there later.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Error::Unusable(problem) if problem.is_absence())
    }

    /// Returns 2 for what the user typed, 1 for all else.
    pub fn exit_code(&self) -> ExitCode {
        match self.is_usage() {
            true => ExitCode::from(2),
            false => ExitCode::FAILURE,
        }
    }

    /// Joins the error and its causes to one line.
    pub fn report(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            // Writing to a String cannot fail.
            let _ = write!(line, ": {}", describe(error));
            cause = error.source();
        }
        line.replace('\n', " ")
    }
}

/// Prefers the plain words of an errno to nix's `ECONNREFUSED: Connection refused`.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<Errno>() {
        Some(errno) => errno.desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_one_line_with_the_cause_once() {
        let error = Error::System {
            operation: "create an epoll",
            source: Errno::EMFILE,
        };
        assert_eq!(
            error.report(),
            "cannot create an epoll: Too many open files"
        );
        let error = Error::invalid("CID", "a\nb", "expected a number");
        assert_eq!(error.report().lines().count(), 1);
    }
}
