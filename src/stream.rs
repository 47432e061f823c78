//! Sockets as the relay sees them: who is at the other end, half-close, abort.
//!
//! It parses no addresses and has no loops; every descriptor here is non-blocking.

use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::socket::{Shutdown, SockaddrStorage, getsockopt, setsockopt, sockopt};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};

use crate::endpoint::Endpoint;
use crate::packets::Packets;
use crate::peer::{self, Destination, Family, Peer};
use crate::sys;
use crate::unix_path::Made;
use crate::vsock::Cid;

/// Options that every socket of a bridge gets; on a listener its connections inherit them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Idle time before the first TCP keepalive probe; none switches them off.
    pub keepalive: Option<Duration>,
    /// Size of the vsock receive buffer, in bytes.
    pub vsock_buffer_bytes: u64,
    /// Size of the packets into vsock.
    pub vsock_packets: Packets,
}

/// Most seconds between keepalive probes, and how many may be lost.
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
const KEEPALIVE_PROBES: u32 = 6;

impl Tuning {
    /// Returns the idle time in seconds, of which the kernel takes 1 to 32767 (tcp(7)), and those between probes: all
    /// of them together take as long as the idle time, and a minute at most.
    fn keepalive_seconds(idle: Duration) -> (u32, u32) {
        let seconds = idle.as_secs().clamp(1, 32767) as u32;
        let interval = (seconds / KEEPALIVE_PROBES).clamp(1, KEEPALIVE_INTERVAL_SECONDS);
        (seconds, interval)
    }

    /// Returns how long a TCP peer may say nothing, though it is asked, before it is taken for dead.
    pub(crate) fn silence_limit(&self) -> Option<Duration> {
        let (seconds, interval) = Tuning::keepalive_seconds(self.keepalive?);
        Some(Duration::from_secs(u64::from(
            seconds + interval * KEEPALIVE_PROBES,
        )))
    }

    /// Sets what a socket needs from its first byte on.
    pub(crate) fn apply(&self, socket: BorrowedFd<'_>, family: Family) -> Result<(), Errno> {
        match family {
            // Coalescing is the sender's business: Nagle adds 40 ms to a request in two writes.
            Family::Tcp => setsockopt(&socket, sockopt::TcpNoDelay, &true),
            Family::Vsock => {
                // The maximum first: the size is clamped to it. Never shrunk later (CVE-2026-23069).
                let bytes = self.vsock_buffer_bytes;
                setsockopt(&socket, sys::vsock_option::BufferMaxSize, &bytes)?;
                setsockopt(&socket, sys::vsock_option::BufferSize, &bytes)
            }
            Family::Unix | Family::File => Ok(()),
        }
    }

    /// Keeps the writes to a stream small enough for the device of this machine. `cid`: where a vsock one leads.
    pub(crate) fn limit_writes(&self, stream: Stream, cid: Option<Cid>) -> Stream {
        let bytes = match stream.family {
            Family::Vsock => self.vsock_packets.bytes_towards(cid),
            _ => usize::MAX,
        };
        let largest_write = u16::try_from(bytes).ok().and_then(NonZeroU16::new);
        Stream {
            largest_write,
            ..stream
        }
    }

    /// Switches TCP keepalive on: four calls, which a connection that is soon over need not pay.
    pub(crate) fn apply_keepalive(
        &self,
        socket: BorrowedFd<'_>,
        family: Family,
    ) -> Result<(), Errno> {
        let (Family::Tcp, Some(idle)) = (family, self.keepalive) else {
            return Ok(());
        };
        setsockopt(&socket, sockopt::KeepAlive, &true)?;
        let (seconds, interval) = Tuning::keepalive_seconds(idle);
        setsockopt(&socket, sockopt::TcpKeepIdle, &seconds)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &interval)?;
        setsockopt(&socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
    }
}

/// Who has made a listening socket.
#[derive(Debug)]
enum Origin {
    /// systemd, which keeps it: it is never shut down, unlinked or made blocking.
    Passed,
    /// This process, and the file of a unix socket with it.
    Own { _file: Option<Made> },
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    // Before the socket: who finds the file can also connect.
    origin: Origin,
    socket: OwnedFd,
    family: Family,
    local: Endpoint,
}

