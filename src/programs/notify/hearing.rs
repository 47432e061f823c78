//! Hears the machine: each message is a connection of its own, over which the guest's PID 1 waits for the other end to close.
//!
//! So it is closed as soon as the message is complete: at its end, or when nothing more comes for a moment, since some
//! monitors do not carry the end of one direction. Connections are heard side by side, so that nobody holds PID 1 up.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::gate::{Gate, PeerKey, Refusal};
use crate::listen::FIRST_FREE_PORT;
use crate::logging::rate_limit::{PeerRateLimit, RateLimit};
use crate::peer::{Destination, Peer, endpoint};
use crate::stream::{Listener, Stream};
use crate::sys;

use super::telling::Telling;
use super::words::Words;

/// Bytes of the longest message, as of sd_notify(3) (NOTIFY_BUFFER_MAX in systemd).
const MESSAGE_BYTES_MAX: usize = 4096;
/// How many are heard at once; the oldest that has said nothing makes room, or else the oldest.
const SPEAKERS_MAX: usize = 32;
/// How long the first byte may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long a silence a message is complete: all of it is sent at once, in one packet. The guest waits for that long where its
/// monitor keeps the end of one direction to itself.
const SILENCE: Duration = Duration::from_millis(50);
/// For how long nobody is accepted when the machine that this is has no room for it.
const PAUSE_MS: u16 = 1000;

/// Listens to one machine.
#[derive(Debug)]
pub(super) struct Hearing {
    listener: Listener,
    gate: Gate,
    words: Words,
    speakers: Vec<Speaker>,
    telling: Telling,
    refusals: PeerRateLimit<PeerKey>,
    /// For lines that say that it is ready, which it may do without end.
    readiness: RateLimit,
}

/// Somebody who has connected.
#[derive(Debug)]
struct Speaker {
    stream: Stream,
    peer: Peer,
    message: Vec<u8>,
    /// When it is taken for complete, or given up if it has not begun.
    deadline: Moment,
}

/// What came of a look at a speaker.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    More,
    All,
    Nothing(&'static str),
}

impl Hearing {
    /// Begins with nobody.
    pub(super) fn new(listener: Listener, gate: Gate, words: Words) -> Hearing {
        Hearing {
            listener,
            gate,
            words,
            speakers: Vec::new(),
            telling: Telling::new(),
            refusals: PeerRateLimit::new(10, 0),
            readiness: RateLimit::new(10),
        }
    }

    /// Passes on what the machine says, for ever.
    ///
    /// Errors: a kernel that does not wait.
    pub(super) fn run(mut self) -> Result<Infallible> {
        log::debug!("listening on {}", self.listener.local());
        loop {
            let ready = self.wait().map_err(Error::system("wait for the machine"))?;
            let now = Moment::now();
            self.telling.go_on(now);
            self.hear(&ready[1..], now);
            if ready[0] {
                self.accept(now);
            }
        }
    }

