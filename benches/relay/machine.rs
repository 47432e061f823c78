//! What the figures were taken on: machine, kernel, versions. Figures without it mean nothing to anybody else.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::measurement::quote;
use crate::relays::Relay;

/// The first JSON line of a recording.
pub fn to_json(relays: &[Relay], ours: &Path, rounds: usize, seconds: f64) -> String {
    let versions: Vec<String> = relays
        .iter()
        .filter_map(|relay| Some(format!("\"{relay}\":{}", quote(&version(*relay, ours)?))))
        .collect();
    format!(
        r#"{{"kernel":{},"processor":{},"processors":{},"rounds":{rounds},"seconds":{seconds},"versions":{{{}}}}}"#,
        quote(&kernel()),
        quote(&processor()),
        processors(),
        versions.join(",")
    )
}

/// The same for people.
pub fn to_text(relays: &[Relay], ours: &Path) -> String {
    let versions: Vec<String> = relays
        .iter()
        .filter_map(|relay| Some(format!("{relay}: {}", version(*relay, ours)?)))
        .collect();
    format!(
        "Linux {}, {} x {}; {}",
        kernel(),
        processors(),
        processor(),
        versions.join("; ")
    )
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .into()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    model.and_then(|line| line.split_once(": ")).map_or_else(
        || "unknown processor".into(),
        |(_, name)| name.trim().into(),
    )
}

/// The line of the version option that has a number in it; nginx prints it to stderr.
fn version(relay: Relay, ours: &Path) -> Option<String> {
    let output = Command::new(relay.program(ours)?)
        .arg(relay.version_option())
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let has_number =
        |line: &&str| line.contains(|c: char| c.is_ascii_digit()) && line.contains('.');
    text.lines()
        .find(|line| has_number(line) && !line.contains("Gerhard"))
        .map(|line| line.trim().into())
}
