//! `--check`: what is wrong with the settings of this process, or of a unit as systemd would start it.

use std::process::ExitCode;

use super::arguments::{Arguments, NO_TARGET};
use super::variables::{self, Complaint, Variables};
use crate::listen_list;
use crate::programs::ctl::check::units::{self, Unasked, Unit};
use crate::programs::exec::command;

/// Begins each line, as in the log.
const PROGRAM: &str = "vsock-bridge";

/// Says what is wrong, one line each; 2 if anything is. Without a name of a unit the settings are those of this process.
pub(super) fn say(unit: &str, arguments: &Arguments) -> ExitCode {
    let complaints = match unit {
        "" => of_process(arguments),
        unit => {
            let service = unit.strip_suffix(".service");
            let name = service.or_else(|| unit.strip_suffix(".socket"));
            of_unit(name.unwrap_or(unit))
        }
    };
    for complaint in &complaints {
        eprintln!("{PROGRAM}: {complaint}");
    }
    match complaints.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(2),
    }
}

fn of_process(arguments: &Arguments) -> Vec<String> {
    let mut complaints = texts(Variables::of_process(None).complaints_with(arguments));
    if arguments.to.is_none() {
        complaints.push(NO_TARGET.to_owned());
    }
    complaints
}

/// A machine that is not there now may be misspelt as well, so that it is told like the rest.
fn texts(complaints: Vec<Complaint>) -> Vec<String> {
    complaints.into_iter().map(|one| one.text).collect()
}

/// Those of the environment are overruled by Environment= of the unit, and that by its files. A file that cannot be read is
/// a complaint: systemd leaves it out as well, and with it a list of machines; or it reads more than this user may, and what
/// is wrong in it stays unknown.
fn of_unit(name: &str) -> Vec<String> {
    // systemctl would take it for several, and nothing is wrong with none.
    if name.is_empty() || name.contains(['*', '?', '[', '/']) {
        return vec![format!(
            "{name:?} is not the name of one unit, such as vsock-bridge@445"
        )];
    }
    if name.starts_with(command::UNIT) {
        return of_port(name);
    }
    let mut variables = Variables::of_process(None);
    let [known, socket] = ask(name);
    let is_known = known
        .as_ref()
        .is_none_or(|service| service.load != "not-found");
    let own_file = variables::own_file(name);
    let file = own_file.display();
    if known.is_none() && own_file.symlink_metadata().is_err() {
        return vec![format!(
            "there is no file {file}, and no systemd that tells of a unit {name}.service"
        )];
    }
    if !is_known && !own_file.exists() {
        return vec![format!(
            "there is neither a unit {name}.service nor a file {file}"
        )];
    }
    let Some(service) = known.filter(|_| is_known) else {
        for path in variables::files(name) {
            variables.read_or_tell(&path);
        }
        return texts(variables.complaints());
    };
    variables.add(Variables::of_environment(&service.environment, &service.id));
    for path in &service.environment_files {
        variables.read_or_tell(path);
    }
    let mut complaints = texts(variables.complaints());
    if !variables.has("VSOCK_BRIDGE_TO") && !service.command.contains(" --to") {
        complaints.push(format!("{}: {NO_TARGET}", service.id));
    }
    let socket = socket.filter(|socket| socket.load == "loaded");
    complaints.extend(socket.and_then(|socket| listens_twice(&variables, &socket.id)));
    complaints
}

/// Those of the connections to a port, whose services read the file themselves.
fn of_port(name: &str) -> Vec<String> {
    let mut variables = Variables::of_process(None);
    for path in variables::files(name) {
        variables.read_or_tell(&path);
    }
    let mut complaints = texts(variables.complaints());
    if !variables.has(command::VARIABLE) {
        let (file, example) = (variables::own_file(name), command::EXAMPLE);
        complaints.push(format!(
            "{name} has no command: write one into {}, such as {example}",
            file.display()
        ));
    }
    complaints
}

/// Says that a bridge whose socket systemd opens is to listen by itself as well, which no bridge can.
pub(crate) fn listens_twice(variables: &Variables, socket: &str) -> Option<String> {
    let name = listen_list::VARIABLE;
    let place = Some(variables.place(name)).filter(|place| !place.is_empty())?;
    Some(format!(
        "{place}: {name} is for running without systemd, and {socket} listens for this bridge: take it out, and add \
         ListenStream= to that unit for another address"
    ))
}

/// Asks systemd for a service and its socket; where it does not run, there are files alone.
fn ask(name: &str) -> [Option<Unit>; 2] {
    match units::with_socket(units::Manager::System, name) {
        Ok(units) => units,
        Err(Unasked::NoSystemd) => [None, None],
        Err(Unasked::Failed(problem)) => {
            eprintln!("{PROGRAM}: Environment= of {name}.service is left out: {problem}");
            [None, None]
        }
    }
}
