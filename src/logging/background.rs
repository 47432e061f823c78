//! A log that never holds anybody up: lines wait in a bounded queue for a thread that writes them.
//!
//! When the queue is full, lines are dropped and counted; the count is told as soon as the log takes lines again.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Log, Metadata, Record};
use nix::sys::signal::{SigSet, SigmaskHow};

/// Lines that may wait.
const CAPACITY: usize = 1024;
/// How long the end of the program waits for lines to be written: where processors are busy the thread gets its turn late.
const FLUSH_TIME: Duration = Duration::from_secs(5);

static BACKGROUND: OnceLock<Background> = OnceLock::new();

/// Makes the logger the program's; a second call, in a test, keeps the first.
pub(super) fn install(writer: env_logger::Logger) {
    let filter = writer.filter();
    let background = BACKGROUND.get_or_init(|| Background {
        writer,
        queue: Mutex::default(),
        arrived: Condvar::new(),
        written: Condvar::new(),
    });
    if log::set_logger(background).is_ok() {
        log::set_max_level(filter);
    }
}

struct Background {
    writer: env_logger::Logger,
    queue: Mutex<Queue>,
    /// A line has come into the queue.
    arrived: Condvar,
    /// A line has been written, and was the last one for now.
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    dropped: u64,
    /// Lines wait or are being written. The thread sleeps only while this is false, so that few lines wake it.
    is_busy: bool,
    /// Somebody waits for the end of that.
    is_flushing: bool,
    has_thread: bool,
}

/// A record that outlives the call that made it.
struct Line {
    level: Level,
    target: String,
    message: String,
    fields: Vec<(String, String)>,
}

impl Log for Background {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.writer.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.writer.matches(record) {
            return;
        }
        let line = Line::new(record);
        let mut queue = self.queue();
        queue.has_thread = queue.has_thread || start();
        if !queue.has_thread {
            drop(queue);
            return self.write(&line);
        }
        if queue.lines.len() == CAPACITY {
            queue.dropped += 1;
        } else {
            queue.lines.push_back(line);
            if !std::mem::replace(&mut queue.is_busy, true) {
                self.arrived.notify_one();
            }
        }
    }

    fn flush(&self) {
        let mut queue = self.queue();
        queue.is_flushing = true;
        let is_busy = |queue: &mut Queue| queue.is_busy;
        drop(self.written.wait_timeout_while(queue, FLUSH_TIME, is_busy));
    }
}

impl Background {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &Line) {
        self.writer.log(
            &Record::builder()
                .level(line.level)
                .target(&line.target)
                .args(format_args!("{}", line.message))
                .key_values(&line.fields)
                .build(),
        );
    }

    fn write_all(&self) {
        let mut queue = self.queue();
        loop {
            let Some(line) = queue.lines.pop_front() else {
                queue.is_busy = false;
                if queue.is_flushing {
                    self.written.notify_all();
                }
                queue = self
                    .arrived
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let dropped = std::mem::take(&mut queue.dropped);
            drop(queue);
            self.write(&line);
            if dropped > 0 {
                self.write(&Line::dropped(dropped));
            }
            queue = self.queue();
        }
    }
}

/// Starts the thread that writes. No signal is for it: whoever handles signals blocks them in its own thread only.
fn start() -> bool {
    let old = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let body = || {
        if let Some(background) = BACKGROUND.get() {
            background.write_all();
        }
    };
    let thread = thread::Builder::new().name("log".into()).spawn(body);
    if let Ok(old) = old {
        // It was the mask a moment ago.
        let _ = old.thread_set_mask();
    }
    thread.is_ok()
}

impl Line {
    fn new(record: &Record<'_>) -> Line {
        let mut fields = Fields(Vec::new());
        // The visitor below cannot fail.
        let _ = record.key_values().visit(&mut fields);
        Line {
            level: record.level(),
            target: record.target().to_owned(),
            message: record.args().to_string(),
            fields: fields.0,
        }
    }

    fn dropped(count: u64) -> Line {
        Line {
            level: Level::Warn,
            target: module_path!().to_owned(),
            message: format!("{count} log lines were dropped while the log took none"),
            fields: Vec::new(),
        }
    }
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}