    /// Waits for something to happen; returns whether the listener, and each speaker after it, has something.
    fn wait(&self) -> Result<Vec<bool>, Errno> {
        let sources = std::iter::once(self.listener.as_fd());
        let sources = sources.chain(self.speakers.iter().map(|speaker| speaker.stream.input()));
        let mut sources: Vec<PollFd<'_>> = sources
            .map(|source| PollFd::new(source, PollFlags::POLLIN))
            .collect();
        let room = self.telling.descriptor();
        sources.extend(room.map(|room| PollFd::new(room, PollFlags::POLLOUT)));
        let deadlines = self.speakers.iter().map(|speaker| speaker.deadline);
        let deadline = deadlines.chain(self.telling.deadline()).min();
        match poll(&mut sources, timeout(deadline)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let has_news = |source: &PollFd<'_>| source.any().unwrap_or(false);
        Ok(sources.iter().map(has_news).collect())
    }

    /// Reads what has come, and lets go of whoever has finished.
    fn hear(&mut self, ready: &[bool], now: Moment) {
        let mut ready = ready.iter();
        let mut finished = Vec::new();
        self.speakers.retain_mut(|speaker| {
            let has_news = ready.next().is_some_and(|&is_ready| is_ready);
            match speaker.listen(has_news, now) {
                Heard::More => return true,
                Heard::All => finished.push((speaker.peer, std::mem::take(&mut speaker.message))),
                Heard::Nothing(why) => log::debug!("nothing heard from {}: {why}", speaker.peer),
            }
            false
        });
        for (peer, message) in finished {
            self.pass_on(&peer, &message, now);
        }
    }

    fn pass_on(&mut self, peer: &Peer, message: &[u8], now: Moment) {
        let lines = self.words.of(message);
        if Words::say_ready(&lines) && self.readiness.admit(now).is_some() {
            log::info!("the machine is ready");
        }
        if !lines.is_empty() {
            log::debug!("{peer} says {:?}", lines.trim_end());
            self.telling.tell(lines, now);
        }
    }

    fn accept(&mut self, now: Moment) {
        let (stream, peer) = match self.listener.accept() {
            Ok(accepted) => accepted,
            Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => return,
            Err(errno) => {
                log::warn!("cannot accept a message: {}", errno.desc());
                // Until there is room again.
                let _ = poll(&mut [], PAUSE_MS);
                return;
            }
        };
        if let Err(why) = self.admit(stream.input(), &peer) {
            if self.refusals.admit(PeerKey::new(&peer), now).is_some() {
                log::warn!("message of {peer} refused: {why}");
            }
            return;
        }
        self.make_room(now);
        self.speakers.push(Speaker {
            stream,
            peer,
            message: Vec::new(),
            deadline: now + PATIENCE,
        });
    }

    /// Lets somebody go where there are too many; what it has said by now counts.
    fn make_room(&mut self, now: Moment) {
        if self.speakers.len() < SPEAKERS_MAX {
            return;
        }
        let is_silent = |speaker: &Speaker| speaker.message.is_empty();
        let silent = self.speakers.iter().position(is_silent);
        let mut speaker = self.speakers.remove(silent.unwrap_or(0));
        match speaker.listen(true, now) {
            Heard::Nothing(why) => log::debug!("nothing heard from {}: {why}", speaker.peer),
            Heard::More | Heard::All => self.pass_on(&speaker.peer, &speaker.message, now),
        }
    }

    /// Decides whether it is the machine, and its PID 1: that has a port for which a privilege is needed (sd_notify(3)).
    fn admit(&mut self, stream: BorrowedFd<'_>, peer: &Peer) -> Result<(), String> {
        let local = sys::local_address(stream).ok().and_then(|a| endpoint(&a));
        let destination = local.map_or(Destination::Unnamed, |local| Destination::new(&local));
        let entered = self.gate.enter(peer, destination);
        entered.map_err(|refusal| match refusal {
            Refusal::Local(_) => "this machine itself is not in --allow-cid".to_owned(),
            refusal => refusal.to_string(),
        })?;
        self.gate.leave(peer);
        match peer {
            Peer::Vsock(address) if address.port.number() >= FIRST_FREE_PORT => {
                Err("its port is one that every user of the machine may have".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl Speaker {
    /// Reads, and looks at the time.
    fn listen(&mut self, has_news: bool, now: Moment) -> Heard {
        if has_news {
            match self.read() {
                Ok(0) => return Heard::All,
                Ok(_) if self.message.len() > MESSAGE_BYTES_MAX => {
                    return Heard::Nothing("its message is longer than 4096 bytes");
                }
                Ok(_) => self.deadline = now + SILENCE,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Heard::Nothing(errno.desc()),
            }
        }
        match self.deadline <= now {
            true if self.message.is_empty() => Heard::Nothing("it says nothing"),
            true => Heard::All,
            false => Heard::More,
        }
    }

    fn read(&mut self) -> Result<usize, Errno> {
        let mut bytes = [0; MESSAGE_BYTES_MAX + 1];
        let count = read(self.stream.input(), &mut bytes)?;
        self.message.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// Until that moment, and not a millisecond less.
fn timeout(deadline: Option<Moment>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let time = deadline - Moment::now() + Duration::from_millis(1);
    PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
}
