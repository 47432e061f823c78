//! A NOTIFY_SOCKET behind which descriptors are kept, as systemd keeps them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;
use vsock_bridge::testing::{drop_packet, peek_packet};

use super::own_folder;

/// Keeps what it is sent until it is dropped; its thread ends with the test.
#[derive(Debug)]
pub struct Store {
    pub path: String,
    kept: Receiver<OwnedFd>,
    _directory: TempDir,
}

impl Store {
    pub fn new() -> Store {
        let (store, wake) = Store::asleep();
        wake.send(()).unwrap();
        store
    }

    /// Returns whether anything was sent to be kept.
    pub fn has_any(&self) -> bool {
        self.kept.try_recv().is_ok()
    }

    /// Reads nothing before it is told to.
    pub fn asleep() -> (Store, Sender<()>) {
        let (wake, woken) = channel();
        let directory = own_folder();
        let path = directory.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        let (sender, kept) = channel();
        thread::spawn(move || {
            if woken.recv().is_err() {
                return;
            }
            loop {
                let mut wait = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                poll(&mut wait, PollTimeout::NONE).unwrap();
                let (message, descriptors) = peek_packet(socket.as_fd()).unwrap();
                let mut lines = message.split(|&byte| byte == b'\n');
                if lines.any(|line| line == b"FDSTORE=1") {
                    let all_kept = descriptors.into_iter().all(|fd| sender.send(fd).is_ok());
                    if !all_kept {
                        return;
                    }
                }
                drop_packet(socket.as_fd()).unwrap();
            }
        });
        let store = Store {
            path,
            kept,
            _directory: directory,
        };
        (store, wake)
    }
}
