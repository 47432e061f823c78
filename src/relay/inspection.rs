//! Shows what a bridge does to whoever may open its control socket: `vsockctl list` and `vsockctl metrics`.
//!
//! The socket is `control` in the RuntimeDirectory= of the service, for its user and root. Whoever connects gets one
//! [`Snapshot`] as JSON and the end; nothing is read. The loop only copies numbers; what takes time, or waits for the
//! other threads or a slow reader, is done by a thread that ends with the answer.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, Backlog, listen};
use serde::{Deserialize, Serialize};

use super::connection::Stage;
use super::counters::{ConnectTimes, Reasons};
use super::token::Token;
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::peer::Peer;
use crate::{sys, unix_path};

/// The name of the socket in the service's folder.
pub(crate) const SOCKET_NAME: &str = "control";
/// Answers under way at a time; more are closed.
const ANSWERS_MAX: usize = 4;
/// Of those who ask at the same moment.
const QUEUE: i32 = 128;
/// For another thread to tell its part, and for the reader to take each part.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Until the socket is looked at again after a shortage.
const PAUSE: Duration = Duration::from_millis(100);

/// One bridge at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Process ID.
    pub pid: u32,
    /// `serving`, or `stopping` when no connection is taken any more.
    pub state: String,
    /// Addresses that it listens on.
    pub listeners: Vec<String>,
    /// Where connections go.
    pub target: String,
    /// The machines that may connect, as `--allow-cid` has them; none without a vsock listener, or from an older bridge.
    #[serde(default)]
    pub allow_cid: Option<String>,
    /// Connections that were open when this was counted; one of another thread may have ended before it told its part.
    pub open: usize,
    /// Connections that reached their target and are over.
    pub served: u64,
    /// Peers that were not let in.
    pub refused: u64,
    /// The same by reason, of those that the program has counted since it knows reasons.
    #[serde(default)]
    pub refused_by_reason: Reasons,
    /// Peers whose target could not be reached.
    pub unreachable: u64,
    /// The same by reason, as above.
    #[serde(default)]
    pub unreachable_by_reason: Reasons,
    /// The last of them; none where the process before has counted all, and from an older bridge.
    #[serde(default)]
    pub last_failure: Option<Failure>,
    /// Bytes that targets took, of connections that are over.
    pub inbound_bytes: u64,
    /// Bytes that peers took, of connections that are over.
    pub outbound_bytes: u64,
    /// How long it took to reach targets; none from an older bridge.
    #[serde(default)]
    pub connect_times: Option<ConnectTimes>,
    /// Those that are open, oldest first.
    pub connections: Vec<OpenConnection>,
}

/// A target that could not be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, as in the log.
    pub reason: String,
    /// Seconds since then.
    pub age_seconds: f64,
}

/// One open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenConnection {
    /// Who connected.
    pub peer: String,
    /// Its machine, if it came over vsock.
    pub cid: Option<u32>,
    /// Where it was connected to.
    pub target: String,
    /// How far it has come.
    pub stage: Stage,
    /// Bytes that the target took.
    pub inbound_bytes: u64,
    /// Bytes that the peer took.
    pub outbound_bytes: u64,
    /// Seconds since it was accepted.
    pub age_seconds: f64,
    /// Seconds since the last byte.
    pub idle_seconds: f64,
}

/// The numbers of one session, as the loop has them.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Who connected.
    pub peer: Peer,
    /// Where it is connected to, if that is known.
    pub target: Option<Endpoint>,
    /// How far it has come.
    pub stage: Stage,
    /// Bytes that the target took, and that the peer took.
    pub bytes: (u64, u64),
    /// When it was accepted.
    pub started: Moment,
    /// When the last byte moved.
    pub active: Moment,
}

