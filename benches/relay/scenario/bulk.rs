//! Streams: how much arrives while the window is open, and what it costs. After the window every byte that was sent must
//! still come out.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::board::Lane;
use crate::cpu_watch::CpuWatch;
use crate::engine::{Engine, EngineThread};
use crate::error::{Doing, Result};
use crate::figures::metric::{self, Values};
use crate::run::Run;
use crate::scenario::round_trip;
use crate::session::Session;
use crate::socket;

const WARM_UP: Duration = Duration::from_millis(150);
/// A slow machine may need longer until all of many streams have had a turn.
const FIRST_BYTES_LIMIT: Duration = Duration::from_secs(5);
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);
const GIB: f64 = (1u64 << 30) as f64;

/// Which ways a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions {
    /// Peer to target.
    pub inbound: bool,
    /// Target to peer.
    pub outbound: bool,
}

/// Streams that run.
struct Streams<'a> {
    run: &'a Run,
    directions: &'a [Directions],
    _threads: Vec<EngineThread>,
}

impl<'a> Streams<'a> {
    fn start(run: &'a Run, directions: &'a [Directions]) -> Result<Self> {
        let mut threads = Vec::new();
        for (number, stream) in directions.iter().enumerate() {
            let file =
                socket::connect_to(&run.address).doing(|| format!("connect to {}", run.address))?;
            let board = Arc::clone(&run.board);
            let (inbound, outbound) = (stream.inbound, stream.outbound);
            let mut engine = Engine::new(Arc::clone(&run.board))?;
            engine.add(Session::bulk_peer(
                file,
                board,
                number as u32,
                inbound,
                outbound,
            ))?;
            threads.push(EngineThread::start(engine)?);
        }
        Ok(Self {
            run,
            directions,
            _threads: threads,
        })
    }

    fn lanes(&self) -> impl Iterator<Item = (&Lane, &Directions)> {
        self.run.board.lanes.iter().zip(self.directions)
    }

    fn received_bytes(&self) -> u64 {
        self.lanes()
            .map(|(lane, _)| {
                lane.inbound.received.load(Relaxed) + lane.outbound.received.load(Relaxed)
            })
            .sum()
    }

    fn incomplete(&self) -> usize {
        let is_incomplete = |(lane, ways): &(&Lane, &Directions)| {
            (ways.inbound && !lane.inbound.is_complete())
                || (ways.outbound && !lane.outbound.is_complete())
        };
        self.lanes().filter(is_incomplete).count()
    }

    /// Streams that never moved a byte in one of their ways.
    fn silent(&self) -> usize {
        let is_silent = |(lane, ways): &(&Lane, &Directions)| {
            (ways.inbound && lane.inbound.received.load(Relaxed) == 0)
                || (ways.outbound && lane.outbound.received.load(Relaxed) == 0)
        };
        self.lanes().filter(is_silent).count()
    }

    /// The first bytes include the making of the connections.
    fn warm_up(&self) {
        let deadline = Instant::now() + FIRST_BYTES_LIMIT;
        std::thread::sleep(WARM_UP);
        while self.silent() > 0 && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        for _ in 0..self.silent() {
            let board = &self.run.board;
            board.fail(|| format!("a stream did not move in {FIRST_BYTES_LIMIT:?}"));
        }
    }

    /// Lets the senders end and waits for the bytes under way. What does not come in time is a stalled stream.
    fn finish(self) {
        self.run.board.stop_streams();
        let deadline = Instant::now() + DRAIN_LIMIT;
        while self.incomplete() > 0 && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        for _ in 0..self.incomplete() {
            self.run
                .board
                .fail(|| format!("a stream stalled: not all bytes arrived in {DRAIN_LIMIT:?}"));
        }
        self.run.board.close();
    }
}

/// Measures streams that go these ways.
pub fn measure(run: &Run, directions: &[Directions], window: Duration) -> Result<Values> {
    let streams = Streams::start(run, directions)?;
    streams.warm_up();
    let (watch, received_before) = (CpuWatch::start(run), streams.received_bytes());
    std::thread::sleep(window);
    let (received_after, elapsed) = (streams.received_bytes(), watch.elapsed());
    let cpu_seconds = watch.used_seconds(run);
    streams.finish();
    let gib = (received_after - received_before) as f64 / GIB;
    let mut values = vec![(&metric::GIB_PER_SECOND, gib / elapsed.as_secs_f64())];
    if let Some(cpu_seconds) = cpu_seconds.filter(|_| gib > 0.0) {
        values.push((&metric::CPU_PER_GIB, cpu_seconds / gib));
    }
    Ok(values)
}

/// Measures one connection's round trips while two streams go each way.
pub fn measure_round_trips_beside(run: &Run, window: Duration) -> Result<Values> {
    let up = Directions {
        inbound: true,
        outbound: false,
    };
    let down = Directions {
        inbound: false,
        outbound: true,
    };
    let directions = [up, up, down, down];
    let streams = Streams::start(run, &directions)?;
    streams.warm_up();
    let (received_before, start) = (streams.received_bytes(), Instant::now());
    // The streams keep running while a starved connection is waited for, so a round trip of seconds is seen as such.
    let mut values = round_trip::measure_latency(run, window)?;
    let gib = (streams.received_bytes() - received_before) as f64 / GIB;
    values.push((&metric::GIB_PER_SECOND, gib / start.elapsed().as_secs_f64()));
    streams.finish();
    Ok(values)
}
