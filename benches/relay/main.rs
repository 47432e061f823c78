//! Load generator and referee of `make bench`: measures vsock-bridge and its peers in turn, on this machine's loopback
//! and unix sockets only. Every received byte is checked.

mod accounting;
mod address;
mod answer;
mod board;
mod configs;
mod cpu_watch;
mod disturbance;
mod engine;
mod error;
mod greeting;
mod machine;
mod measurement;
mod metric;
mod options;
mod outflow;
mod pattern;
mod process;
mod recorder;
mod relays;
mod report;
mod run;
mod scenario;
mod session;
mod socket;
mod stats;
mod work_folder;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::address::Family;
use crate::disturbance::Disturbance;
use crate::error::{Doing, Result};
use crate::measurement::Measurement;
use crate::options::Options;
use crate::recorder::Recorder;
use crate::relays::Relay;
use crate::run::{Place, Run};
use crate::scenario::Scenario;
use crate::work_folder::WorkFolder;

/// Enough for relays that take six descriptors for each of 9 000 connections.
const DESCRIPTORS: u64 = 100_000;

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
    raise_descriptor_limit()?;
    let folder = WorkFolder::create()?;
    let ours = folder.copy_program(&options.ours())?;
    let place = Place {
        folder: folder.path().into(),
        ours,
        window: options.window()?,
    };
    let relays = present_relays(&options, &place);
    let mut recorder = Recorder::create(
        &options.out(),
        &machine::to_json(
            &relays,
            &place.ours,
            options.rounds(),
            place.window.as_secs_f64(),
        ),
    )?;
    print(&format!("{}\n", machine::to_text(&relays, &place.ours)))?;
    for family in &options.families {
        measure_family(
            &options,
            &scenarios,
            &relays,
            *family,
            &place,
            &mut recorder,
        )?;
        print_tables(&options, recorder.measurements(), &relays, *family)?;
    }
    let all = recorder.measurements();
    print(&format!("\n{}", report::faults(all, &relays)))?;
    print(&report::disturbance(all))?;
    Ok(faults_of_ours(recorder.measurements()))
}

/// Rounds outside, relays inside: what disturbs the machine for a while meets all relays alike.
fn measure_family(
    options: &Options,
    scenarios: &[Scenario],
    relays: &[Relay],
    family: Family,
    place: &Place,
    recorder: &mut Recorder,
) -> Result<()> {
    let able: Vec<Relay> = relays
        .iter()
        .copied()
        .filter(|relay| relay.supports(family))
        .collect();
    for round in 1..=options.rounds() {
        for scenario in scenarios {
            for turn in 0..able.len() {
                // Nobody always runs first.
                let relay = able[(turn + round) % able.len()];
                if relay.can_hold(scenario.connections()) {
                    recorder.add(measure(place, relay, family, *scenario, round))?;
                }
            }
        }
    }
    Ok(())
}

fn measure(
    place: &Place,
    relay: Relay,
    family: Family,
    scenario: Scenario,
    round: usize,
) -> Measurement {
    let mut measurement = Measurement {
        round,
        family,
        scenario: scenario.name(),
        relay,
        values: Vec::new(),
        wrong_bytes: 0,
        failed: 0,
        disturbance: 0.0,
        complaint: None,
    };
    match Run::start(place, relay, family, scenario.is_unprivileged()) {
        Err(error) => measurement.complaint = Some(error.to_string()),
        Ok(run) => {
            let disturbance = Disturbance::watch(&run);
            match scenario.measure(&run, place.window) {
                Ok(values) => measurement.values = values,
                Err(error) => measurement.complaint = Some(error.to_string()),
            }
            measurement.disturbance = disturbance.processors(&run);
            measurement.wrong_bytes = run.board.wrong_bytes();
            measurement.failed = run.board.failed();
            measurement.complaint = measurement.complaint.or(run.board.first_failure());
        }
    }
    measurement
}

fn print_tables(
    options: &Options,
    all: &[Measurement],
    relays: &[Relay],
    family: Family,
) -> Result<()> {
    let able: Vec<Relay> = options
        .baselines
        .iter()
        .copied()
        .filter(|one| relays.contains(one) && one.supports(family))
        .collect();
    // Where no baseline can go, socat can.
    let baselines = if able.is_empty() {
        vec![Relay::Socat]
    } else {
        able
    };
    for baseline in baselines {
        print(&format!(
            "\n{}",
            report::table(all, family, relays, baseline)
        ))?;
    }
    Ok(())
}

fn faults_of_ours(all: &[Measurement]) -> u64 {
    let ours = all.iter().filter(|one| one.relay == Relay::Ours);
    ours.map(|one| one.wrong_bytes + one.failed + u64::from(one.values.is_empty()))
        .sum()
}

fn present_relays(options: &Options, place: &Place) -> Vec<Relay> {
    let is_present = |relay: &Relay| {
        let program = relay.program(&place.ours);
        let is_present = program.as_ref().is_none_or(|path| path.exists());
        if let (false, Some(path)) = (is_present, &program) {
            // Nothing is left to be told when stderr is gone.
            let _ = writeln!(
                io::stderr(),
                "relay bench: {relay} is left out, there is no {}",
                path.display()
            );
        }
        is_present
    };
    options.relays.iter().copied().filter(is_present).collect()
}

/// Relays inherit it. Without the right to raise the limit, large numbers of idle connections fail and say so.
fn raise_descriptor_limit() -> Result<()> {
    if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_ok() {
        return Ok(());
    }
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).doing(|| "read the limit for descriptors".into())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .doing(|| "raise the limit for descriptors".into())
}

fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .doing(|| "print".into())
}