impl Entry {
    fn connection(&self, now: Moment) -> OpenConnection {
        OpenConnection {
            peer: self.peer.to_string(),
            cid: self.peer.cid().map(|cid| cid.number()),
            target: self
                .target
                .as_ref()
                .map(Endpoint::to_string)
                .unwrap_or_default(),
            stage: self.stage,
            inbound_bytes: self.bytes.0,
            outbound_bytes: self.bytes.1,
            age_seconds: (now - self.started).as_secs_f64(),
            idle_seconds: (now - self.active).as_secs_f64(),
        }
    }
}

/// What an answer is made from.
#[derive(Debug)]
pub(crate) struct Material {
    /// All but the connections.
    pub snapshot: Snapshot,
    /// Sessions of the main loop.
    pub entries: Vec<Entry>,
    /// Sessions of the other threads, one message from each.
    pub others: Receiver<Vec<Entry>>,
}

impl Material {
    /// Waits for the other threads; one that does not answer is left out.
    fn finish(self) -> Snapshot {
        let mut entries = self.entries;
        while let Ok(part) = self.others.recv_timeout(ANSWER_TIMEOUT) {
            entries.extend(part);
        }
        entries.sort_by_key(|entry| entry.started);
        let now = Moment::now();
        let connection = |entry: &Entry| entry.connection(now);
        Snapshot {
            connections: entries.iter().map(connection).collect(),
            ..self.snapshot
        }
    }
}

/// The control socket of one process; it is removed with this.
#[derive(Debug)]
pub(crate) struct Inspection {
    listener: UnixListener,
    path: PathBuf,
    answers: Arc<AtomicUsize>,
    paused_until: Option<Moment>,
}

impl Inspection {
    /// Listens in the folder that systemd made for the service; a socket of an earlier process is replaced.
    pub(crate) fn open(folder: &Path) -> std::io::Result<Inspection> {
        let path = folder.join(SOCKET_NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = sys::stream_socket(AddressFamily::Unix)?;
        // The name of an instance, and with it the path, may be longer than an address.
        unix_path::bind(socket.as_fd(), &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listen(&socket, Backlog::new(QUEUE)?)?;
        Ok(Inspection {
            listener: UnixListener::from(socket),
            path,
            answers: Arc::default(),
            paused_until: None,
        })
    }

    /// Takes somebody who wants to know; none if nobody waits, or too many are being answered. Without descriptors it
    /// pauses: whoever waits would wake the loop without end.
    pub(crate) fn accept(&mut self, epoll: &Epoll, now: Moment) -> Option<UnixStream> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                (self.answers.load(Ordering::Relaxed) < ANSWERS_MAX).then_some(stream)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => {
                self.watch(epoll, EpollFlags::empty());
                self.paused_until = Some(now + PAUSE);
                None
            }
        }
    }

    /// Returns when [`Inspection::resume`] must be called.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.paused_until
    }

    /// Looks at the socket again if the pause is over.
    pub(crate) fn resume(&mut self, epoll: &Epoll, now: Moment) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.watch(epoll, EpollFlags::EPOLLIN);
        }
    }

    fn watch(&self, epoll: &Epoll, interest: EpollFlags) {
        let mut event = EpollEvent::new(interest, Token::Inspection.pack());
        // It was added at the start, and stays open.
        let _ = epoll.modify(&self.listener, &mut event);
    }

    /// Answers in a thread of its own.
    pub(crate) fn answer(&self, mut stream: UnixStream, material: Material) {
        let answers = self.answers.clone();
        answers.fetch_add(1, Ordering::Relaxed);
        let body = move || {
            let written = serde_json::to_vec(&material.finish())
                .map_err(std::io::Error::from)
                .and_then(|json| {
                    stream.set_nonblocking(false)?;
                    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                    stream.write_all(&json)
                });
            if let Err(error) = written {
                log::debug!("an answer on the control socket was not taken: {error}");
            }
            answers.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new()
            .name("control".into())
            .spawn(body)
            .is_err()
        {
            self.answers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl AsFd for Inspection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        // systemd removes the folder with all that is in it.
        let _ = fs::remove_file(&self.path);
    }
}
