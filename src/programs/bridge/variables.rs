//! What is wrong with the settings of a bridge that are variables, told with the place where each is written.
//!
//! A misspelt fence is an open door: what no option knows, and what is no assignment, is as wrong as a wrong value.

use std::collections::HashMap;
use std::env;
use std::error::Error as _;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Arg, Command, CommandFactory, FromArgMatches};

use super::arguments::Arguments;
use super::gateway_options;
use crate::allow_list;
use crate::config_file;
use crate::configured;
use crate::connect;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::known::Known;
use crate::listen;
use crate::listen_list;
use crate::logging;
use crate::names::{self, GivenNames};
use crate::port_list::{self, PortList};
use crate::programs::exec::command::{self, CommandLine};
use crate::target_list::TargetList;

/// Begins the name of each of our variables.
const OURS: &str = "VSOCK_BRIDGE_";
/// Has a file for each unit, and one for all of them.
pub(crate) const FOLDER: &str = "/etc/vsock-bridge";
/// The folder in its place for the service of a user (ConfigurationDirectory=, systemd.exec(5)).
const OF_USER: &str = "CONFIGURATION_DIRECTORY";
/// Letters that may be wrong in a name that is still known for what was meant.
const SLIPS_MAX: usize = 3;

/// One variable, and where it is written: `FILE:LINE`, a unit, or `environment`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
    /// Its place.
    pub(crate) place: String,
}

/// What is wrong with settings, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// With its place.
    pub(crate) text: String,
    /// Whether a bridge starts all the same, since a machine that is not there may be there later.
    pub(crate) is_absence: bool,
}

impl Complaint {
    fn new(text: String) -> Complaint {
        Complaint {
            text,
            is_absence: false,
        }
    }
}

/// Variables in the order in which they overrule each other, and lines that are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    /// The last one of a name holds.
    pub(crate) assigned: Vec<Variable>,
    /// Whole messages.
    problems: Vec<String>,
}

impl Variables {
    /// Reads those of the process. `unit`: the unit that it is, in whose files they may be written.
    pub(crate) fn of_process(unit: Option<&str>) -> Variables {
        let in_files = unit.map(Variables::of_unit).unwrap_or_default();
        let assigned = env::vars_os().filter_map(|(name, value)| {
            let name = name.to_str()?.to_owned();
            let value = value.to_string_lossy().into_owned();
            let is_it = |other: &&Variable| other.name == name && other.value == value;
            let place = in_files.assigned.iter().rfind(is_it);
            let place = place
                .map_or("environment", |other| &*other.place)
                .to_owned();
            name.starts_with(OURS)
                .then_some(Variable { name, value, place })
        });
        let mut variables = Variables {
            assigned: assigned.collect(),
            problems: in_files.problems,
        };
        // What is no name of ours, and looks like one, is in a file only.
        let others = in_files.assigned.into_iter();
        variables
            .assigned
            .extend(others.filter(|other| !other.name.starts_with(OURS)));
        variables
    }

    /// Reads the files of a unit, which is named without `.service`. What its user may not read says nothing.
    pub(crate) fn of_unit(unit: &str) -> Variables {
        let mut variables = Variables::default();
        for path in files(unit) {
            // systemd reads them as root, and has its own word on what it cannot read.
            let _ = variables.read(&path);
        }
        variables
    }

    /// Reads those of Environment= of a unit.
    pub(crate) fn of_environment(assignments: &[String], unit: &str) -> Variables {
        let assigned = assignments.iter().filter_map(|assignment| {
            let (name, value) = assignment.split_once('=')?;
            Some(Variable {
                name: name.to_owned(),
                value: value.to_owned(),
                place: unit.to_owned(),
            })
        });
        Variables {
            assigned: assigned.collect(),
            ..Variables::default()
        }
    }

