//! One relay set up for one scenario: target, relay, readiness. Everything is new for each run and gone after it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::accounting;
use crate::address::{Address, Family, Kind};
use crate::board::Board;
use crate::engine::{Engine, EngineThread};
use crate::error::{Doing, Error, Result};
use crate::figures::relay::Relay;
use crate::process::{Hop, RelayProcess};
use crate::relays::{self, Listening};
use crate::session::{AfterAnswer, Session};
use crate::socket;
use crate::store::Store;

/// How long a relay may take until it relays.
const READY_LIMIT: Duration = Duration::from_secs(5);
const READY_TRY_LIMIT: Duration = Duration::from_secs(1);
const READY_PAUSE: Duration = Duration::from_millis(10);

/// `nobody`, whom the limits for ordinary users apply to.
const UNPRIVILEGED: u32 = 65_534;

/// What all runs have in common.
#[derive(Debug)]
pub struct Place {
    /// Sockets, configuration files and logs.
    pub folder: PathBuf,
    /// Our program.
    pub ours: PathBuf,
    /// How long a scenario measures.
    pub window: Duration,
}

/// A target, and a relay in front of it. Dropped from top to bottom.
pub struct Run {
    /// The counters.
    pub board: Arc<Board>,
    /// Where peers connect.
    pub address: Address,
    target: Option<EngineThread>,
    process: Option<RelayProcess>,
    log: PathBuf,
}

impl Run {
    /// Starts everything and waits until a message went through and back.
    pub fn start(
        place: &Place,
        relay: Relay,
        family: Family,
        is_unprivileged: bool,
    ) -> Result<Self> {
        let board = Arc::new(Board::new());
        let target_kind = match relay {
            Relay::DirectVsock => Kind::Vsock,
            _ => family.outbound,
        };
        let (listener, target_address) = socket::listen_somewhere(target_kind, &place.folder)?;
        let mut engine = Engine::new(Arc::clone(&board))?;
        engine.serve(listener)?;
        let target = EngineThread::start(engine)?;
        let log = place.folder.join(format!("{relay}.log"));
        let (address, process) =
            start_relay(place, relay, family, &target_address, is_unprivileged, &log)?;
        let run = Self {
            board,
            address,
            target: Some(target),
            process,
            log,
        };
        run.wait_until_ready()?;
        Ok(run)
    }

    /// The relay's processes.
    pub fn group(&self) -> Option<Pid> {
        self.process.as_ref().map(RelayProcess::group)
    }

    /// The relay's processor time so far.
    pub fn cpu_time(&self) -> Duration {
        self.group().map_or(Duration::ZERO, accounting::cpu_time)
    }

    /// An error that ends with the relay's own last words.
    pub fn complaint(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        match log.lines().last() {
            Some(line) => Error::Relay(format!("{what}; its last line: {line}")),
            None => Error::Relay(what.into()),
        }
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if self.try_one_message()? {
                return Ok(());
            }
            if self.process.as_ref().is_some_and(RelayProcess::has_ended) {
                return Err(self.complaint("the relay has ended"));
            }
            std::thread::sleep(READY_PAUSE);
        }
        Err(self.complaint("the relay does not relay"))
    }

    /// A try that fails is no failure of the run, so it has a board of its own.
    fn try_one_message(&self) -> Result<bool> {
        let Ok(file) = socket::connect_to(&self.address) else {
            return Ok(false);
        };
        let board = Arc::new(Board::new());
        let mut engine = Engine::new(Arc::clone(&board))?;
        engine.add(Session::asker(file, board, 0, 64, 0, AfterAnswer::Close))?;
        let deadline = Instant::now() + READY_TRY_LIMIT;
        while engine.len() > 0 && Instant::now() < deadline {
            engine.turn(deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(engine.scratch.answered == 1)
    }
}

impl Drop for Run {
    /// The target goes before the relay: its sockets are discarded, and leave nothing behind.
    fn drop(&mut self) {
        self.board.close();
        self.target = None;
        self.process = None;
    }
}

fn start_relay(
    place: &Place,
    relay: Relay,
    family: Family,
    target: &Address,
    is_unprivileged: bool,
    log: &Path,
) -> Result<(Address, Option<RelayProcess>)> {
    let (Some(listening), Some(program)) = (relay.listening(), relay.program(&place.ours)) else {
        return Ok((target.clone(), None));
    };
    let (listener, address) = listen_for(listening, family.inbound, &place.folder)?;
    let mut hops = Vec::new();
    let mut next = target.clone();
    if let Some(kind) = relay.between() {
        let (listener, between) = listen_for(listening, kind, &place.folder)?;
        let arguments = relays::far_arguments(relay, &between, target, &place.folder)?;
        hops.push(Hop {
            arguments,
            listener,
        });
        next = between;
    }
    hops.push(Hop {
        arguments: relay.arguments(&address, &next, &place.folder)?,
        listener,
    });
    let log = File::create(log).doing(|| format!("create {}", log.display()))?;
    let user = is_unprivileged.then_some(UNPRIVILEGED);
    let store = Store::open(&place.folder)?;
    let process = RelayProcess::start(&program, hops, user, store, &log)?;
    Ok((address, Some(process)))
}

/// A new address; the socket is ours where it is handed over.
fn listen_for(
    listening: Listening,
    kind: Kind,
    folder: &Path,
) -> Result<(Option<OwnedFd>, Address)> {
    match listening {
        Listening::Activated => {
            let (listener, address) = socket::listen_somewhere(kind, folder)?;
            Ok((Some(listener), address))
        }
        Listening::Itself => Ok((None, socket::free_address(kind, folder)?)),
    }
}
