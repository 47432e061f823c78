//! Takes the sockets that systemd passes (sd_listen_fds(3)) and finds out what each one is.
//!
//! Must run before the first thread: listenfd edits the environment. LISTEN_PID is checked here, because
//! listenfd accepts its absence, and the kernel is asked whether a socket listens, because nobody else asks.

use std::env;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::handover;
use crate::peer::{Family, Peer, endpoint};
use crate::stream::{Listener, Stream};
use crate::sys;

/// The first passed descriptor (SD_LISTEN_FDS_START).
const FIRST: i32 = 3;

/// A connection that systemd accepted for us (Accept=yes).
#[derive(Debug)]
pub(crate) struct Passed {
    /// The connection.
    pub stream: Stream,
    /// Who is at the other end.
    pub peer: Peer,
}

/// What was passed.
#[derive(Debug, Default)]
pub(crate) struct Activation {
    /// Listening sockets.
    pub listeners: Vec<Listener>,
    /// What the process before has left in systemd's store, by name.
    pub stored: Vec<(String, OwnedFd)>,
    /// Connected ones. A peer that has gone already leaves none.
    pub connections: Vec<Passed>,
}

impl Activation {
    /// Takes all passed descriptors.
    ///
    /// Errors: [`Error::NotActivated`] without any; [`Error::Descriptor`] for one that cannot be bridged.
    pub(crate) fn take() -> Result<Activation> {
        let names = names()?;
        let mut passed = ListenFd::from_env();
        let mut activation = Activation::default();
        for (index, name) in names.into_iter().enumerate() {
            let number = FIRST as usize + index;
            let added = match name.starts_with(handover::NAME) {
                true => activation.add_stored(&mut passed, index, &name),
                false => activation.add(&mut passed, index),
            };
            added.map_err(|problem| Error::Descriptor {
                number,
                name,
                problem,
            })?;
        }
        sys::forget_activation();
        Ok(activation)
    }

    /// Returns where the peers of all sockets connect to.
    pub(crate) fn locals(&self) -> Vec<Endpoint> {
        let listeners = self
            .listeners
            .iter()
            .map(|listener| listener.local().clone());
        listeners.chain(self.connected()).collect()
    }

    /// Returns where the peers of the connections have connected to.
    pub(crate) fn connected(&self) -> impl Iterator<Item = Endpoint> {
        let local = |passed: &Passed| endpoint(&passed.stream.local_address().ok()?);
        self.connections.iter().filter_map(local)
    }

    fn add_stored(
        &mut self,
        passed: &mut ListenFd,
        index: usize,
        name: &str,
    ) -> Result<(), String> {
        let hint = "box with connections";
        let taken = passed.take_custom(index, libc::AF_UNIX, libc::SOCK_SEQPACKET, hint);
        let taken = taken.map_err(|error| error.to_string())?;
        self.stored.extend(taken.map(|fd| (name.to_owned(), fd)));
        Ok(())
    }

    fn add(&mut self, passed: &mut ListenFd, index: usize) -> Result<(), String> {
        let (family, is_listening) = sys::probe(FIRST + index as i32, |fd| {
            let kind = getsockopt(&fd, sockopt::SockType).map_err(not_a_socket)?;
            if kind != SockType::Stream {
                return Err("not a stream socket: use ListenStream= in the socket unit".to_owned());
            }
            let address = sys::local_address(fd).map_err(|errno| errno.desc().to_owned())?;
            let family = Family::of(&address).ok_or("neither vsock, IPv6, IPv4 nor unix")?;
            Ok((
                family,
                sys::is_listening(fd).map_err(|errno| errno.desc().to_owned())?,
            ))
        })
        .map_err(not_a_socket)??;
        let socket = take(passed, index, family)?;
        let address = sys::local_address(std::os::fd::AsFd::as_fd(&socket))
            .map_err(|e| e.desc().to_owned())?;
        if is_listening {
            let local = endpoint(&address).ok_or("its address cannot be read")?;
            self.listeners
                .push(Listener::new(socket, family, local).map_err(|e| e.desc().to_owned())?);
            return Ok(());
        }
        let stream = Stream::passed(socket, family).map_err(|e| e.desc().to_owned())?;
        match sys::peer_address(stream.input()) {
            Ok(address) => {
                let peer = Peer::new(stream.input(), &address)
                    .ok_or("the address of its peer cannot be read")?;
                self.connections.push(Passed { stream, peer });
            }
            Err(Errno::ENOTCONN) if stream.take_error().is_some() => {
                log::info!("the peer has gone before it was served");
            }
            Err(Errno::ENOTCONN) => return Err("neither listening nor connected".to_owned()),
            Err(errno) => return Err(errno.desc().to_owned()),
        }
        Ok(())
    }
}

/// Reads how many descriptors are ours, and their names.
fn names() -> Result<Vec<String>> {
    let not_activated = |why: String| Err(Error::NotActivated(why));
    let Some(count) = env::var_os("LISTEN_FDS") else {
        return not_activated("LISTEN_FDS is not set".into());
    };
    let Some(pid) = env::var_os("LISTEN_PID") else {
        return not_activated("LISTEN_PID is not set".into());
    };
    let own = std::process::id();
    if pid != own.to_string().as_str() {
        return not_activated(format!(
            "LISTEN_PID is {}, and this is process {own}",
            pid.to_string_lossy()
        ));
    }
    let is_named = match env::var("LISTEN_FDNAMES") {
        Ok(_) => true,
        Err(env::VarError::NotPresent) => false,
        Err(error) => return not_activated(format!("LISTEN_FDNAMES: {error}")),
    };
    let fds = sd_notify::listen_fds().map(|fds| fds.len());
    match fds {
        Ok(0) => not_activated("LISTEN_FDS is 0".into()),
        Ok(count) if !is_named => Ok(vec!["unnamed".to_owned(); count]),
        Ok(_) => match sd_notify::listen_fds_with_names() {
            Ok(fds) => Ok(fds.map(|(_, name)| name).collect()),
            Err(error) => not_activated(format!("LISTEN_FDNAMES does not fit LISTEN_FDS: {error}")),
        },
        Err(error) => not_activated(format!("LISTEN_FDS is {count:?}: {error}")),
    }
}

fn take(passed: &mut ListenFd, index: usize, family: Family) -> Result<OwnedFd, String> {
    // listenfd takes AF_INET6 for AF_INET as well.
    let (number, hint) = match family {
        Family::Vsock => (libc::AF_VSOCK, "vsock stream socket"),
        Family::Tcp => (libc::AF_INET, "TCP socket"),
        Family::Unix | Family::File => (libc::AF_UNIX, "unix stream socket"),
    };
    match passed.take_custom(index, number, libc::SOCK_STREAM, hint) {
        Ok(Some(socket)) => Ok(socket),
        Ok(None) => Err("passed twice".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn not_a_socket(errno: Errno) -> String {
    match errno {
        Errno::EBADF => "not open: LISTEN_FDS counts more descriptors than were passed".to_owned(),
        Errno::ENOTSOCK => "not a socket: use ListenStream= in the socket unit".to_owned(),
        errno => errno.desc().to_owned(),
    }
}
