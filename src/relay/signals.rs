//! The signals of a loop, taken as events: SIGTERM and SIGINT stop it in good order.
//!
//! SIGHUP is no order to reload: settings change by restart.

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::token::Token;
use crate::error::{Error, Result};

/// Where the blocked signals of this process arrive.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals, for threads made later as well, and watches for them.
    pub fn new(epoll: &Epoll) -> Result<Signals> {
        let taken = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
        let mask: SigSet = taken.into_iter().collect();
        (mask.thread_block()).map_err(Error::system("block signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals =
            SignalFd::with_flags(&mask, flags).map_err(Error::system("create a signalfd"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Signal.pack());
        (epoll.add(&signals, event)).map_err(Error::system("watch signals"))?;
        Ok(Signals(signals))
    }

    /// Takes what has come; gives the number of orders to stop.
    pub fn take_stops(&self) -> usize {
        let mut stops = 0;
        while let Ok(Some(info)) = self.0.read_signal() {
            if info.ssi_signo == Signal::SIGHUP as u32 {
                log::info!("SIGHUP is ignored: restart to change settings");
            } else {
                stops += 1;
            }
        }
        stops
    }
}
