//! Keeps descriptors for a relay as systemd's store does (sd_pid_notify_with_fds(3)): what a relay gives away costs it time.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vsock_bridge::testing::{drop_packet, peek_packet};

use crate::error::{Doing, Result};

/// How long the thread may not notice that it is not wanted any more, in milliseconds.
const LOOK: u16 = 100;

/// A socket for NOTIFY_SOCKET, with a thread that reads from it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    is_over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Store {
    /// Begins with nothing in it.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("notify");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).doing(|| format!("bind {}", path.display()))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .doing(|| format!("open {} for others", path.display()))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&is_over);
        let reader = std::thread::spawn(move || keep(&socket, &watched));
        Ok(Self {
            path,
            is_over,
            reader: Some(reader),
        })
    }

    /// Where a relay sends what it wants to be kept.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn keep(socket: &UnixDatagram, is_over: &AtomicBool) {
    let mut kept: Vec<OwnedFd> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let mut wait = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wait, PollTimeout::from(LOOK)).unwrap_or(0) == 0 {
            continue;
        }
        if let Ok((message, descriptors)) = peek_packet(socket.as_fd()) {
            let is_kept = message
                .split(|&byte| byte == b'\n')
                .any(|line| line == b"FDSTORE=1");
            kept.extend(descriptors.into_iter().filter(|_| is_kept));
        }
        let _ = drop_packet(socket.as_fd());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}
