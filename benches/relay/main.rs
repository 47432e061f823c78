//! Load generator and referee of `make bench`: measures vsock-bridge and its peers in turn, on this machine's loopback
//! and unix sockets only. Every received byte is checked.

mod accounting;
mod address;
mod answer;
mod board;
mod campaign;
mod configs;
mod cpu_watch;
mod disturbance;
mod engine;
mod error;
mod figures;
mod greeting;
mod machine;
mod options;
mod outflow;
mod pattern;
mod process;
mod recorder;
mod relays;
mod run;
mod scenario;
mod session;
mod socket;
mod store;
mod work_folder;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::address::Family;
use crate::error::{Doing, Result};
use crate::figures::figure::{baseline, chains, families, relays};
use crate::figures::recording::Recording;
use crate::figures::relay::Relay;
use crate::figures::{goals, plot, summary, table};
use crate::options::Options;

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to be told when stderr is gone.
            let _ = writeln!(io::stderr(), "relay bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; the number of our own wrong bytes and failures.
fn run() -> Result<u64> {
    let options = Options::parse();
    let scenarios = options.scenarios()?;
    if options.list {
        let names: Vec<String> = scenarios.iter().map(|one| one.name()).collect();
        print(&(names.join("\n") + "\n"))?;
        return Ok(0);
    }
    let recording = match &options.from {
        Some(path) => read(path)?,
        None => campaign::measure_all(&options)?,
    };
    show(&options, &recording)?;
    if let Some(path) = &options.plot {
        fs::write(path, plot::draw(&recording)).doing(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &options.summary {
        fs::write(path, summary::draw(&recording)).doing(|| format!("write {}", path.display()))?;
    }
    Ok(faults_of_ours(&recording))
}

fn read(path: &Path) -> Result<Recording> {
    let text = fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
    Recording::parse(&text).doing(|| format!("read {}", path.display()))
}

fn show(options: &Options, recording: &Recording) -> Result<()> {
    let (machine, all) = (&recording.machine, &recording.measurements);
    print(&format!("{}\n{}\n", machine.title(), machine.versions()))?;
    for family in families(all) {
        let (relays, chains) = (relays(all, family), chains(all, family));
        if !relays.is_empty() {
            for baseline in baselines(options, recording, family) {
                let table = table::table(all, family, &relays, baseline);
                print(&format!("\n{table}"))?;
            }
        }
        if !chains.is_empty() {
            // The first is what the others are held against.
            let table = table::table(all, family, &chains, chains[0]);
            print(&format!("\n{table}"))?;
        }
    }
    print(&format!("\n{}", goals::report(all)))?;
    print(&format!("\n{}", table::faults(all)))?;
    print(&table::disturbance(all))?;
    print(&format!("\n{}", table::behind(all)))
}

/// The chosen ones that take part, else the usual one.
fn baselines(options: &Options, recording: &Recording, family: Family) -> Vec<Relay> {
    let all = &recording.measurements;
    let mut baselines = options.baselines.clone();
    baselines.retain(|one| relays(all, family).contains(one));
    if baselines.is_empty() {
        baselines.push(baseline(all, family));
    }
    baselines
}

fn faults_of_ours(recording: &Recording) -> u64 {
    let all = recording.measurements.iter();
    all.filter(|one| one.relay.is_ours())
        .map(|one| one.wrong_bytes + one.failed + u64::from(one.values.is_empty()))
        .sum()
}

fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .doing(|| "print".into())
}
