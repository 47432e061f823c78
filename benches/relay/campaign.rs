//! One run of the bench: every relay in every scenario, round after round.

use std::io::{self, Write};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::address::Family;
use crate::disturbance::Disturbance;
use crate::error::{Doing, Result};
use crate::figures::measurement::Measurement;
use crate::figures::recording::Recording;
use crate::figures::relay::Relay;
use crate::machine;
use crate::options::Options;
use crate::recorder::Recorder;
use crate::run::{Place, Run};
use crate::scenario::Scenario;
use crate::work_folder::WorkFolder;

/// Enough for relays that take six descriptors for each of 9 000 connections.
const DESCRIPTORS: u64 = 100_000;

/// Measures all that the options ask for.
pub fn measure_all(options: &Options) -> Result<Recording> {
    raise_descriptor_limit()?;
    let folder = WorkFolder::create()?;
    let place = Place {
        folder: folder.path().into(),
        ours: folder.copy_program(&options.ours())?,
        window: options.window()?,
    };
    let relays = present_relays(options, &place);
    let (rounds, seconds) = (options.rounds(), place.window.as_secs_f64());
    let machine = machine::look(&relays, &place.ours, rounds, seconds);
    let mut recorder = Recorder::create(&options.out(), machine)?;
    for family in &options.families {
        measure_family(options, &relays, *family, &place, &mut recorder)?;
    }
    Ok(recorder.into_recording())
}

/// Rounds outside, relays inside: what disturbs the machine for a while meets all relays alike.
fn measure_family(
    options: &Options,
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
    let scenarios = options.scenarios()?;
    for round in 1..=options.rounds() {
        for scenario in &scenarios {
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
