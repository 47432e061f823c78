//! Keeps the measurements: in memory for the table, and at once as JSON lines, so that a run that is cut short is not lost.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Doing, Result};
use crate::figures::measurement::Measurement;
use crate::figures::recording::{Machine, Recording};

/// Keeps the measurements.
pub struct Recorder {
    path: PathBuf,
    file: File,
    recording: Recording,
}

impl Recorder {
    /// Starts a new file with its first line.
    pub fn create(path: &Path, machine: Machine) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).doing(|| format!("create {}", folder.display()))?;
        }
        let file = File::create(path).doing(|| format!("create {}", path.display()))?;
        let mut recorder = Self {
            path: path.into(),
            file,
            recording: Recording {
                machine: machine.clone(),
                measurements: Vec::new(),
            },
        };
        recorder.write_line(&machine)?;
        Ok(recorder)
    }

    /// Writes a measurement, shows it, and keeps it.
    pub fn add(&mut self, measurement: Measurement) -> Result<()> {
        self.write_line(&measurement)?;
        show_progress(&measurement);
        self.recording.measurements.push(measurement);
        Ok(())
    }

    /// All of them.
    pub fn into_recording(self) -> Recording {
        self.recording
    }

    fn write_line(&mut self, content: &impl Serialize) -> Result<()> {
        let path = self.path.display();
        let line = serde_json::to_string(content).doing(|| format!("write {path}"))?;
        writeln!(self.file, "{line}").doing(|| format!("write {path}"))
    }
}

fn show_progress(one: &Measurement) {
    let figures: Vec<String> = one
        .values
        .iter()
        .map(|(metric, value)| format!("{} {value:.*}", metric.label, metric.decimals))
        .collect();
    let complaint = one
        .complaint
        .as_deref()
        .map(|text| format!(" [{text}]"))
        .unwrap_or_default();
    let (round, family, scenario, relay) = (one.round, one.family, &one.scenario, one.relay);
    // Progress is a courtesy: nobody may be looking.
    let _ = writeln!(
        io::stderr(),
        "{round} {family} {scenario} {relay}: {}{complaint}",
        figures.join(", ")
    );
}