    /// Returns whether one of the name is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.assigned.iter().any(|variable| variable.name == name)
    }

    /// Adds others, which overrule these.
    pub(crate) fn add(&mut self, others: Variables) {
        self.assigned.extend(others.assigned);
        self.problems.extend(others.problems);
    }

    /// Adds those of a file; one that does not exist has none.
    ///
    /// Errors: those of [`configured::text`].
    pub(crate) fn read(&mut self, path: &Path) -> Result<()> {
        let (settings, problems) = config_file::parse(&configured::text(path)?);
        let place = |line: usize| format!("{}:{line}", path.display());
        self.assigned
            .extend(settings.into_iter().map(|setting| Variable {
                place: place(setting.line),
                name: setting.name,
                value: setting.value,
            }));
        let said = |(line, problem): (usize, String)| format!("{}: {problem}", place(line));
        self.problems.extend(problems.into_iter().map(said));
        Ok(())
    }

    /// Adds those of a file, or the problem that it cannot be read.
    pub(super) fn read_or_tell(&mut self, path: &Path) {
        if let Err(error) = self.read(path) {
            self.problems.push(error.report());
        }
    }

    /// Returns what is wrong with them, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let options = options();
        let mut problems = self.problems.clone();
        let wrong = |variable: &Variable| {
            let problem = problem(variable, &options)?;
            Some(format!("{}: {problem}", variable.place))
        };
        problems.extend(self.assigned.iter().filter_map(wrong));
        problems
    }

    /// Returns what is wrong with them and with what they come to, one line each.
    pub(crate) fn complaints(&self) -> Vec<Complaint> {
        let problems = self.problems();
        match self.arguments() {
            Ok(arguments) if problems.is_empty() => self.together(&arguments),
            _ => problems.into_iter().map(Complaint::new).collect(),
        }
    }

    /// Returns what is wrong with them, or with the options that they and the command line of this process come to.
    pub(super) fn complaints_with(&self, arguments: &Arguments) -> Vec<Complaint> {
        let problems = self.problems();
        match problems.is_empty() {
            true => self.together(arguments),
            false => problems.into_iter().map(Complaint::new).collect(),
        }
    }

    /// Looks up the names that are needed.
    fn together(&self, arguments: &Arguments) -> Vec<Complaint> {
        let names = arguments.machines.names.as_ref();
        if let Some(Err(problem)) = names.map(GivenNames::names) {
            let text = match self.place(names::VARIABLE) {
                "" => problem.to_string(),
                place => format!("{place}: {problem}"),
            };
            return vec![Complaint::new(text)];
        }
        let say = |variable, problem: Error| Complaint {
            text: match self.place(variable) {
                "" => problem.report(),
                place => format!("{place}: {variable}: {}", problem.report()),
            },
            // Where to listen, and who comes to a gateway, is to be known at the start.
            is_absence: problem.is_absence()
                && ![listen_list::VARIABLE, gateway_options::MACHINE].contains(&variable),
        };
        let names = &Known::settled(names);
        let targets = arguments.to.as_ref();
        let target = targets.and_then(|targets| check_names(targets, names).err());
        let allowed = arguments.allow_cid.resolve(names).err();
        let target = target.map(|problem| say("VSOCK_BRIDGE_TO", problem));
        let allowed = allowed.map(|problem| say(allow_list::VARIABLE, problem.into()));
        let listen = listen::addresses(&arguments.listen, names).err();
        let listen = listen.map(|problem| say(listen_list::VARIABLE, problem));
        let machine = gateway_options::wrong_machine(arguments, names);
        let machine = machine.map(|problem| say(gateway_options::MACHINE, problem));
        let mut others = self.stray(arguments);
        others.extend(gateway_options::wrong_rules(arguments));
        let named = target.into_iter().chain(allowed).chain(listen);
        named
            .chain(machine)
            .chain(others.into_iter().map(Complaint::new))
            .collect()
    }

    /// Returns where a variable is written, or nothing.
    pub(crate) fn place(&self, name: &str) -> &str {
        self.last(name).map_or("", |variable| &variable.place)
    }

    /// Returns a line for each that is for a gateway, where the bridge is none.
    pub(super) fn stray(&self, arguments: &Arguments) -> Vec<String> {
        gateway_options::stray(arguments, |name| self.place(name), &common_file())
    }

    /// Returns the one of a name that holds.
    pub(crate) fn last(&self, name: &str) -> Option<&Variable> {
        self.assigned.iter().rfind(|variable| variable.name == name)
    }

    /// Returns those that are not ours, with their values.
    pub(crate) fn of_others(&self) -> Vec<(String, String)> {
        let others = self.assigned.iter();
        others
            .filter(|variable| !variable.name.starts_with(OURS))
            .map(|variable| (variable.name.clone(), variable.value.clone()))
            .collect()
    }

    /// Returns what the options would be; those of the process itself do not count.
    ///
    /// Errors: only where there are problems.
    pub(crate) fn arguments(&self) -> Result<Arguments, clap::Error> {
        let options = options();
        let mut last: HashMap<&str, String> = HashMap::new();
        for Variable { name, value, .. } in &self.assigned {
            if let Some(long) = options.get(name).and_then(Arg::get_long) {
                last.insert(long, format!("--{long}={value}"));
            }
        }
        let words = [String::new()].into_iter().chain(last.into_values());
        let command = Arguments::command().mut_args(|argument| argument.env(Resettable::Reset));
        Arguments::from_arg_matches(&command.try_get_matches_from(words)?)
    }
}

