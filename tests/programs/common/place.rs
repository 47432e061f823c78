//! Sockets of the tests: places to listen at and connections, each call with a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use super::content::{End, read_to_end};
use super::{DEADLINE, own_folder};

/// What kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp6,
    Tcp4,
    Unix,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Tcp6, Kind::Tcp4, Kind::Unix];

    pub fn is_tcp(self) -> bool {
        self != Kind::Unix
    }

    fn domain(self) -> Domain {
        match self {
            Kind::Tcp6 => Domain::IPV6,
            Kind::Tcp4 => Domain::IPV4,
            Kind::Unix => Domain::UNIX,
        }
    }
}

/// An address of its own for one test.
pub struct Place {
    pub kind: Kind,
    pub socket: Socket,
    pub address: SockAddr,
    /// As the programs write it.
    pub text: String,
    /// Holds the unix socket.
    _directory: Option<TempDir>,
}

impl Place {
    /// A place where connections are taken.
    pub fn listening(kind: Kind) -> Place {
        let place = Place::bound(kind);
        place.socket.listen(4096).unwrap();
        place
    }

    /// A place that is taken, but refuses connections until [`Socket::listen`].
    pub fn bound(kind: Kind) -> Place {
        match kind {
            Kind::Tcp6 => Place::bound_to("[::1]:0"),
            Kind::Tcp4 => Place::bound_to("127.0.0.1:0"),
            Kind::Unix => Place::named("socket"),
        }
    }

    /// A unix socket of that name in a directory of its own.
    pub fn named(name: &str) -> Place {
        let directory = own_folder();
        let path = directory.path().join(name);
        let address = SockAddr::unix(&path).unwrap();
        let socket = stream(Kind::Unix);
        socket.bind(&address).unwrap();
        Place {
            kind: Kind::Unix,
            socket,
            address,
            text: path.to_str().unwrap().to_owned(),
            _directory: Some(directory),
        }
    }

    /// A unix socket at a path that does not fit into its address, with a last name that does not either.
    pub fn far() -> Place {
        let directory = own_folder();
        let folder = directory.path().join("f".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let socket = stream(Kind::Unix);
        let (bound, path) = (folder.join("socket"), folder.join("s".repeat(200)));
        vsock_bridge::testing::bind(socket.as_fd(), &bound).unwrap();
        std::fs::rename(&bound, &path).unwrap();
        Place {
            kind: Kind::Unix,
            address: socket.local_addr().unwrap(),
            socket,
            text: path.to_str().unwrap().to_owned(),
            _directory: Some(directory),
        }
    }

    /// A TCP address; port 0 chooses a free one.
    pub fn bound_to(address: &str) -> Place {
        let address: SocketAddr = address.parse().unwrap();
        let kind = if address.is_ipv6() {
            Kind::Tcp6
        } else {
            Kind::Tcp4
        };
        let socket = stream(kind);
        socket.bind(&address.into()).unwrap_or_else(|error| {
            panic!("{address} is no address here, see ip address show lo: {error}")
        });
        let address = socket.local_addr().unwrap();
        let text = address.as_socket().unwrap().to_string();
        Place {
            kind,
            socket,
            address,
            text,
            _directory: None,
        }
    }

    pub fn connect(&self) -> Socket {
        let socket = stream(self.kind);
        socket.connect(&self.address).unwrap();
        socket
    }

    /// Connects from another address of this machine.
    pub fn connect_from(&self, source: &str) -> Socket {
        let socket = stream(self.kind);
        bind(&socket, source);
        socket.connect(&self.address).unwrap();
        socket
    }

    /// Connects, and expects to be closed without a byte: over TCP by RST. Gives the name of the client in a log.
    pub fn expect_refusal(&self) -> String {
        let mut socket = stream(self.kind);
        let name = match self.kind {
            Kind::Unix => own_name(),
            Kind::Tcp6 => bind(&socket, "[::1]:0"),
            Kind::Tcp4 => bind(&socket, "127.0.0.1:0"),
        };
        let end = match socket.connect(&self.address) {
            // Refused before this thread had its turn.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
            Err(error) => panic!("cannot connect to {}: {error}", self.text),
            Ok(()) => {
                let (bytes, end) = read_to_end(&mut socket);
                assert_eq!(bytes, b"");
                end
            }
        };
        let expected = if self.kind.is_tcp() {
            End::Reset
        } else {
            End::Clean
        };
        assert_eq!(end, expected);
        name
    }

    pub fn accept(&self) -> Socket {
        self.socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let (socket, _) = self
            .socket
            .accept()
            .unwrap_or_else(|error| panic!("nobody connected to {}: {error}", self.text));
        with_deadlines(socket)
    }

    /// Returns whether nobody has connected who was not accepted yet.
    pub fn has_nobody_waiting(&self) -> bool {
        let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).unwrap() == 0
    }

    /// The listening socket for another process, as systemd keeps and passes it.
    pub fn descriptor(&self) -> OwnedFd {
        self.socket.try_clone().unwrap().into()
    }
}

/// Names this user as a client over a unix socket in a log. Many users may be nobody (user_namespaces(7)).
pub fn own_name() -> String {
    match nix::unistd::getuid().as_raw() {
        65534 => "unix".to_owned(),
        uid => format!("uid {uid}"),
    }
}

/// Binds a socket to an address of this machine, and gives it with its port.
fn bind(socket: &Socket, address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    socket.bind(&address.into()).unwrap();
    let bound = socket.local_addr().unwrap().as_socket().unwrap();
    bound.to_string()
}

/// Makes a socket whose every call has a deadline.
pub fn stream(kind: Kind) -> Socket {
    with_deadlines(Socket::new(kind.domain(), Type::STREAM, None).unwrap())
}

/// Two connected unix sockets.
pub fn pair_of_sockets() -> (Socket, Socket) {
    let (one, other) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    (with_deadlines(one), with_deadlines(other))
}

fn with_deadlines(socket: Socket) -> Socket {
    // Also bounds accept(2) and connect(2) (socket(7)).
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Ends a TCP connection by RST.
pub fn reset(socket: Socket) {
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends one byte each way.
pub fn ping(client: &mut Socket, server: &mut Socket) {
    let mut byte = [0];
    client.write_all(b"?").unwrap();
    server.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"?");
    server.write_all(b"!").unwrap();
    client.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
}
