//! Shows what a bridge does to whoever may open its control socket: `vsockctl list` and `vsockctl metrics`.
//!
//! The socket is `control` in the RuntimeDirectory= of the service, for its user and root. Whoever connects gets one
//! [`Snapshot`](crate::accounting::snapshot::Snapshot) as JSON and the end; nothing is read. The loop only copies numbers;
//! what takes time, or waits for the other threads or a slow reader, is done by a thread that ends with the answer.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, Backlog, listen};

use crate::accounting::snapshot::Material;
use crate::clock::Moment;
use crate::relay::token::Token;
use crate::{sys, unix_path};

/// The name of the socket in the service's folder.
pub(crate) const SOCKET_NAME: &str = "control";
/// Answers under way at a time; more are closed.
const ANSWERS_MAX: usize = 4;
/// Of those who ask at the same moment.
const QUEUE: i32 = 128;
/// For the reader to take each part.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Until the socket is looked at again after a shortage.
const PAUSE: Duration = Duration::from_millis(100);

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
