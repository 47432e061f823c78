//! From a target's endpoint to a connected stream, without blocking: every address, the source, the time limits.
//!
//! A [`Dialer`] is what all connections of a bridge share; a [`Dial`] is one attempt to reach the target.
//! It waits for nothing itself: the caller watches [`Dial::stream`] and [`Dial::deadline`] and calls
//! [`Dial::advance`].

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::mux::{Handshake, Progress};
use crate::prefix::Prefix;
use crate::stream::{Family, Peer, Stream, Tuning};
use crate::sys;
use crate::vsock::{VsockAddr, VsockPort};

/// Pause before a refused target is tried again; doubled each time up to the maximum.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The source address of outgoing connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Whatever the kernel chooses.
    Kernel,
    /// `P::<CID of the peer>`, so that the target sees which machine it is.
    Mapped,
    /// Always this one.
    Address(IpAddr),
}

/// One place to connect to, without names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Vsock(VsockAddr),
    Unix(UnixName),
    Mux(UnixName, VsockPort),
}

impl Address {
    fn endpoint(&self) -> Endpoint {
        match self.clone() {
            Address::Tcp(addr) => Endpoint::Tcp(addr),
            Address::Vsock(addr) => Endpoint::Vsock(addr),
            Address::Unix(name) => Endpoint::Unix(name),
            Address::Mux(path, port) => Endpoint::Mux { path, port },
        }
    }
}

/// A target with its names resolved.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it was given.
    pub endpoint: Endpoint,
    /// In the order in which they are tried; none for a mapped target, which each connection has anew.
    addresses: Vec<Address>,
}

impl Target {
    /// Resolves once; blocks while a name is resolved.
    ///
    /// Errors: [`Error::Resolve`].
    pub fn resolve(endpoint: Endpoint) -> Result<Target> {
        let addresses = match &endpoint {
            Endpoint::Tcp(addr) => vec![Address::Tcp(*addr)],
            Endpoint::TcpName { name, port } => {
                let fail = |source| Error::Resolve {
                    name: name.clone(),
                    source,
                };
                (name.as_str(), *port)
                    .to_socket_addrs()
                    .map_err(fail)?
                    .map(Address::Tcp)
                    .collect()
            }
            Endpoint::Vsock(addr) => vec![Address::Vsock(*addr)],
            Endpoint::VsockMapped(_) => Vec::new(),
            Endpoint::Unix(name) => vec![Address::Unix(name.clone())],
            Endpoint::Mux { path, port } => vec![Address::Mux(path.clone(), *port)],
        };
        Ok(Target {
            endpoint,
            addresses,
        })
    }

    /// Tells whether each connection brings its own target.
    pub fn is_mapped(&self) -> bool {
        matches!(self.endpoint, Endpoint::VsockMapped(_))
    }

    /// Tells whether it is a TCP service of this machine, reached over IPv6.
    pub fn is_ipv6_loopback(&self) -> bool {
        let is_loopback = |a: &Address| matches!(a, Address::Tcp(SocketAddr::V6(addr)) if addr.ip().is_loopback());
        !self.addresses.is_empty() && self.addresses.iter().all(is_loopback)
    }
}

/// What all connections of a bridge share on their way to the target.
#[derive(Debug)]
pub struct Dialer {
    /// Where they go.
    pub target: Target,
    /// The source address.
    pub source: Source,
    /// The prefix that maps CIDs and addresses, if one is known.
    pub prefix: Option<Prefix>,
    /// Bound of one round through all addresses.
    pub timeout: Duration,
    /// Window in which a refused target is tried again.
    pub retry: Duration,
    /// Socket options.
    pub tuning: Tuning,
}

impl Dialer {
    /// Checks that the source fits the target, and that connections from mapped sources would come back.
    ///
    /// Errors: [`Error::Usage`], [`Error::NoRoute`].
    pub fn check(&self) -> Result<()> {
        if !self
            .target
            .addresses
            .iter()
            .all(|address| fits(self.source, address))
        {
            let target = &self.target.endpoint;
            return Err(Error::Usage(format!(
                "`--source` needs a TCP target of the same IP version, and `mapped` one over IPv6; {target} is not"
            )));
        }
        match (self.source, self.prefix) {
            (Source::Mapped, Some(prefix)) if !has_local_route(prefix) => {
                Err(Error::NoRoute { prefix })
            }
            _ => Ok(()),
        }
    }

