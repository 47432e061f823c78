//! The signals of a loop, taken as events: SIGTERM and SIGINT stop it in good order, and SIGUSR1 stops it for a
//! successor, which gets its connections. systemd sends that one for a restart (RestartKillSignal=).
//!
//! SIGHUP is no order to reload: settings change by restart. Who was started at a terminal ends with it.

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};
use crate::relay::token::Token;

/// What a signal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Let open connections finish, then end; a second time: end now.
    Stop,
    /// Give open connections to the next process, and end.
    HandOver,
}

/// Where the blocked signals of this process arrive.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: SignalFd,
    /// Whoever has started the program is at a terminal, and gone with it.
    ends_at_hangup: bool,
}

/// Blocks the signals, for threads made later as well: one that comes from now on is met by the loop, when there is one.
pub(crate) fn block() -> Result<SigSet> {
    let taken = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ];
    let mask: SigSet = taken.into_iter().collect();
    (mask.thread_block()).map_err(Error::system("block signals"))?;
    Ok(mask)
}

impl Signals {
    /// Blocks the signals, if that is still to be done, and watches for them.
    pub(crate) fn new(epoll: &Epoll, ends_at_hangup: bool) -> Result<Signals> {
        let mask = block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals =
            SignalFd::with_flags(&mask, flags).map_err(Error::system("create a signalfd"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Signal.pack());
        (epoll.add(&signals, event)).map_err(Error::system("watch signals"))?;
        Ok(Signals {
            descriptor: signals,
            ends_at_hangup,
        })
    }

    pub(crate) fn take(&self) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Ok(Some(info)) = self.descriptor.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGHUP) if !self.ends_at_hangup => {
                    log::info!("SIGHUP is ignored: restart to change settings")
                }
                Ok(Signal::SIGUSR1) => orders.push(Order::HandOver),
                _ => orders.push(Order::Stop),
            }
        }
        orders
    }
}
