//! A peer of the gateway that says where it wants to go, until it is known what to connect to; or the gateway of the host,
//! that says whom it brings.
//!
//! Nothing is taken from its socket before the target is reached: so the request is still there for the next process, and
//! what is behind it is never anybody's but the target's.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::dialing::{Dialing, Grace};
use super::end::End;
use crate::accounting::Ending;
use crate::clock::Moment;
use crate::connect::answer::{dismiss, tell};
use crate::connect::{Asks, Attempt, Dialer, Errand, Lead};
use crate::error::{Error, Result};
use crate::gateway::resolver::Question;
use crate::gateway::step::{REQUEST_MAX, Step};
use crate::gateway::{self, reply, request};
use crate::gateway_rules::Who;
use crate::peer::{Peer, Side};
use crate::proxy_protocol::{self, read::Read};
use crate::stream::Stream;

/// Within that time a request must be complete.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// The peer's end, and how far its request has come.
#[derive(Debug)]
pub(crate) struct Asking {
    peer: End<Stream>,
    /// The number of the target that it asks.
    target: usize,
    asks: Asks,
    /// As whom it waits for the resolver.
    name: u64,
    /// The greeting, which is still in the socket, was answered.
    has_greeted: bool,
    question: Option<Arc<Question>>,
    /// Begins when the request is complete.
    grace: Option<Grace>,
    deadline: Moment,
}

/// What a step comes to: the attempt to reach the target once that is known; or the end of it.
type Progress<T> = ControlFlow<Result<Ending>, T>;

impl Asking {
    /// Begins to wait for the request. `has_greeted`: the process before has answered the greeting.
    pub(crate) fn new(
        peer: Stream,
        (target, asks): (usize, Asks),
        name: u64,
        has_greeted: bool,
        now: Moment,
    ) -> Asking {
        Asking {
            peer: End::new(peer),
            target,
            asks,
            name,
            has_greeted,
            question: None,
            grace: None,
            deadline: now + REQUEST_TIME,
        }
    }

    pub(crate) fn peer(&self) -> &Stream {
        &self.peer.wire
    }

    /// Returns the machine behind its socket, if that is known.
    pub(crate) fn machine(&self, peer: &Peer) -> Option<Peer> {
        match self.asks {
            Asks::Gateway(who) => gateway::machine_of(peer, who),
            Asks::Inbound => None,
        }
    }

    pub(crate) fn has_greeted(&self) -> bool {
        self.has_greeted
    }

    /// Takes over what epoll reported of the peer; there is no target yet.
    pub(crate) fn on_events(&mut self, side: Side, events: EpollFlags) {
        if side == Side::Peer {
            self.peer.on_events(events);
        }
    }

    /// Returns when it must be looked at even if nothing became ready.
    pub(crate) fn deadline(&self) -> Moment {
        let grace = self
            .grace
            .as_ref()
            .and_then(|grace| grace.deadline(&self.peer));
        grace.map_or(self.deadline, |grace| grace.min(self.deadline))
    }

    /// Goes on as far as possible; gives how the target is to be reached, once that is known. `errand` is what was asked for
    /// as soon as that is known, whatever becomes of it.
    pub(crate) fn advance(
        &mut self,
        dialer: &Dialer,
        name: &Peer,
        errand: &mut Option<Box<Errand>>,
        now: Moment,
    ) -> Progress<Option<Attempt>> {
        if self.peer.has_failed {
            let errno = self.peer.wire.take_error().unwrap_or(Errno::ECONNRESET);
            return broken(errno);
        }
        if let Asks::Inbound = self.asks {
            // What others say of who comes is not even read.
            (dialer.believe(name)).map_or_else(
                |error| ControlFlow::Break(Err(error)),
                ControlFlow::Continue,
            )?;
        }
        let attempt = match (self.asks, &self.question) {
            (Asks::Gateway(who), Some(question)) => {
                let question = question.clone();
                self.found(dialer, (who, &question), errand, now)
            }
            (asks, _) => {
                let Some(asked) = self.request(now)? else {
                    return ControlFlow::Continue(None);
                };
                let errand = errand.insert(Box::new(asked));
                match asks {
                    Asks::Gateway(who) => self.decide((dialer, who), name, errand, now),
                    Asks::Inbound => (dialer.run_inbound(self.target, name, errand, now)).map(Some),
                }
            }
        };
        match (attempt, errand) {
            (Ok(None), Some(errand)) => match self.gone(errand.length, now) {
                Some(errno) => broken(errno),
                None => ControlFlow::Continue(None),
            },
            (Ok(attempt), _) => ControlFlow::Continue(attempt),
            (Err(error), Some(errand)) => {
                errand.tell_failure(&self.peer.wire, &error);
                ControlFlow::Break(Err(error))
            }
            (Err(error), None) => ControlFlow::Break(Err(error)),
        }
    }

    /// Becomes the attempt to reach the target.
    pub(crate) fn into_dialing(
        self,
        errand: Option<&Errand>,
        attempt: Attempt,
        now: Moment,
    ) -> Dialing {
        let request = errand.map_or((0, false), |errand| {
            (errand.length, errand.by_name.is_some())
        });
        Dialing::asked(self.peer, request, attempt, now)
    }

    /// Returns why nobody waits for the resolver any more.
    fn gone(&mut self, request: usize, now: Moment) -> Option<Errno> {
        let grace = self.grace.get_or_insert_with(|| Grace::new(now));
        grace.gone(&self.peer, request, now)
    }