    /// Begins to connect on behalf of a peer that connected to `destination`.
    ///
    /// Errors: [`Error::Unmapped`] when the target is mapped and the destination names no CID.
    pub fn dial(&self, peer: &Peer, destination: Option<SocketAddr>, now: Instant) -> Result<Dial> {
        let mapped = match self.target.endpoint {
            Endpoint::VsockMapped(port) => Some(self.map(destination, port)?),
            _ => None,
        };
        Ok(Dial {
            mapped,
            source: self.source_address(peer),
            next: 0,
            round_ends: now + self.timeout,
            retry_until: now + self.retry,
            pause: RETRY_PAUSE_MIN,
            state: State::Next,
        })
    }

    /// Turns the destination of a connection into the machine that it names.
    fn map(&self, destination: Option<SocketAddr>, port: Option<VsockPort>) -> Result<Address> {
        let unmapped = || Error::Unmapped {
            address: destination.map_or("(no IP address)".into(), |d| d.to_string()),
        };
        let destination = destination.ok_or_else(unmapped)?;
        let cid = match destination.ip() {
            IpAddr::V6(ip) => self.prefix.and_then(|prefix| prefix.cid(ip)),
            IpAddr::V4(_) => None,
        };
        let port = port.unwrap_or(destination.port().into());
        Ok(Address::Vsock(VsockAddr {
            cid: Some(cid.ok_or_else(unmapped)?),
            port,
        }))
    }

    fn source_address(&self, peer: &Peer) -> Option<IpAddr> {
        match self.source {
            Source::Kernel => None,
            Source::Address(address) => Some(address),
            Source::Mapped => Some(self.prefix?.address(peer.cid()?).into()),
        }
    }
}