/// Looks up the names of machines in targets; those of hosts are not asked for.
fn check_names(targets: &TargetList, names: &Known<'_>) -> Result<()> {
    for (machines, endpoint) in connect::machines(targets, names)? {
        if let Some((list, _)) = machines {
            list.resolve(names)?;
        }
        match endpoint {
            Endpoint::VsockName { name, port } => {
                names.endpoint(name, *port)?;
            }
            other => other.no_machine_as_host(names)?,
        }
    }
    Ok(())
}

/// Returns the files that a unit reads, in the order in which they overrule each other.
pub(super) fn files(unit: &str) -> [PathBuf; 2] {
    [common_file(), own_file(unit)]
}

/// Returns the file of all units.
pub(super) fn common_file() -> PathBuf {
    folder().join("vsock-bridge.conf")
}

/// Returns the file of a unit, which is named without `.service`.
pub(super) fn own_file(unit: &str) -> PathBuf {
    folder().join(format!("{unit}.conf"))
}

/// Returns the folder with the files.
fn folder() -> PathBuf {
    let given = env::var(OF_USER).unwrap_or_default();
    match given.split(':').next() {
        Some("") | None => PathBuf::from(FOLDER),
        Some(folder) => PathBuf::from(folder),
    }
}

/// Returns the option of each variable.
fn options() -> HashMap<String, Arg> {
    let command = Arguments::command();
    let named = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?.to_str()?.to_owned();
        Some((name, argument.clone().env(Resettable::Reset)))
    });
    named.collect()
}

/// Says what is wrong with one of them, if anything is.
fn problem(variable: &Variable, options: &HashMap<String, Arg>) -> Option<String> {
    let Variable { name, value, place } = variable;
    let others = [port_list::VARIABLE, command::VARIABLE];
    if options.contains_key(name) || others.contains(&&**name) {
        if let Some(problem) = command::wrong_place(name, place) {
            return Some(problem);
        }
    }
    match options.get(name) {
        Some(option) => Some(format!("{name}: {}", wrong_value(option, value)?)),
        None if name == port_list::VARIABLE => wrong_ports(value, place),
        None if name == command::VARIABLE => {
            let problem = value.parse::<CommandLine>().err()?;
            Some(format!("{name}: {problem}"))
        }
        None if value.starts_with(OURS) => Some(format!("this is a line of a unit; write {value}")),
        None => unknown(name, options),
    }
}

fn wrong_value(option: &Arg, value: &str) -> Option<String> {
    let long = option.get_long()?;
    let command = Command::new("").arg(option);
    let error = command
        .try_get_matches_from(["", &format!("--{long}={value}")])
        .err()?;
    let problem = match error.source() {
        Some(cause) => cause.to_string(),
        None => format!("{value:?} is no value"),
    };
    // To systemd as to us it is a part of the value.
    Some(match value.contains(" #") {
        true => format!("{problem}; a comment has a line of its own"),
        false => problem,
    })
}

/// Says what is wrong with a list of ports, which the generator reads in the files of two kinds of instances.
fn wrong_ports(value: &str, place: &str) -> Option<String> {
    const NAME: &str = port_list::VARIABLE;
    let is_read = ["vsock-bridge@", "vsock-bridge-ipv6@"]
        .iter()
        .filter_map(|kind| place.strip_prefix(&format!("{FOLDER}/{kind}")))
        // Without a name of an instance it is the file of no unit.
        .any(|instance| !instance.starts_with(".conf:"));
    let is_in_folder = place.starts_with(&*folder().to_string_lossy());
    if is_in_folder && !is_read {
        return Some(format!(
            "{NAME} has no effect here: it is for the file of an instance, such as {FOLDER}/vsock-bridge@8000.conf"
        ));
    }
    let problem = value.parse::<PortList>().err()?;
    Some(format!("{NAME}: {problem}"))
}

/// Says that no option has the name, unless it is another's, and which one may be meant.
fn unknown(name: &str, options: &HashMap<String, Arg>) -> Option<String> {
    if name == logging::VARIABLE {
        return None;
    }
    let known = options.keys().map(String::as_str);
    let meant = meant(name, known.chain([port_list::VARIABLE, command::VARIABLE]));
    if meant.is_none() && !name.starts_with(OURS) {
        return None;
    }
    let question = meant.map(|meant| format!(", did you mean {meant}?"));
    let question = question.unwrap_or_else(|| "; see vsock-bridge(8)".to_owned());
    Some(format!("{name} is not a setting of vsock-bridge{question}"))
}

