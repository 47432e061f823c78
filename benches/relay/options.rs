//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::address::{Family, ORDINARY};
use crate::error::{Error, Result};
use crate::figures::relay::Relay;
use crate::scenario::{self, Scenario};

const QUICK_ROUNDS: usize = 2;
const QUICK_SECONDS: f64 = 0.3;

/// Compares relays: all of them in turn within each round.
#[derive(Debug, clap::Parser)]
#[command(name = "relay")]
pub struct Options {
    /// Two short rounds, without the largest numbers of idle connections
    #[arg(long)]
    pub quick: bool,
    /// Rounds
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long each scenario measures
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Kinds of listener and target: tcp6, unix or vsock each (vsock needs its loopback transport)
    #[arg(long, value_delimiter = ',', default_value = ORDINARY, value_name = "INBOUND-OUTBOUND,...")]
    pub families: Vec<Family>,
    /// Scenarios whose names begin like this; default: all
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    scenarios: Vec<String>,
    /// Relays; those that are not installed are left out
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,proxyd,proxyd-next,ours,socat,haproxy,nginx,two,gateway"
    )]
    pub relays: Vec<Relay>,
    /// Whom the ratios refer to, a table for each; default: proxyd, or socat where proxyd cannot go
    #[arg(long, value_enum, value_delimiter = ',', value_name = "RELAY,...")]
    pub baselines: Vec<Relay>,
    /// Our program; default: next to this one
    #[arg(long, value_name = "PATH")]
    ours: Option<PathBuf>,
    /// Where the JSON lines go; default: target/bench/relay.jsonl next to this program
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Shows this recorded run instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub from: Option<PathBuf>,
    /// Draws the main figures as an SVG picture
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Draws six of them as a small SVG picture
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Prints the scenarios and ends
    #[arg(long)]
    pub list: bool,
    /// Given by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// How often all relays are measured.
    pub fn rounds(&self) -> usize {
        self.rounds
            .unwrap_or(if self.quick { QUICK_ROUNDS } else { 5 })
    }

    /// How long each scenario measures.
    pub fn window(&self) -> Result<Duration> {
        let seconds = self
            .seconds
            .unwrap_or(if self.quick { QUICK_SECONDS } else { 0.6 });
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|window| (0.05..=60.0).contains(&window.as_secs_f64()))
            .ok_or_else(|| {
                Error::Usage(format!("--seconds {seconds}: must be between 0.05 and 60"))
            })
    }

    /// The chosen scenarios, in their fixed order.
    pub fn scenarios(&self) -> Result<Vec<Scenario>> {
        let all = scenario::all();
        let unknown =
            |begin: &&String| !all.iter().any(|one| one.name().starts_with(begin.as_str()));
        if let Some(begin) = self.scenarios.iter().find(unknown) {
            return Err(Error::Usage(format!(
                "--scenarios {begin}: no scenario begins like this, see --list"
            )));
        }
        let is_chosen = |one: &Scenario| match self.scenarios.is_empty() {
            true => !self.quick || one.is_quick(),
            false => self
                .scenarios
                .iter()
                .any(|begin| one.name().starts_with(begin.as_str())),
        };
        Ok(all.into_iter().filter(is_chosen).collect())
    }

    /// Our program.
    pub fn ours(&self) -> PathBuf {
        self.ours
            .clone()
            .unwrap_or_else(|| profile_folder().join("vsock-bridge"))
    }

    /// The file for JSON lines.
    pub fn out(&self) -> PathBuf {
        self.out
            .clone()
            .unwrap_or_else(|| profile_folder().join("../bench/relay.jsonl"))
    }
}

/// `target/release`: cargo puts a bench into `deps` below the folder of the programs.
fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program
        .ancestors()
        .nth(2)
        .map_or_else(|| ".".into(), PathBuf::from)
}