impl Listener {
    /// Takes a socket of systemd's that is known to listen.
    pub(crate) fn new(socket: OwnedFd, family: Family, local: Endpoint) -> Result<Listener, Errno> {
        set_nonblocking(socket.as_fd())?;
        Ok(Listener {
            origin: Origin::Passed,
            socket,
            family,
            local,
        })
    }

    /// Takes a non-blocking socket that this process has made, and ends with it.
    pub(crate) fn own(
        socket: OwnedFd,
        family: Family,
        local: Endpoint,
        file: Option<Made>,
    ) -> Listener {
        Listener {
            origin: Origin::Own { _file: file },
            socket,
            family,
            local,
        }
    }

    /// Returns whether nobody listens on when this process does not.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.origin, Origin::Own { .. })
    }

    /// Returns the address it is bound to.
    pub(crate) fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Returns its family.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Takes the next waiting connection; `EAGAIN` when there is none.
    pub(crate) fn accept(&self) -> Result<(Stream, Peer), Errno> {
        let (socket, address) = sys::accept(self.socket.as_fd())?;
        // A peer without address has gone already; ECONNABORTED is what accept(2) itself says then.
        let peer = address
            .and_then(|address| Peer::new(socket.as_fd(), &address))
            .ok_or(Errno::ECONNABORTED)?;
        Ok((Stream::socket(socket, self.family), peer))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where the bytes that we write go.
#[derive(Debug)]
enum Output {
    /// To the descriptor that we read from: a socket.
    Same,
    /// To another one: stdout.
    Separate(OwnedFd),
    /// Nowhere any more: stdout was closed to tell its reader the end.
    Closed,
}

/// One connected end of a connection, read from and written to without blocking.
#[derive(Debug)]
pub(crate) struct Stream {
    input: OwnedFd,
    output: Output,
    family: Family,
    /// None for what the kernel divides by itself.
    largest_write: Option<NonZeroU16>,
}

impl Stream {
    /// Takes a connected, non-blocking socket.
    pub(crate) fn socket(socket: OwnedFd, family: Family) -> Stream {
        Stream {
            input: socket,
            output: Output::Same,
            family,
            largest_write: None,
        }
    }

    /// Takes a passed connection (Accept=yes), which may be blocking.
    pub(crate) fn passed(socket: OwnedFd, family: Family) -> Result<Stream, Errno> {
        set_nonblocking(socket.as_fd())?;
        Ok(Stream::socket(socket, family))
    }

    /// Takes stdin and stdout.
    ///
    /// A terminal or pipe is opened anew, because O_NONBLOCK belongs to the open file, which the shell and
    /// the other end of a pipeline may share with us.
    pub(crate) fn stdio(input: OwnedFd, output: OwnedFd) -> Result<Stream, Errno> {
        let input = reopen(input, OFlag::O_RDONLY)?;
        let output = reopen(output, OFlag::O_WRONLY)?;
        Ok(Stream {
            input,
            output: Output::Separate(output),
            family: Family::File,
            largest_write: None,
        })
    }

    /// Returns its family.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Returns the most that one call may write; see [`Tuning::limit_writes`].
    pub(crate) fn largest_write(&self) -> usize {
        self.largest_write
            .map_or(usize::MAX, |bytes| bytes.get().into())
    }

    /// Returns the descriptor that is read from; for a socket the only one.
    pub(crate) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Returns the descriptor that is written to, if it is another one than [`Stream::input`].
    pub(crate) fn separate_output(&self) -> Option<BorrowedFd<'_>> {
        match &self.output {
            Output::Separate(output) => Some(output.as_fd()),
            _ => None,
        }
    }

    /// Returns the descriptor that is written to; `EPIPE` after it was closed.
    pub(crate) fn output(&self) -> Result<BorrowedFd<'_>, Errno> {
        match &self.output {
            Output::Same => Ok(self.input.as_fd()),
            Output::Separate(output) => Ok(output.as_fd()),
            Output::Closed => Err(Errno::EPIPE),
        }
    }

    /// Looks at what has arrived and leaves it there; none at the end.
    pub(crate) fn peek(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        sys::peek(self.input(), bytes)
    }

    /// Reads so many bytes that nobody wants any more; `EAGAIN` if there are fewer, and at the end.
    pub(crate) fn discard(&self, mut count: usize) -> Result<(), Errno> {
        let mut bytes = [0; 4096];
        while count > 0 {
            let most = count.min(bytes.len());
            match read(self.input(), &mut bytes[..most]) {
                Ok(0) => return Err(Errno::EAGAIN),
                Ok(taken) => count -= taken,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Writes a few bytes to a socket that has room, since nothing was written before; `EAGAIN` if it has not.
    pub(crate) fn write_at_once(&self, bytes: &[u8]) -> Result<(), Errno> {
        match write(self.output()?, bytes)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(Errno::EAGAIN),
        }
    }

    /// Tells the other end of a socket that no more bytes will come, before it is closed.
    pub(crate) fn finish_output(&self) -> Result<(), Errno> {
        sys::shutdown(self.output()?, Shutdown::Write)
    }

    /// Tells the other end that no more bytes will come.
    pub(crate) fn finish(&mut self) -> Result<(), Errno> {
        if let Output::Same = self.output {
            return sys::shutdown(self.input.as_fd(), Shutdown::Write);
        }
        let old = std::mem::replace(&mut self.output, Output::Closed);
        if let Output::Separate(output) = old {
            // A socket may be shared with others, who would keep it open: say the end explicitly.
            match sys::shutdown(output.as_fd(), Shutdown::Write) {
                Ok(()) | Err(Errno::ENOTSOCK) | Err(Errno::ENOTCONN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the other end that its bytes are no longer wanted, where the family can say so.
    pub(crate) fn refuse_input(&self) {
        if matches!(self.family, Family::Vsock | Family::Unix) {
            // The other end may have gone, which is what it would learn from this.
            let _ = sys::shutdown(self.input.as_fd(), Shutdown::Read);
        }
    }

    /// Takes the error that waits on the socket.
    pub(crate) fn take_error(&self) -> Option<Errno> {
        match getsockopt(&self.input, sockopt::SocketError) {
            Ok(0) | Err(_) => None,
            Ok(number) => Some(Errno::from_raw(number)),
        }
    }

    /// Returns whether the other end has acknowledged all that was written, and the end if that was sent.
    ///
    /// Asked before an abort, which drops what is not acknowledged; only TCP has such bytes.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.family != Family::Tcp || !sys::unacknowledged_bytes(self.input()).is_ok_and(|n| n > 0)
    }

    /// Returns for how long the other end has acknowledged nothing, though bytes are on their way to it.
    ///
    /// TCP sends no keepalive meanwhile, and tries for a quarter of an hour (tcp_retries2). TCP_USER_TIMEOUT would end it
    /// earlier, but a living peer that does not read as well: that one answers whenever it is asked whether there is room.
    pub(crate) fn silence(&self) -> Option<Duration> {
        // One question may be on its way just now.
        let silence = sys::silence(self.input()).ok()?;
        (silence.tries > 1).then_some(silence.time)
    }

    /// Returns for how long no byte that is on its way to the other end has got any further; none if that cannot be told.
    ///
    /// Whoever takes bytes both makes room, so that more are sent, and says so. One that does not read says that it has no
    /// room, and to one that is dead the same bytes are sent again.
    pub(crate) fn stillness(&self) -> Option<Duration> {
        let silence = sys::silence(self.input()).ok()?;
        Some(silence.time.max(silence.sent))
    }

    /// Returns whether the other end of a unix or vsock connection neither sends nor takes anything any more, and what it has
    /// sent was read, but for the `request` bytes that are known. One that has only ended its own direction still takes an
    /// answer. Of TCP that cannot be told.
    pub(crate) fn is_abandoned(&self, request: usize) -> bool {
        // Before Linux 6.17 vsock does not tell how many bytes there are.
        let has_no_more = || {
            let mut bytes = vec![0; request + 1];
            self.peek(&mut bytes).is_ok_and(|count| count <= request)
        };
        self.takes_nothing() && has_no_more()
    }

    /// Returns whether the other end of a unix or vsock connection takes nothing any more. One that has ended its own
    /// direction tells so when it closes; of TCP that cannot be told before something is sent.
    pub(crate) fn takes_nothing(&self) -> bool {
        matches!(self.family, Family::Unix | Family::Vsock) && sys::refuses_bytes(self.input())
    }

    /// Returns whether bytes are known to be there to read.
    pub(crate) fn has_input(&self) -> bool {
        sys::readable_bytes(self.input()).is_ok_and(|count| count > 0)
    }

    /// Returns the address that the peer connected to.
    pub(crate) fn local_address(&self) -> Result<SockaddrStorage, Errno> {
        sys::local_address(self.input.as_fd())
    }

    /// Returns where the peer of an accepted connection connected to.
    ///
    /// The CID of this machine is asked of the connection and not of /dev/vsock: a host that is a guest has two, and a bridge
    /// may not open it.
    pub(crate) fn destination(&self) -> Destination {
        let local = self.local_address().ok();
        let local = local.and_then(|address| peer::endpoint(&address));
        local.map_or(Destination::Unnamed, |local| Destination::new(&local))
    }

    /// Closes so that the other end sees an error and no clean end: over TCP by RST. Bytes not yet sent are dropped.
    pub(crate) fn abort(self) {
        self.reset_on_close(true);
    }

    /// Ends the socket itself, of which somebody else has a descriptor as well.
    pub(crate) fn shut_down(&self, is_abort: bool) {
        // It fails only when the other end has done so before.
        let _ = match self.family {
            Family::Tcp if is_abort => sys::disconnect(self.input()),
            _ => sys::shutdown(self.input(), Shutdown::Both),
        };
    }

    /// Returns whether a socket that was being connected is.
    pub(crate) fn is_connected(&self) -> bool {
        sys::peer_address(self.input()).is_ok()
    }

    /// Returns whether the connection is over in both directions, in whatever way.
    pub(crate) fn is_dead(&self) -> bool {
        self.family == Family::Tcp && sys::peer_address(self.input()) == Err(Errno::ENOTCONN)
    }

    /// Decides how the socket ends when the last descriptor is closed, by whomever: as if aborted, or as usual.
    ///
    /// Every socket of a session is set to the first: so whatever becomes of the process, and of what systemd has kept for
    /// it, nobody takes the end for that of a whole stream. A session that is complete sets it to the second.
    pub(crate) fn reset_on_close(&self, is_wanted: bool) {
        let reset = nix::libc::linger {
            l_onoff: is_wanted.into(),
            l_linger: 0,
        };
        // stdin may be a socket, as under inetd.
        if matches!(self.family, Family::Tcp | Family::File) {
            // It fails only on what is no socket.
            let _ = setsockopt(&self.input, sockopt::Linger, &reset);
        }
    }

    /// Returns the socket away, blocking as a fresh one is.
    pub(crate) fn into_blocking(self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::from_bits_retain(fcntl(&self.input, FcntlArg::F_GETFL)?);
        fcntl(&self.input, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        Ok(self.input)
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Opens a pipe or terminal anew as non-blocking; sockets, and what may not be opened, are switched themselves.
fn reopen(fd: OwnedFd, access: OFlag) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let status = nix::sys::stat::fstat(&fd)?;
    let kind = status.st_mode & nix::libc::S_IFMT;
    // A regular file never blocks, and opened anew it would begin at its start.
    if kind == nix::libc::S_IFREG {
        return Ok(fd);
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    if kind == nix::libc::S_IFIFO || kind == nix::libc::S_IFCHR {
        if let Ok(own) = open(path.as_str(), flags, Mode::empty()) {
            return Ok(own);
        }
    }
    set_nonblocking(fd.as_fd())?;
    Ok(fd)
}
