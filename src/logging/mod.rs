//! Where log lines go: to the journal with fields, else to stderr as text.
//!
//! The filter and the terminal's colours are env_logger's, the journal's protocol is libsystemd's. A journal or a pipe
//! that takes no more must not hold up what is relayed, so lines are written by a thread of their own ([`background`]).

mod background;
pub mod event;
mod filter;
pub(crate) mod rate_limit;

use env_logger::fmt::Formatter;
use libsystemd::logging::{Priority, connected_to_journal, journal_send};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use nix::sys::stat::{FileStat, SFlag, fstat};
use std::fs::File;
use std::io::{IsTerminal, Write};

/// The variable with a filter such as `debug` or `vsock_bridge::relay=trace`.
pub const VARIABLE: &str = "VSOCK_BRIDGE_LOG";

/// Writes what still waits, when the program ends; no longer than for a second.
#[derive(Debug)]
#[must_use = "lines that wait are lost when it is not held to the end"]
pub struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        log::logger().flush();
    }
}

/// Sets logging up for a program, once. `-v` and `-q` count up and down from info; the variable overrules them.
pub fn init(program: &'static str, verbose: u8, quiet: u8) -> Flush {
    let level = match i16::from(verbose) - i16::from(quiet) {
        ..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2.. => LevelFilter::Trace,
    };
    let is_journal = connected_to_journal();
    let is_peers = stderr_is_peers();
    let is_terminal = std::io::stderr().is_terminal();
    // A journal or syslog knows the time by itself, and who looks at what a command says does as well.
    let has_time = program == "vsock-bridge" && stderr_is_file();
    let mut builder = env_logger::Builder::new();
    let problems = choose(&mut builder, level);
    builder.format(move |out, record| {
        if is_peers {
            // Nobody is left to be told that the journal takes nothing.
            to_journal(program, record);
            return Ok(());
        }
        // The last words of a program go through the stream, which carries the unit: of a native message of a
        // process that is gone by the time it is read, the journal cannot tell whose it was.
        if is_journal && record.level() != Level::Error && to_journal(program, record) {
            return Ok(());
        }
        if has_time {
            let time = out.timestamp_seconds();
            write!(out, "{time} ")?;
        }
        to_stderr(out, program, record, is_journal, is_terminal)
    });
    background::install(builder.build());
    complain(problems);
    Flush
}

/// Says what is wrong with the command line, before [`init`].
pub(crate) fn say(line: &str) {
    if !stderr_is_peers() {
        eprintln!("{line}");
    }
}

/// Returns whether stderr is the socket that stdin is: xinetd and others have all three lead to the peer, to whom no line of
/// a log may come among its bytes.
fn stderr_is_peers() -> bool {
    let (Ok(input), Ok(error)) = (fstat(std::io::stdin()), fstat(std::io::stderr())) else {
        return false;
    };
    kind(&input) == SFlag::S_IFSOCK && (input.st_dev, input.st_ino) == (error.st_dev, error.st_ino)
}

/// Returns whether stderr is a file, as a service of OpenRC has it.
fn stderr_is_file() -> bool {
    fstat(std::io::stderr()).is_ok_and(|file| kind(&file) == SFlag::S_IFREG)
}

fn kind(file: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT
}

/// Sets logging up for a generator, which runs before the journal and may only use the kernel's log.
pub fn init_generator(program: &'static str) -> Flush {
    let Ok(kmsg) = File::options().write(true).open("/dev/kmsg") else {
        return init(program, 0, 0);
    };
    // Started by hand, for a look.
    if std::io::stderr().is_terminal() {
        return init(program, 0, 0);
    }
    let mut builder = env_logger::Builder::new();
    let problems = choose(&mut builder, LevelFilter::Info);
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
    background::install(builder.build());
    complain(problems);
    Flush
}

/// Sets the level, overruled by the variable; returns what is wrong with that.
fn choose(builder: &mut env_logger::Builder, level: LevelFilter) -> Vec<String> {
    builder.filter_level(level);
    let text = std::env::var_os(VARIABLE).unwrap_or_default();
    let (filter, problems) = filter::read(&text.to_string_lossy());
    if !filter.is_empty() {
        builder.parse_filters(&filter);
    }
    problems
}

fn complain(problems: Vec<String>) {
    for problem in problems {
        log::warn!("{VARIABLE}: {problem}");
    }
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
