//! Idle connections: what each costs while it is silent, and what they do to the ones that are not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accounting::{Footprint, footprint};
use crate::board::LANES;
use crate::engine::Engine;
use crate::error::{Doing, Result};
use crate::figures::metric::{self, Values};
use crate::run::Run;
use crate::scenario::bulk::{self, Directions};
use crate::scenario::round_trip;
use crate::session::{AfterAnswer, Session};
use crate::socket;

/// Connections that are being made at the same time.
const OPENING_AT_ONCE: u64 = 32;
/// Without one more connection in this time the relay is taken to be full.
const PROGRESS_LIMIT: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_millis(200);
const QUESTION_BYTES: u32 = 64;
/// Numbers of held connections start here, away from those of the busy ones.
const FIRST_STREAM: u32 = 2 * LANES as u32;
const HELD_BESIDE_BULK: u32 = 300;
const STREAMS_BESIDE_HELD: usize = 4;
const MIB: f64 = (1u64 << 20) as f64;

/// Holds connections; each has done one round trip.
pub fn measure(run: &Run, connections: u32, window: Duration) -> Result<Values> {
    // The kernel frees the sockets of the run before with a delay.
    std::thread::sleep(SETTLE);
    let before = footprint(run.group());
    let held = hold(run, connections)?;
    let after = footprint(run.group());
    let mut values = footprint_values(run, &before, &after, connections);
    // Answers of one busy connection, in the presence of the others.
    values.extend(round_trip::measure_latency(run, window / 2)?);
    drop(held);
    Ok(values)
}

fn footprint_values(run: &Run, before: &Footprint, after: &Footprint, connections: u32) -> Values {
    let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(connections);
    let mut values = vec![(
        &metric::SLAB_PER_CONNECTION,
        each(before.slab_bytes, after.slab_bytes),
    )];
    if run.group().is_some() {
        values.push((
            &metric::RSS_PER_CONNECTION,
            each(before.rss_bytes, after.rss_bytes),
        ));
        values.push((&metric::RSS_TOTAL, after.rss_bytes as f64 / MIB));
        values.push((
            &metric::DESCRIPTORS,
            each(before.descriptors, after.descriptors),
        ));
    }
    values
}

/// Measures four streams next to held connections.
pub fn measure_bulk_beside(run: &Run, window: Duration) -> Result<Values> {
    let held = hold(run, HELD_BESIDE_BULK)?;
    let up = Directions {
        inbound: true,
        outbound: false,
    };
    let values = bulk::measure(run, &[up; STREAMS_BESIDE_HELD], window)?;
    drop(held);
    Ok(values)
}

/// Opens connections that stay silent after one round trip.
fn hold(run: &Run, connections: u32) -> Result<Engine> {
    let mut engine = Engine::new(Arc::clone(&run.board))?;
    let mut progress = (0, Instant::now());
    let mut opened = 0;
    while engine.scratch.answered < connections.into() {
        let answered = engine.scratch.answered;
        if answered > progress.0 {
            progress = (answered, Instant::now());
        }
        if progress.1.elapsed() > PROGRESS_LIMIT || engine.len() < opened as usize {
            return Err(run.complaint(&format!("it holds only {answered} connections")));
        }
        while opened < connections && u64::from(opened) < answered + OPENING_AT_ONCE {
            let file =
                socket::connect_to(&run.address).doing(|| format!("connect to {}", run.address))?;
            let (board, stream) = (Arc::clone(&run.board), FIRST_STREAM + opened);
            engine.add(Session::asker(
                file,
                board,
                stream,
                QUESTION_BYTES,
                0,
                AfterAnswer::Hold,
            ))?;
            opened += 1;
        }
        engine.turn(PROGRESS_LIMIT)?;
    }
    std::thread::sleep(SETTLE);
    Ok(engine)
}
