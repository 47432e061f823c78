//! Finds out what the figures are taken on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use crate::figures::recording::Machine;
use crate::figures::relay::Relay;

/// Looks at this machine and asks the relays for their versions.
pub fn look(relays: &[Relay], ours: &Path, rounds: usize, seconds: f64) -> Machine {
    let versions = relays
        .iter()
        .filter_map(|relay| Some((*relay, version(*relay, ours)?)));
    Machine {
        date: today(),
        kernel: kernel(),
        processor: processor(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        rounds,
        seconds,
        versions: versions.collect(),
    }
}

fn today() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.split('T').next().unwrap_or_default().into()
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .into()
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    model.and_then(|line| line.split_once(": ")).map_or_else(
        || "unknown processor".into(),
        |(_, name)| name.trim().into(),
    )
}

/// The first word that is a number with a point in it, as in "nginx/1.22.1" or "systemd 252 (252.39)".
fn version(relay: Relay, ours: &Path) -> Option<String> {
    let output = Command::new(relay.program(ours)?)
        .arg(relay.version_option())
        .output()
        .ok()?;
    // nginx prints it to stderr.
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .split(|c: char| c.is_whitespace() || "/()".contains(c))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(Into::into)
}
