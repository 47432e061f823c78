//! Questions and answers: each connection asks again as soon as it has its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::board::LANES;
use crate::cpu_watch::CpuWatch;
use crate::engine::Engine;
use crate::error::{Doing, Result};
use crate::figures::metric::{self, Values};
use crate::figures::stats::percentile;
use crate::run::Run;
use crate::session::{AfterAnswer, Session};
use crate::socket;

const WARM_UP: Duration = Duration::from_millis(50);
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A window without a single answer is kept open this much longer.
const LATE_ANSWER_LIMIT: Duration = Duration::from_secs(3);
const LAST_ANSWER_LIMIT: Duration = Duration::from_secs(5);
const SMALL_BYTES: u32 = 64;
/// Bytes of a split question's first write: the size of a typical frame header.
const HEADER_BYTES: u64 = 8;

struct Load {
    connections: u32,
    size_bytes: u32,
    first_write: u64,
}

struct Outcome {
    sorted_nanoseconds: Vec<u32>,
    elapsed: Duration,
    cpu_seconds: Option<f64>,
}

/// Messages of one size on some connections.
pub fn measure(run: &Run, connections: u32, size_bytes: u32, window: Duration) -> Result<Values> {
    let outcome = ask(
        run,
        &Load {
            connections,
            size_bytes,
            first_write: 0,
        },
        window,
    )?;
    let messages = outcome.sorted_nanoseconds.len() as f64;
    let mut values = latency_values(&outcome);
    values.push((&metric::MESSAGES, messages / outcome.elapsed.as_secs_f64()));
    if let Some(cpu_seconds) = outcome.cpu_seconds.filter(|_| messages > 0.0) {
        values.push((&metric::CPU_PER_MESSAGE, cpu_seconds * 1e6 / messages));
    }
    Ok(values)
}

/// One connection with small messages, latency only.
pub fn measure_latency(run: &Run, window: Duration) -> Result<Values> {
    let load = Load {
        connections: 1,
        size_bytes: SMALL_BYTES,
        first_write: 0,
    };
    Ok(latency_values(&ask(run, &load, window)?))
}

/// One connection whose questions go out in two writes.
pub fn measure_split(run: &Run, window: Duration) -> Result<Values> {
    let load = Load {
        connections: 1,
        size_bytes: SMALL_BYTES,
        first_write: HEADER_BYTES,
    };
    Ok(latency_values(&ask(run, &load, window)?))
}

fn latency_values(outcome: &Outcome) -> Values {
    [(&metric::P50, 0.5), (&metric::P99, 0.99)]
        .into_iter()
        .filter_map(|(metric, share)| {
            let nanoseconds = percentile(&outcome.sorted_nanoseconds, share)?;
            Some((metric, f64::from(nanoseconds) / 1000.0))
        })
        .collect()
}

fn ask(run: &Run, load: &Load, window: Duration) -> Result<Outcome> {
    let mut engine = Engine::new(Arc::clone(&run.board))?;
    for number in 0..load.connections {
        let file =
            socket::connect_to(&run.address).doing(|| format!("connect to {}", run.address))?;
        let (board, stream) = (Arc::clone(&run.board), LANES as u32 + number);
        let after = AfterAnswer::AskAgain;
        engine.add(Session::asker(
            file,
            board,
            stream,
            load.size_bytes,
            load.first_write,
            after,
        ))?;
    }
    warm_up(run, &mut engine, load.connections)?;
    engine.scratch.latencies.clear();
    let (watch, start) = (CpuWatch::start(run), Instant::now());
    turn_until(&mut engine, start + window)?;
    while engine.scratch.latencies.is_empty()
        && start.elapsed() < window + LATE_ANSWER_LIMIT
        && engine.len() > 0
    {
        engine.turn(LATE_ANSWER_LIMIT)?;
    }
    let (elapsed, cpu_seconds) = (start.elapsed(), watch.used_seconds(run));
    let mut sorted_nanoseconds = std::mem::take(&mut engine.scratch.latencies);
    sorted_nanoseconds.sort_unstable();
    finish(run, &mut engine)?;
    Ok(Outcome {
        sorted_nanoseconds,
        elapsed,
        cpu_seconds,
    })
}

/// The first answers include the making of the connections.
fn warm_up(run: &Run, engine: &mut Engine, connections: u32) -> Result<()> {
    let start = Instant::now();
    while engine.scratch.answered < connections.into()
        && start.elapsed() < FIRST_ANSWER_LIMIT
        && engine.len() > 0
    {
        engine.turn(FIRST_ANSWER_LIMIT)?;
    }
    if engine.scratch.answered < connections.into() {
        run.board
            .fail(|| format!("not all first answers came in {FIRST_ANSWER_LIMIT:?}"));
    }
    turn_until(engine, Instant::now() + WARM_UP)
}

/// Each connection still gets the answer to its last question.
fn finish(run: &Run, engine: &mut Engine) -> Result<()> {
    engine.scratch.is_last_answer = true;
    let deadline = Instant::now() + LAST_ANSWER_LIMIT;
    while engine.len() > 0 && Instant::now() < deadline {
        engine.turn(deadline.saturating_duration_since(Instant::now()))?;
    }
    for _ in 0..engine.len() {
        run.board
            .fail(|| format!("a last answer did not come in {LAST_ANSWER_LIMIT:?}"));
    }
    Ok(())
}

fn turn_until(engine: &mut Engine, end: Instant) -> Result<()> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        engine.turn(left)?;
    }
}
