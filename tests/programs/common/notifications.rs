//! The socket on which systemd listens, and what was said there.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tempfile::TempDir;

use crate::common::{DEADLINE, own_folder};

/// The socket on which systemd listens.
pub struct Notifications {
    socket: UnixDatagram,
    pub path: String,
    _directory: TempDir,
}

impl Notifications {
    pub fn new() -> Notifications {
        let directory = own_folder();
        let path = directory.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Notifications {
            socket,
            path,
            _directory: directory,
        }
    }

    /// As [`Notifications::new`], at an abstract name, which is given as it stands in the variable.
    pub fn abstract_one() -> Notifications {
        let name = format!("vsock-bridge-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Notifications {
            socket,
            path: format!("@{name}"),
            _directory: own_folder(),
        }
    }

    /// As [`Notifications::new`], at a path that does not fit into an address.
    pub fn far() -> Notifications {
        let place = Notifications::new();
        let folder = std::path::Path::new(&place.path).with_file_name("f".repeat(150));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("notify");
        std::fs::rename(&place.path, &path).unwrap();
        Notifications {
            path: path.to_str().unwrap().to_owned(),
            ..place
        }
    }

    /// Waits for a message with that text.
    pub fn wait_for(&self, text: &str) {
        let mut bytes = [0; 4096];
        let mut all = Vec::new();
        loop {
            let Ok(count) = self.socket.recv(&mut bytes) else {
                panic!("no {text:?} in {all:#?}");
            };
            all.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
            if all.last().unwrap().contains(text) {
                return;
            }
        }
    }

    /// Sends messages until there is no room for more; returns how many there are.
    pub fn fill(&self) -> usize {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&self.path).unwrap();
        sender.set_nonblocking(true).unwrap();
        (0..).find(|_| sender.send(b"FILLER=1").is_err()).unwrap()
    }

    /// Waits for the next message.
    pub fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("a message in time");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }
}
