//! Where log lines go: to the journal with fields, else to stderr as text.
//!
//! The filter and the terminal's colours are env_logger's, the journal's protocol is libsystemd's.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use env_logger::fmt::Formatter;
use libsystemd::logging::{Priority, connected_to_journal, journal_send};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};

use crate::clock::Moment;

/// The variable with a filter such as `debug` or `vsock_bridge::relay=trace`.
pub const VARIABLE: &str = "VSOCK_BRIDGE_LOG";

/// Sets logging up for a program, once. `-v` and `-q` count up and down from info; the variable overrules them.
pub fn init(program: &'static str, verbose: u8, quiet: u8) {
    let level = match i16::from(verbose) - i16::from(quiet) {
        ..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2.. => LevelFilter::Trace,
    };
    let is_journal = connected_to_journal();
    let is_terminal = std::io::stderr().is_terminal();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_env(VARIABLE);
    builder.format(move |out, record| {
        // The last words of a program go through the stream, which carries the unit: of a native message of a
        // process that is gone by the time it is read, the journal cannot tell whose it was.
        if is_journal && record.level() != Level::Error && to_journal(program, record) {
            return Ok(());
        }
        to_stderr(out, program, record, is_journal, is_terminal)
    });
    // A second call, in a test, keeps the first.
    let _ = builder.try_init();
}

/// Sets logging up for a generator, which runs before the journal and may only use the kernel's log.
pub fn init_generator(program: &'static str) {
    let Ok(kmsg) = File::options().write(true).open("/dev/kmsg") else {
        return init(program, 0, 0);
    };
    // Started by hand, for a look.
    if std::io::stderr().is_terminal() {
        return init(program, 0, 0);
    }
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info).parse_env(VARIABLE);
    builder.target(env_logger::Target::Pipe(Box::new(kmsg)));
    let pid = std::process::id();
    builder.format(move |out, record| {
        writeln!(
            out,
            "<{}>{program}[{pid}]: {}",
            u8::from(priority(record.level())),
            record.args()
        )
    });
    let _ = builder.try_init();
}

/// Writes the record with its key-values as fields; false when the journal does not take it.
fn to_journal(program: &str, record: &Record<'_>) -> bool {
    let mut fields = Fields(vec![("SYSLOG_IDENTIFIER".to_owned(), program.to_owned())]);
    // The visitor below cannot fail.
    let _ = record.key_values().visit(&mut fields);
    journal_send(
        priority(record.level()),
        &record.args().to_string(),
        fields.0.into_iter(),
    )
    .is_ok()
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        // MESSAGE_ID and the like are the journal's own names; all others are ours.
        let name = match key.as_str() {
            "message_id" | "errno" => key.as_str().to_uppercase(),
            own => format!("VSOCK_BRIDGE_{}", own.to_uppercase()),
        };
        self.0.push((name, value.to_string()));
        Ok(())
    }
}

fn to_stderr(
    out: &mut Formatter,
    program: &str,
    record: &Record<'_>,
    is_journal: bool,
    is_terminal: bool,
) -> std::io::Result<()> {
    let (level, message) = (record.level(), record.args());
    if is_journal {
        // The journal reads its level from `<N>` (sd-daemon(3)).
        return writeln!(out, "<{}>{message}", u8::from(priority(level)));
    }
    let word = match level {
        // Nothing else than errors is what one expects without a word.
        Level::Error => return writeln!(out, "{program}: {message}"),
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    if is_terminal {
        let style = out.default_level_style(level);
        return writeln!(out, "{program}: {style}{word}{style:#}: {message}");
    }
    writeln!(out, "{program}: {word}: {message}")
}

fn priority(level: Level) -> Priority {
    match level {
        Level::Error => Priority::Error,
        Level::Warn => Priority::Warning,
        Level::Info => Priority::Info,
        Level::Debug | Level::Trace => Priority::Debug,
    }
}

/// Lets some lines of a kind through in each interval, and counts the others.
#[derive(Debug, Default)]
pub struct RateLimit {
    begun: Option<Moment>,
    passed: u32,
    suppressed: u64,
}

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(5);
    const BURST: u32 = 10;

    /// Asks whether a line may be written now; gives the number of lines that were left out before it.
    pub fn admit(&mut self, now: Moment) -> Option<u64> {
        if self
            .begun
            .is_none_or(|begun| begun + RateLimit::INTERVAL <= now)
        {
            self.begun = Some(now);
            self.passed = 0;
        }
        if self.passed == RateLimit::BURST {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_a_burst_and_counted() {
        let start = Moment::now();
        let mut limit = RateLimit::default();
        let passed = (0..1000).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(passed, RateLimit::BURST as usize);
        assert_eq!(limit.admit(start + RateLimit::INTERVAL), Some(990));
        assert_eq!(limit.admit(start + RateLimit::INTERVAL), Some(0));
    }
}
