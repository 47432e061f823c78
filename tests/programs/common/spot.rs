//! Places where a bridge listens by itself, and such bridges.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use super::bridge::Bridge;
use super::own_folder;
use super::place::{Kind, Place, stream};
use super::program::{Finished, Program};

/// An address that nobody listens on, and nobody else is given.
pub struct Spot {
    pub kind: Kind,
    pub text: String,
    pub address: SockAddr,
    /// Has the port, but lets others who also say SO_REUSEADDR listen on it (socket(7)).
    _holder: Option<Socket>,
    _folder: Option<TempDir>,
}

impl Spot {
    pub fn new(kind: Kind) -> Spot {
        match kind {
            Kind::Tcp6 => Spot::tcp(Domain::IPV6, "[::1]:0"),
            Kind::Tcp4 => Spot::tcp(Domain::IPV4, "127.0.0.1:0"),
            Kind::Unix => Spot::path("socket"),
        }
    }

    pub fn tcp(domain: Domain, address: &str) -> Spot {
        let holder = Socket::new(domain, Type::STREAM, None).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        holder.set_reuse_address(true).unwrap();
        holder.bind(&address.into()).unwrap();
        let address = holder.local_addr().unwrap();
        Spot {
            kind: if domain == Domain::IPV6 {
                Kind::Tcp6
            } else {
                Kind::Tcp4
            },
            text: address.as_socket().unwrap().to_string(),
            address,
            _holder: Some(holder),
            _folder: None,
        }
    }

    pub fn path(name: &str) -> Spot {
        let folder = own_folder();
        let path = folder.path().join(name);
        Spot {
            kind: Kind::Unix,
            text: path.to_str().unwrap().to_owned(),
            address: SockAddr::unix(&path).unwrap(),
            _holder: None,
            _folder: Some(folder),
        }
    }

    pub fn abstract_name() -> Spot {
        let folder = own_folder();
        let name = format!("vsock-bridge-{}", folder.path().display());
        Spot {
            kind: Kind::Unix,
            text: format!("@{name}"),
            address: SockAddr::unix(format!("\0{name}")).unwrap(),
            _holder: None,
            _folder: Some(folder),
        }
    }

    pub fn file(&self) -> &Path {
        Path::new(&self.text)
    }

    pub fn connect(&self) -> Socket {
        let socket = stream(self.kind);
        socket
            .connect(&self.address)
            .unwrap_or_else(|error| panic!("{}: {error}", self.text));
        socket
    }

    pub fn is_refused(&self) -> bool {
        stream(self.kind).connect(&self.address).is_err()
    }

    /// Leaves a socket there that no process has.
    pub fn leave_behind(&self) {
        drop(UnixListener::bind(&self.text).unwrap());
    }
}

/// A bridge that has no socket of systemd's.
pub fn alone(target: &Place) -> Bridge {
    Bridge::to(&target.text)
        .without_variable("LISTEN_FDS")
        .without_pid()
}

pub fn listening(target: &Place, spot: &Spot) -> Program {
    let mut bridge = alone(target).arguments(&["--listen", &spot.text]).start();
    bridge.wait_for_line("bridging");
    bridge
}

/// Checks for one line with all the words.
pub fn expect_line(finished: &Finished, code: i32, words: &[&str]) {
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    for word in words {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
    assert_eq!((finished.code, &*finished.stdout), (code, ""), "{line}");
}

pub fn expect_refusal(spot: &Spot, words: &[&str]) {
    let target = Place::listening(Kind::Tcp6);
    let finished = alone(&target).arguments(&["--listen", &spot.text]).finish();
    expect_line(
        &finished,
        1,
        &[words, &["cannot listen on", &spot.text]].concat(),
    );
}
