//! What systemd hears from us: ready, status, stopping, watchdog. The only sender of sd_notify messages.
//!
//! Without systemd nothing is sent and nothing is said about it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket, socketpair};
use sd_notify::NotifyState;

use crate::clock::Moment;
use crate::sys;
use crate::unix_path;

/// A status at most this often: PID 1 handles each one.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Sends the messages and knows when the next one is due. `S` tells whether a status has changed.
#[derive(Debug)]
pub(crate) struct Notifier<S> {
    watchdog: Option<Duration>,
    next_ping: Option<Moment>,
    status: Option<S>,
    has_news: bool,
    next_status: Moment,
}

impl<S: PartialEq> Notifier<S> {
    /// Reads from the environment what systemd wants to hear.
    pub(crate) fn from_env(now: Moment) -> Notifier<S> {
        // Half the time, as sd_watchdog_enabled(3) recommends.
        let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        let next_ping = watchdog.map(|interval| now + interval);
        Notifier {
            watchdog,
            next_ping,
            status: None,
            has_news: false,
            next_status: now,
        }
    }

    /// Says that connections are served from now on.
    pub(crate) fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    /// Says that no new connection is taken any more.
    pub(crate) fn stopping(&self, status: &str) {
        send(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Sends what is due: a sign of life, and the status if it has changed; `text` is only made then.
    pub(crate) fn tick(&mut self, status: S, text: impl FnOnce() -> String, now: Moment) {
        if let (Some(interval), Some(at)) = (self.watchdog, self.next_ping) {
            if at <= now {
                send(&[NotifyState::Watchdog]);
                self.next_ping = Some(now + interval);
            }
        }
        self.has_news = self.status.as_ref() != Some(&status);
        if self.has_news && self.next_status <= now {
            send(&[NotifyState::Status(&text())]);
            self.status = Some(status);
            self.has_news = false;
            self.next_status = now + STATUS_INTERVAL;
        }
    }

    /// Returns when [`Notifier::tick`] has something to send.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let status = self.has_news.then_some(self.next_status);
        [self.next_ping, status].into_iter().flatten().min()
    }
}

/// Says that a program without status and watchdog does its work from now on.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// Says what a program that is ready does, or what keeps it from that.
pub(crate) fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// Says why this process does not get ready, and that it stays for that long before it ends.
pub(crate) fn lingering(status: &str, time: Duration) {
    let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    send(&[
        NotifyState::Status(status),
        // TimeoutStartSec= may be shorter.
        NotifyState::ExtendTimeoutUsec(microseconds),
    ]);
}

/// Where to send to: `/path` or `@name` (sd_notify(3)).
pub(crate) const VARIABLE: &str = "NOTIFY_SOCKET";
/// How long systemd may take to read what was sent to it, before somebody else is served.
pub(crate) const BARRIER_TIME: u16 = 5000;

/// Returns whether systemd, or whoever started us, listens.
pub(crate) fn is_heard() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Returns whether systemd has told that it keeps no descriptors of this service (FileDescriptorStoreMax=0): since version 254
/// it sets FDSTORE where it keeps some, and since 259, which closes what it refuses some time after it was asked whether it
/// has read all, LISTEN_PIDFDID.
fn keeps_nothing() -> bool {
    let is_set = |variable| std::env::var_os(variable).is_some();
    is_set("LISTEN_PIDFDID") && !is_set("FDSTORE")
}

/// Descriptors that were sent to systemd, which may not have read that yet.
#[derive(Debug)]
pub(crate) struct Storing {
    /// Hangs up when what was stored last is closed, for want of room.
    probe: OwnedFd,
    /// Hangs up when systemd has read all (BARRIER=1, sd_notify(3)).
    barrier: OwnedFd,
}

impl Storing {
    /// Returns systemd descriptors to keep for the next process of the service.
    ///
    /// Errors: `ENOTCONN` without systemd, and where it has told that it keeps none.
    pub(crate) fn new<'a>(
        descriptors: impl IntoIterator<Item = (&'a str, BorrowedFd<'a>)>,
    ) -> Result<Storing, Errno> {
        if !is_heard() || keeps_nothing() {
            return Err(Errno::ENOTCONN);
        }
        for (name, descriptor) in descriptors {
            store_one(name, descriptor)?;
        }
        // systemd does not answer, but one more, the last, hangs up if it was closed for want of room.
        let flags = SockFlag::SOCK_CLOEXEC;
        let (probe, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        store_one(PROBE, theirs.as_fd())?;
        drop(theirs);
        let (barrier, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        transmit(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
        Ok(Storing { probe, barrier })
    }

    /// Waits until all of them are kept.
    ///
    /// Errors: `ENOTCONN` when systemd has not room for all of them (FileDescriptorStoreMax=); `ETIMEDOUT` when it does not
    /// read in time, and may do so later.
    pub(crate) fn confirm(&self, time: PollTimeout) -> Result<(), Errno> {
        let mut wait = [PollFd::new(self.barrier.as_fd(), PollFlags::empty())];
        if poll(&mut wait, time)? == 0 {
            return Err(Errno::ETIMEDOUT);
        }
        let mut probe = [PollFd::new(self.probe.as_fd(), PollFlags::empty())];
        poll(&mut probe, PollTimeout::ZERO)?;
        let is_closed = |events: PollFlags| events.contains(PollFlags::POLLHUP);
        if probe[0].revents().is_some_and(is_closed) {
            return Err(Errno::ENOTCONN);
        }
        forget(PROBE);
        Ok(())
    }
}

/// The name of what is stored to see whether it is kept; a process that was killed meanwhile leaves it there.
pub(crate) const PROBE: &str = "handover-probe";

fn store_one(name: &str, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let messages = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        // Else a descriptor that hangs up is closed, with all that is unread in it.
        NotifyState::Custom("FDPOLL=0"),
    ];
    transmit(&messages, &[descriptor])
}

/// Lets systemd close what it keeps under the name.
pub(crate) fn forget(name: &str) {
    send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Whoever listens, for messages that are told without a wait.
#[derive(Debug)]
pub(crate) struct Manager(OwnedFd);

impl Manager {
    /// Finds whoever listens now; none if nobody does.
    pub(crate) fn connect() -> Result<Option<Manager>, Errno> {
        Ok(connected()?.map(Manager))
    }

    /// Sends a message, in lines.
    ///
    /// Errors: `EAGAIN` where there is no room for it yet.
    pub(crate) fn tell(&self, lines: &str) -> Result<(), Errno> {
        sys::send_packet(self.0.as_fd(), lines.as_bytes(), &[])
    }

    /// Returns what can be written to when there is room.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends one message to whoever listens; nothing when nobody does.
fn transmit(messages: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let lines: String = messages.iter().map(|line| format!("{line}\n")).collect();
    match connected()? {
        Some(socket) => sys::send_packet_in_time(socket.as_fd(), lines.as_bytes(), descriptors),
        None => Ok(()),
    }
}

/// Returns a socket to whoever listens. sd_notify itself knows no abstract names.
fn connected() -> Result<Option<OwnedFd>, Errno> {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    match name.as_bytes() {
        [b'@', name @ ..] => sys::connect(socket.as_fd(), &UnixAddr::new_abstract(name)?)?,
        _ => unix_path::connect(socket.as_fd(), Path::new(&name))?,
    }
    Ok(Some(socket))
}

fn send(messages: &[NotifyState<'_>]) {
    if let Err(errno) = transmit(messages, &[]) {
        log::debug!("cannot notify systemd: {}", errno.desc());
    }
}