/// Finds the name that differs in the fewest letters, and few; or that has beginning or end besides.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_uppercase().replace('-', "_");
    let distance = |known: &str| {
        let rest = known.trim_start_matches(OURS);
        match rest == name || known.starts_with(&format!("{name}_")) {
            true => 0,
            false => strsim::osa_distance(known, &name),
        }
    };
    let slips = |known: &str| (known.len() - OURS.len()) / 2;
    known
        .map(|known| (distance(known), known))
        .filter(|&(distance, known)| distance <= slips(known).min(SLIPS_MAX))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, value: &str) -> Vec<String> {
        let variable = Variable {
            name: name.to_owned(),
            value: value.to_owned(),
            place: "x.conf:1".to_owned(),
        };
        let variables = Variables {
            assigned: vec![variable],
            ..Variables::default()
        };
        variables.problems()
    }

    #[test]
    fn a_wrong_value_is_told_with_place_and_variable() {
        for (name, value, words) in [
            ("IDLE_TIMEOUT", "5x", "\"5x\" is not a valid time: expected"),
            ("TO", "[::1]", "\"[::1]\" is not a valid"),
            ("MAX_CONNECTIONS", "", "\"\" is not a valid limit"),
            ("CRASH_PROOF", "maybe", "\"maybe\" is not a valid switch"),
        ] {
            let name = format!("{OURS}{name}");
            let [problem] = &problems(&name, value)[..] else {
                panic!("{name}={value}: not one problem")
            };
            let begin = format!("x.conf:1: {name}: {words}");
            assert!(problem.starts_with(&begin), "{problem}");
        }
    }

    #[test]
    fn what_is_right_or_not_ours_is_no_problem() {
        for (name, value) in [
            ("VSOCK_BRIDGE_TO", "[::1]:445"),
            ("VSOCK_BRIDGE_IDLE_TIMEOUT", "5"),
            ("VSOCK_BRIDGE_LOG", "debug"),
            ("VSOCK_BRIDGE_NAMES", "names have their own line"),
            ("RES_OPTIONS", "timeout:1"),
            ("TZ", "UTC"),
            ("PATH", "/bin"),
        ] {
            assert_eq!(problems(name, value), [""; 0], "{name}");
        }
    }

    #[test]
    fn the_name_that_is_meant_is_found() {
        for (name, meant) in [
            ("VSOCK_BRIDGE_ALOW_CID", Some("ALLOW_CID")),
            ("VSOCK_BRIDGE_ALLOW_CIDS", Some("ALLOW_CID")),
            ("VSOCK_BRIDGE_ALLOWCID", Some("ALLOW_CID")),
            ("ALLOW_CID", Some("ALLOW_CID")),
            ("vsock_bridge_allow_cid", Some("ALLOW_CID")),
            ("VSOCK-BRIDGE-TO", Some("TO")),
            ("VSOCKBRIDGE_IDLE_TIMEOUT", Some("IDLE_TIMEOUT")),
            ("VSOCK_BRIDGE_IDEL_TIMEOUT", Some("IDLE_TIMEOUT")),
            ("VSOCK_BRIDGE_NAME", Some("NAMES")),
            ("VSOCK_BRIDGE_ALLOW", Some("ALLOW_CID")),
            ("VSOCK_BRIDGE_XY", None),
            ("VSOCK_BRIDGE_SOMETHING_ELSE", None),
        ] {
            let options = options();
            let found = super::meant(name, options.keys().map(String::as_str));
            let meant = meant.map(|meant| format!("{OURS}{meant}"));
            assert_eq!(found, meant.as_deref(), "{name}");
        }
    }

    /// Other programs warn of what they take for a slip.
    #[test]
    fn no_setting_is_taken_for_a_slip_of_another() {
        let options = options();
        let known = options.keys().map(String::as_str);
        let others = [port_list::VARIABLE, command::VARIABLE, logging::VARIABLE];
        for name in known.chain(others) {
            assert_eq!(configured::meant(name), None, "{name}");
        }
    }

    #[test]
    fn the_last_of_a_name_is_the_option() {
        let mut variables = Variables::default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.conf");
        let text = "VSOCK_BRIDGE_TO=[::1]:1\nVSOCK_BRIDGE_TO=[::1]:2\nALLOW\n";
        std::fs::write(&path, text).unwrap();
        variables.read(&path).unwrap();
        let to = variables.arguments().unwrap().to.unwrap();
        assert_eq!(to.to_string(), "[::1]:2");
        let problems = variables.problems();
        let begin = format!("{}:3: expected NAME=value", path.display());
        assert!(
            problems[0].starts_with(&begin) && problems.len() == 1,
            "{problems:?}"
        );
    }
}