/// Asks the kernel how it would reach an address of the prefix: by connecting a UDP socket, which sends nothing.
///
/// Without the local route a connection from a mapped source would hang, because the answers go elsewhere.
fn has_local_route(prefix: Prefix) -> bool {
    let address = prefix.address(crate::vsock::Cid::LOCAL);
    // Not UdpSocket::bind, which the unit's SocketBindDeny= forbids; connect(2) chooses the source by itself.
    let socket = socket(
        AddressFamily::Inet6,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let source = socket.map_err(std::io::Error::from).and_then(|socket| {
        let socket = UdpSocket::from(socket);
        // The discard port; any other would do.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    matches!(source.map(|source| source.ip()), Ok(IpAddr::V6(ip)) if prefix.contains(ip) || ip.is_loopback())
}

/// A source address binds only to targets of its own kind; none binds to all.
fn fits(source: Source, address: &Address) -> bool {
    match (source, address) {
        (Source::Kernel, _) => true,
        (Source::Mapped, Address::Tcp(addr)) => addr.is_ipv6(),
        (Source::Address(ip), Address::Tcp(addr)) => addr.is_ipv6() == ip.is_ipv6(),
        _ => false,
    }
}

/// One attempt to reach the target.
#[derive(Debug)]
pub struct Dial {
    /// The one address of a mapped target.
    mapped: Option<Address>,
    source: Option<IpAddr>,
    /// Index of the address to try next.
    next: usize,
    round_ends: Instant,
    retry_until: Instant,
    pause: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// An address is to be tried now.
    Next,
    /// The kernel is connecting; the stream becomes writable when it is done.
    Connecting { stream: Stream, deadline: Instant },
    /// Connected to a VMM, and the line each way is not yet through.
    Shaking {
        stream: Stream,
        handshake: Handshake,
        deadline: Instant,
    },
    /// All addresses refused; the first is tried again at that time.
    Pausing { until: Instant },
}

impl Dial {
    /// Gives the stream to watch for readiness.
    pub fn stream(&self) -> Option<&Stream> {
        match &self.state {
            State::Connecting { stream, .. } | State::Shaking { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// Tells when [`Dial::advance`] must be called even if nothing became ready.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Next => None,
            State::Connecting { deadline, .. } | State::Shaking { deadline, .. } => Some(*deadline),
            State::Pausing { until } => Some(*until),
        }
    }

    /// Goes as far as possible without blocking; gives the stream when the target is connected.
    ///
    /// `is_ready`: the stream was reported ready since the last call. `watch` is told of each new stream.
    /// Errors: why the last address could not be reached, when no address and no time is left.
    pub fn advance(
        &mut self,
        dialer: &Dialer,
        mut is_ready: bool,
        now: Instant,
        watch: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> Result<Option<Stream>> {
        loop {
            let outcome = match std::mem::replace(&mut self.state, State::Next) {
                State::Pausing { until } if now < until => {
                    return self.wait(State::Pausing { until });
                }
                State::Pausing { .. } => {
                    self.begin_round(dialer, now);
                    Ok(None)
                }
                State::Next => {
                    let deadline = self.share(dialer, now);
                    match self.open(dialer) {
                        Ok((stream, is_connected)) => {
                            watch(&stream)?;
                            is_ready = is_connected;
                            self.state = State::Connecting { stream, deadline };
                            Ok(None)
                        }
                        Err(error) => Err(error),
                    }
                }
                State::Connecting { stream, deadline } if is_ready => {
                    self.connected(dialer, stream, deadline)
                }
                State::Shaking {
                    stream,
                    handshake,
                    deadline,
                } if now < deadline => match self.shake(dialer, stream, handshake, deadline) {
                    Ok(None) => return Ok(None),
                    outcome => outcome,
                },
                state @ State::Connecting { deadline, .. } if now < deadline => {
                    return self.wait(state);
                }
                State::Connecting { .. } | State::Shaking { .. } => {
                    Err(silence(self.address(dialer), dialer.timeout))
                }
            };
            match outcome {
                Ok(Some(stream)) => return Ok(Some(stream)),
                Ok(None) => {}
                Err(error) => self.failed(dialer, error, now)?,
            }
        }
    }

    /// Waits until the target is connected, where there is no loop to watch the stream.
    pub fn wait_connected(&mut self, dialer: &Dialer) -> Result<Stream> {
        let mut is_ready = false;
        loop {
            if let Some(stream) = self.advance(dialer, is_ready, Instant::now(), &mut |_| Ok(()))? {
                return Ok(stream);
            }
            is_ready = self.poll()?;
        }
    }

    /// Waits for the stream to become ready, or for the deadline.
    fn poll(&self) -> Result<bool> {
        let left = self
            .deadline()
            .map_or(Duration::ZERO, |deadline| deadline - Instant::now());
        // Rounded up, so that the deadline has passed when the time is over.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let interest = match &self.state {
            State::Shaking { .. } => PollFlags::POLLIN,
            _ => PollFlags::POLLOUT,
        };
        let mut watched: Vec<PollFd<'_>> = self
            .stream()
            .map(|s| PollFd::new(s.input(), interest))
            .into_iter()
            .collect();
        match poll(&mut watched, timeout) {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(source) => Err(Error::System {
                operation: "wait for the target",
                source,
            }),
        }
    }

    fn wait(&mut self, state: State) -> Result<Option<Stream>> {
        self.state = state;
        Ok(None)
    }

    fn count(&self, dialer: &Dialer) -> usize {
        if self.mapped.is_some() {
            1
        } else {
            dialer.target.addresses.len()
        }
    }

    fn address<'a>(&'a self, dialer: &'a Dialer) -> &'a Address {
        self.mapped
            .as_ref()
            .unwrap_or_else(|| &dialer.target.addresses[self.next])
    }

    /// Gives the address to try its part of what is left of the round, so that a silent first one leaves time for the others.
    fn share(&self, dialer: &Dialer, now: Instant) -> Instant {
        let left = self.round_ends.saturating_duration_since(now);
        now + left / (self.count(dialer) - self.next) as u32
    }

    fn begin_round(&mut self, dialer: &Dialer, now: Instant) {
        self.next = 0;
        if now < self.retry_until {
            self.round_ends = now + dialer.timeout;
        }
    }

    /// Makes the socket and begins to connect; the flag tells whether it is connected already.
    fn open(&self, dialer: &Dialer) -> Result<(Stream, bool)> {
        let address = self.address(dialer);
        let refused = |errno| refusal(address, errno);
        let (family, kind): (_, Family) = match address {
            Address::Tcp(SocketAddr::V4(_)) => (AddressFamily::Inet, Family::Tcp),
            Address::Tcp(SocketAddr::V6(_)) => (AddressFamily::Inet6, Family::Tcp),
            Address::Vsock(_) => (AddressFamily::Vsock, Family::Vsock),
            Address::Unix(_) | Address::Mux(..) => (AddressFamily::Unix, Family::Unix),
        };
        let socket = sys::stream_socket(family).map_err(refused)?;
        dialer.tuning.apply(socket.as_fd(), kind).map_err(refused)?;
        if let (Some(ip), Address::Tcp(_)) = (self.source, address) {
            bind_source(&socket, ip).map_err(|source| Error::Source {
                address: ip,
                source,
            })?;
        }
        if kind == Family::Vsock {
            let limit = TimeVal::new(
                dialer.timeout.as_secs() as i64,
                dialer.timeout.subsec_micros().into(),
            );
            setsockopt(&socket, sys::vsock_option::ConnectTimeout, &limit).map_err(refused)?;
        }
        let is_connected = match sys::connect(socket.as_fd(), &*sockaddr(address).map_err(refused)?)
        {
            Ok(()) => true,
            Err(Errno::EINPROGRESS) => false,
            Err(errno) => return Err(refused(errno)),
        };
        Ok((Stream::socket(socket, kind), is_connected))
    }

    /// The kernel has ended the attempt: with a connection or with an error.
    fn connected(
        &mut self,
        dialer: &Dialer,
        stream: Stream,
        deadline: Instant,
    ) -> Result<Option<Stream>> {
        let address = self.address(dialer);
        if let Some(errno) = stream.take_error() {
            return Err(refusal(address, errno));
        }
        let Address::Mux(_, port) = address else {
            return Ok(Some(stream));
        };
        self.state = State::Shaking {
            stream,
            handshake: Handshake::new(*port),
            deadline,
        };
        Ok(None)
    }

    fn shake(
        &mut self,
        dialer: &Dialer,
        stream: Stream,
        mut handshake: Handshake,
        deadline: Instant,
    ) -> Result<Option<Stream>> {
        let address = self.address(dialer);
        match handshake.advance(&stream) {
            Ok(Progress::Accepted) => Ok(Some(stream)),
            Ok(Progress::Waiting) => self.wait(State::Shaking {
                stream,
                handshake,
                deadline,
            }),
            Ok(Progress::Refused) => Err(Error::Connect {
                target: Box::new(address.endpoint()),
                hint: " (nothing listens on that port in the VM)",
                source: Errno::ECONNREFUSED,
            }),
            Ok(Progress::Garbage(problem)) => Err(Error::Mux {
                target: Box::new(address.endpoint()),
                problem,
            }),
            Err(errno) => Err(refusal(address, errno)),
        }
    }

    /// Goes on to the next address, or to a pause; gives the error back when neither is left.
    fn failed(&mut self, dialer: &Dialer, error: Error, now: Instant) -> Result<()> {
        self.next += 1;
        if self.next < self.count(dialer) {
            return Ok(());
        }
        // Not `self.next`, which is past the end now, if the error is to be the result.
        self.next = 0;
        let is_busy = is_shortage(&error) && now < self.round_ends;
        if is_busy || is_transient(&error) && now < self.retry_until {
            self.state = State::Pausing {
                until: now + self.pause,
            };
            self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
            return Ok(());
        }
        Err(error)
    }
}

/// Tells whether something was short for the moment: room in a unix socket's queue (EAGAIN, connect(2)), descriptors, memory.
fn is_shortage(error: &Error) -> bool {
    use Errno::{EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error,
        Error::Connect {
            source: EAGAIN | EMFILE | ENFILE | ENOBUFS | ENOMEM,
            ..
        }
    )
}

/// Tells whether the target may be about to come up.
fn is_transient(error: &Error) -> bool {
    match error {
        Error::ConnectTimeout { .. } => true,
        Error::Connect { source, .. } => matches!(
            source,
            Errno::ECONNREFUSED
                | Errno::ECONNRESET
                | Errno::ENOENT
                | Errno::ENODEV
                | Errno::ETIMEDOUT
                | Errno::EAGAIN
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
        ),
        _ => false,
    }
}

/// Lets the outgoing connection come from `ip`, which needs no capability.
fn bind_source(socket: &impl AsFd, ip: IpAddr) -> Result<(), Errno> {
    // On an IPv6 socket Linux takes IP_FREEBIND for IPV6_FREEBIND. Needed for addresses that only a local route
    // makes ours: IPv6 refuses to bind them otherwise (EADDRNOTAVAIL).
    setsockopt(socket, sockopt::IpFreebind, &true)?;
    // The port is chosen at connect, when the target is known: else 28 000 connections would be all, whatever the target.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    sys::bind(socket.as_fd(), &*inet_sockaddr(SocketAddr::new(ip, 0)))
}

fn sockaddr(address: &Address) -> Result<Box<dyn SockaddrLike>, Errno> {
    Ok(match address {
        Address::Tcp(addr) => inet_sockaddr(*addr),
        Address::Vsock(addr) => {
            let cid = addr.cid.map_or(libc::VMADDR_CID_ANY, |cid| cid.number());
            Box::new(nix::sys::socket::VsockAddr::new(cid, addr.port.number()))
        }
        Address::Unix(name) | Address::Mux(name, _) => Box::new(match name {
            UnixName::Path(path) => UnixAddr::new(path)?,
            UnixName::Abstract(name) => UnixAddr::new_abstract(name.as_bytes())?,
            UnixName::Unnamed => return Err(Errno::EDESTADDRREQ),
        }),
    })
}

fn inet_sockaddr(addr: SocketAddr) -> Box<dyn SockaddrLike> {
    match addr {
        SocketAddr::V4(addr) => Box::new(SockaddrIn::from(addr)),
        SocketAddr::V6(addr) => Box::new(SockaddrIn6::from(addr)),
    }
}

/// Says what no answer may mean for this kind of address.
fn silence(address: &Address, limit: Duration) -> Error {
    let hint = match address {
        // What IPAddressDeny= forbids is dropped without an error.
        Address::Tcp(addr) if !addr.ip().is_loopback() => {
            " (kept from it by the unit's IPAddressAllow=, or by a firewall?)"
        }
        _ => "",
    };
    let target = Box::new(address.endpoint());
    Error::ConnectTimeout {
        target,
        hint,
        limit,
    }
}

/// Says what the error means for this kind of address, where the kernel's word for it misleads.
fn refusal(address: &Address, errno: Errno) -> Error {
    let hint = match (address, errno) {
        (_, Errno::EPERM | Errno::EACCES | Errno::EAFNOSUPPORT)
            if !matches!(address, Address::Unix(_) | Address::Mux(..)) =>
        {
            " (kept from it by the unit's RestrictAddressFamilies= or IPAddressAllow=, or by a firewall?)"
        }
        (Address::Vsock(_), Errno::ECONNRESET) => {
            " (nothing listens on that port, or its queue is full)"
        }
        (Address::Vsock(addr), Errno::ETIMEDOUT) if addr.cid == Some(crate::vsock::Cid::LOCAL) => {
            " (is the module vsock_loopback loaded?)"
        }
        (Address::Vsock(_), Errno::ETIMEDOUT) => " (no such VM, or it is stopped)",
        (Address::Vsock(_), Errno::ENODEV | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL) => {
            " (no such VM, or no vsock transport: load vhost_vsock on a host, vmw_vsock_virtio_transport in a guest, \
             vsock_loopback for CID 1)"
        }
        (Address::Tcp(_), Errno::ECONNREFUSED) => " (nothing listens there)",
        (Address::Unix(_) | Address::Mux(..), Errno::ECONNREFUSED) => {
            " (nothing listens on that socket)"
        }
        (Address::Unix(_) | Address::Mux(..), Errno::ENOENT) => {
            " (is its service, or the VM, running?)"
        }
        (Address::Unix(_) | Address::Mux(..), Errno::EACCES) => {
            " (may this user write to the socket and search its directories?)"
        }
        (Address::Unix(_) | Address::Mux(..), Errno::EAGAIN) => " (its queue is full)",
        _ => "",
    };
    Error::Connect {
        target: Box::new(address.endpoint()),
        hint,
        source: errno,
    }
}
