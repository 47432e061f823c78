//! Short connections: connect, ask, read the answer, close; a number of them at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::board::LANES;
use crate::cpu_watch::CpuWatch;
use crate::engine::Engine;
use crate::error::Result;
use crate::figures::metric::{self, Values};
use crate::run::Run;
use crate::session::{AfterAnswer, Session};
use crate::socket;

const WARM_UP: Duration = Duration::from_millis(50);
const LAST_ANSWER_LIMIT: Duration = Duration::from_secs(3);
const QUESTION_BYTES: u32 = 64;

/// Each leaves a port in TIME_WAIT on both sides of the relay; the kernel has 28 000 for one address.
const MOST_CONNECTIONS: u32 = 20_000;

/// Measures connections per second.
pub fn measure(run: &Run, at_once: u32, window: Duration) -> Result<Values> {
    let mut load = Load {
        run,
        engine: Engine::new(Arc::clone(&run.board))?,
        made: 0,
    };
    load.keep_up(at_once, WARM_UP)?;
    let (watch, answered_before) = (CpuWatch::start(run), load.engine.scratch.answered);
    load.keep_up(at_once, window)?;
    let (answered, elapsed) = (load.engine.scratch.answered, watch.elapsed());
    let cpu_seconds = watch.used_seconds(run);
    load.finish()?;
    let answered = (answered - answered_before) as f64;
    let mut values = vec![(&metric::CONNECTIONS, answered / elapsed.as_secs_f64())];
    if let Some(cpu_seconds) = cpu_seconds.filter(|_| answered > 0.0) {
        values.push((&metric::CPU_PER_CONNECTION, cpu_seconds * 1e6 / answered));
    }
    Ok(values)
}

struct Load<'a> {
    run: &'a Run,
    engine: Engine,
    made: u32,
}

impl Load<'_> {
    /// Replaces each connection that is done, until the time is over or the ports are used up.
    fn keep_up(&mut self, at_once: u32, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end && self.made < MOST_CONNECTIONS {
            while self.engine.len() < at_once as usize && self.made < MOST_CONNECTIONS {
                self.connect()?;
            }
            self.engine
                .turn(end.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        self.made += 1;
        match socket::connect_to(&self.run.address) {
            Ok(file) => {
                let (board, stream) = (Arc::clone(&self.run.board), LANES as u32 + self.made);
                self.engine.add(Session::asker(
                    file,
                    board,
                    stream,
                    QUESTION_BYTES,
                    0,
                    AfterAnswer::Close,
                ))
            }
            Err(error) => {
                self.run
                    .board
                    .fail(|| format!("a peer could not connect: {error}"));
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        let deadline = Instant::now() + LAST_ANSWER_LIMIT;
        while self.engine.len() > 0 && Instant::now() < deadline {
            self.engine
                .turn(deadline.saturating_duration_since(Instant::now()))?;
        }
        for _ in 0..self.engine.len() {
            self.run
                .board
                .fail(|| format!("a short connection had no answer after {LAST_ANSWER_LIMIT:?}"));
        }
        Ok(())
    }
}