    /// Looks at what the peer has sent so far.
    fn request(&mut self, now: Moment) -> Progress<Option<Errand>> {
        let mut bytes = [0; REQUEST_MAX];
        let count = match self.peer.wire.peek(&mut bytes) {
            Ok(0) => return broken(Errno::EPIPE),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => return broken(errno),
        };
        let bytes = &bytes[..count];
        match self.asks {
            Asks::Gateway(_) => self.asked_for(bytes, now),
            Asks::Inbound => self.brought(bytes, now),
        }
    }

    /// Reads whom the gateway of the host brings.
    fn brought(&self, bytes: &[u8], now: Moment) -> Progress<Option<Errand>> {
        let wrong = |problem| ControlFlow::Break(Err(Error::Request(problem)));
        match proxy_protocol::read::read(bytes) {
            Read::Header(header) => ControlFlow::Continue(Some(Errand::inbound(&header))),
            Read::Wrong(problem) => wrong(problem),
            Read::Incomplete if self.peer.is_ended => {
                wrong("it has ended in the middle of its PROXY header".to_owned())
            }
            Read::Incomplete if now >= self.deadline => {
                wrong("its PROXY header was not complete within 5s".to_owned())
            }
            Read::Incomplete => ControlFlow::Continue(None),
        }
    }

    /// Reads a request to the gateway.
    fn asked_for(&mut self, bytes: &[u8], now: Moment) -> Progress<Option<Errand>> {
        let mut step = request::read(bytes, self.has_greeted);
        if step == Step::Greeting {
            if let Err(errno) = tell(&self.peer.wire, &reply::METHOD) {
                return broken(errno);
            }
            self.has_greeted = true;
            step = request::read(bytes, true);
        }
        if step == Step::Incomplete {
            step = match (self.peer.is_ended, now >= self.deadline) {
                // It wants nothing.
                (true, _) if request::is_greeting(bytes) => return broken(Errno::EPIPE),
                (true, _) => request::unfinished(bytes, "the peer has ended in the middle of it"),
                (false, true) => request::unfinished(bytes, "it was not complete within 5s"),
                (false, false) => return ControlFlow::Continue(None),
            };
        }
        match step {
            Step::Asked(request) => ControlFlow::Continue(Some(Errand::new(request))),
            Step::Wrong { reply, problem } => {
                dismiss(&self.peer.wire, &reply);
                ControlFlow::Break(Err(Error::Request(problem)))
            }
            Step::Incomplete | Step::Greeting => ControlFlow::Continue(None),
        }
    }

    /// Asks the rules; begins to look the name up if it is one.
    fn decide(
        &mut self,
        (dialer, who): (&Dialer, Option<Who>),
        name: &Peer,
        errand: &mut Errand,
        now: Moment,
    ) -> Result<Option<Attempt>> {
        let Some(gateway) = &dialer.gateway else {
            return Err(Error::NoTarget(name.to_string()));
        };
        match dialer.lead(gateway, (self.target, who), name, errand, now)? {
            Lead::To(attempt) => Ok(Some(*attempt)),
            Lead::LookUp(who, host, port) => {
                let question = gateway.resolver.ask(who, &host, port, self.name);
                let busy = || Error::Lookup {
                    host,
                    problem: "too many names are being looked up for this machine".to_owned(),
                };
                self.question = Some(question.ok_or_else(busy)?);
                self.deadline = now + dialer.timeout;
                Ok(None)
            }
        }
    }

    /// Looks whether the resolver has answered.
    fn found(
        &mut self,
        dialer: &Dialer,
        (who, question): (Option<Who>, &Question),
        errand: &Option<Box<Errand>>,
        now: Moment,
    ) -> Result<Option<Attempt>> {
        let (Some(who), Some(errand)) = (who, errand) else {
            return Ok(None);
        };
        match question.take_answer() {
            Some(Ok(found)) => {
                let asked = (&errand.asked, found);
                dialer.run_to_found(self.target, who, asked, now).map(Some)
            }
            Some(Err(source)) => Err(Error::Resolve {
                name: errand.asked.to_string(),
                source,
            }),
            None if now >= self.deadline => Err(Error::Lookup {
                host: errand.asked.to_string(),
                problem: format!(
                    "no answer of a resolver within {}",
                    humantime::format_duration(dialer.timeout)
                ),
            }),
            None => Ok(None),
        }
    }
}

/// Asks the rules once more if a machine has answered that was asked for by its name, and names were read since: another may
/// have the name now, or the peer may not go there any more.
pub(crate) fn renew(
    dialing: &mut Dialing,
    dialer: &Dialer,
    name: &Peer,
    errand: &mut Errand,
    now: Moment,
) -> Progress<()> {
    let (Some(gateway), Some((target, who))) = (&dialer.gateway, errand.by_name) else {
        return ControlFlow::Continue(());
    };
    if !dialing.is_confirmed() {
        return ControlFlow::Continue(());
    }
    match dialer.lead(gateway, (target, Some(who)), name, errand, now) {
        Ok(Lead::To(attempt)) => dialing.lead(*attempt),
        // It is no name of a host.
        Ok(Lead::LookUp(..)) => {}
        Err(error) => {
            errand.tell_failure(dialing.peer(), &error);
            return ControlFlow::Break(Err(error));
        }
    }
    ControlFlow::Continue(())
}

fn broken<T>(errno: Errno) -> Progress<T> {
    ControlFlow::Break(Ok(Ending::Broken(Side::Peer, errno)))
}
