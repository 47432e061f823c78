//! `vsockctl machines`: the machines that have a name, by configuration, the registry, systemd-machined or libvirt.
//!
//! A line is a name with its CID: what says the same about both is one line, what does not is two.

use std::path::Path;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::bridges::complain;
use super::output;
use super::publish;
use super::table::{self, Cell, Column};
use crate::config_file;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::managers::{Answer, Managed, Manager};
use crate::names::{self, GivenNames, Names};
use crate::registry::Registry;
use crate::vsock::Cid;

/// For everything that a manager is asked.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The state that matters most where several machines have a CID.
const RUNNING: &str = "running";
const NO_MACHINES: &str = "no machine has a name: neither VSOCK_BRIDGE_NAMES in /etc/vsock-bridge/vsock-bridge.conf, nor \
     a file in /run/vsock-bridge/names.d, nor systemd-machined, nor libvirt knows one";

/// How the machines are shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print JSON.
    ///
    /// Prints an array of objects instead of a table.
    #[arg(long)]
    json: bool,
    /// Write the names for bridges, until it is ended.
    ///
    /// Writes the names of machines that systemd-machined and libvirt know to /run/vsock-bridge/names.d for as long as these
    /// run. vsock-bridge-names.service runs it.
    #[arg(long, conflicts_with_all = ["json", "no_legend"])]
    publish: bool,
    /// Leave out the titles of the columns.
    ///
    /// Prints the rows of the table without the line of its titles.
    #[arg(long)]
    no_legend: bool,
}

/// A name with its CID, or the socket of its VMM, and who says so.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    cid: Option<u32>,
    socket: Option<String>,
    state: Option<String>,
    sources: Vec<String>,
    /// Where the name is given to another machine, to which it leads.
    overruled_by: Option<String>,
}

/// Prints the machines. `given`: names of the option or the environment.
///
/// Errors: somebody could not be asked, after the others are printed; or nothing can be written.
pub(super) fn run(arguments: &Arguments, given: Option<&GivenNames>) -> Result<()> {
    if arguments.publish {
        return publish::run();
    }
    let answers = ask_all();
    let (mut named, mut errors) = match named(given) {
        Ok(named) => (named, Vec::new()),
        Err(error) => (Vec::new(), vec![error]),
    };
    let registry = Registry::read(Path::new(names::REGISTRY));
    named.extend(registered(&registry));
    for problem in registry.problems() {
        log::warn!("{problem}");
    }
    let mut managed = Vec::new();
    for (manager, answer) in answers {
        let is_shown = |one: &Managed| one.cid.is_some() || matches!(manager, Manager::Libvirt);
        let machines = answer.machines.into_iter().filter(is_shown);
        managed.extend(machines.map(|one| (manager, one)));
        errors.extend(answer.problems.into_iter().map(|problem| Error::Manager {
            manager: manager.to_string(),
            problem,
        }));
    }
    let machines = merged(&named, &managed);
    let text = match arguments.json {
        true => output::json(&machines)?,
        false => table(&machines, !arguments.no_legend),
    };
    let is_read = output::print(&text)?;
    if is_read && !arguments.json && machines.is_empty() && errors.is_empty() {
        log::info!("{NO_MACHINES}");
    }
    complain(errors)
}

/// Asks each in a thread of its own, so that one which does not answer delays no other.
fn ask_all() -> Vec<(Manager, Answer)> {
    let unasked = |problem: &str| Answer {
        problems: vec![problem.to_owned()],
        ..Answer::default()
    };
    thread::scope(|scope| {
        let threads = Manager::ALL.map(|manager| {
            let ask = move || manager.machines(ANSWER_TIME);
            (manager, thread::Builder::new().spawn_scoped(scope, ask))
        });
        let answers = threads.into_iter().map(|(manager, thread)| {
            let answer = match thread {
                Ok(thread) => (thread.join()).unwrap_or_else(|_| unasked("internal error")),
                Err(error) => unasked(&error.to_string()),
            };
            (manager, answer)
        });
        answers.collect()
    })
}

/// A name that is written somewhere.
struct Named {
    name: String,
    location: Location,
    place: String,
}

/// Returns the names that the administrator gives.
fn named(given: Option<&GivenNames>) -> Result<Vec<Named>> {
    let with = |names: &Names, place: &str| {
        let named = |(name, location): (&str, &Location)| Named {
            name: name.to_owned(),
            location: location.clone(),
            place: place.to_owned(),
        };
        names.given().map(named).collect()
    };
    match given {
        Some(given) => Ok(with(given.names()?, "--names")),
        None => {
            let (names, line) = Names::read_with_line()?;
            Ok(with(&names, &format!("{}:{line}", config_file::PATH)))
        }
    }
}

/// Returns all names of the registry, also those that others overrule.
fn registered(registry: &Registry) -> impl Iterator<Item = Named> {
    registry.entries().map(|placed| Named {
        name: placed.entry.name.clone(),
        location: placed.entry.location.clone(),
        place: placed.place(),
    })
}

/// Sorts by name, and puts together what says the same.
fn merged(named: &[Named], managed: &[(Manager, Managed)]) -> Vec<Row> {
    let state_of = |cid: Cid| {
        let mut same = managed.iter().filter(|(_, one)| one.cid == Some(cid));
        let states: Vec<&String> = same.by_ref().map(|(_, one)| &one.state).collect();
        let best = states.iter().find(|state| ***state == RUNNING);
        best.or(states.first()).map(|state| (*state).clone())
    };
    let written = named.iter().map(|one| {
        let (cid, socket) = split(&one.location);
        Row {
            name: one.name.clone(),
            cid: cid.map(Cid::number),
            socket,
            state: cid.and_then(state_of),
            sources: vec![one.place.clone()],
            overruled_by: None,
        }
    });
    let others = managed.iter().map(|(manager, one)| Row {
        name: one.name.clone(),
        cid: one.cid.map(Cid::number),
        socket: None,
        state: Some(one.state.clone()),
        sources: vec![manager.to_string()],
        overruled_by: None,
    });
    let mut machines: Vec<Row> = Vec::new();
    for one in written.chain(others) {
        let is_same =
            |it: &&mut Row| it.name == one.name && it.cid == one.cid && it.socket == one.socket;
        let same = machines.iter_mut().find(is_same);
        match same {
            Some(same) => {
                same.sources.extend(one.sources);
                // Two managers may have one of the same name: one runs if any does.
                if same.state.as_deref() != Some(RUNNING) {
                    same.state = one.state;
                }
            }
            None => machines.push(one),
        }
    }
    for one in &mut machines {
        one.overruled_by = overruling(one, named).map(|holds| holds.place.clone());
    }
    machines.sort_by(|one, other| (&one.name, one.cid).cmp(&(&other.name, other.cid)));
    machines
}

fn split(location: &Location) -> (Option<Cid>, Option<String>) {
    match location {
        Location::Cid(cid) => (Some(*cid), None),
        Location::Hybrid(socket) => (None, Some(socket.to_string())),
    }
}

/// Returns what holds of the name of a machine, if that is another machine: of what is written, the first.
fn overruling<'a>(one: &Row, named: &'a [Named]) -> Option<&'a Named> {
    let holds = named.iter().find(|named| named.name == one.name)?;
    let (cid, socket) = split(&holds.location);
    let is_it = one.cid == cid.map(Cid::number) && one.socket == socket;
    // One that is off is nowhere.
    let is_off = one.cid.is_none() && one.socket.is_none();
    (!is_it && !is_off).then_some(holds)
}

fn table(machines: &[Row], has_titles: bool) -> String {
    if machines.is_empty() {
        return String::new();
    }
    let mut columns = vec![
        Column::text("NAME"),
        Column::number("CID"),
        Column::text("STATE"),
        Column::text("SOURCE"),
    ];
    // Behind what scripts know, and only where there is one.
    let has_socket = machines.iter().any(|one| one.socket.is_some());
    let is_overruled = machines.iter().any(|one| one.overruled_by.is_some());
    columns.extend(has_socket.then(|| Column::text("SOCKET")));
    columns.extend(is_overruled.then(|| Column::text("OVERRULED BY")));
    let text = |text: &Option<String>| text.as_ref().map_or_else(Cell::nothing, Cell::new);
    let row = |one: &Row| {
        let mut cells = vec![
            Cell::new(&one.name),
            one.cid.map_or_else(Cell::nothing, Cell::new),
            text(&one.state),
            Cell::new(one.sources.join(", ")),
        ];
        cells.extend(has_socket.then(|| text(&one.socket)));
        cells.extend(is_overruled.then(|| text(&one.overruled_by)));
        cells
    };
    let rows: Vec<_> = machines.iter().map(row).collect();
    table::table(&columns, &rows, "", None, has_titles)
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::UnixName;

    fn machine(name: &str, cid: u32, state: &str) -> Managed {
        Managed {
            name: name.to_owned(),
            cid: Cid::new(cid),
            state: state.to_owned(),
            process: None,
        }
    }

    #[test]
    fn what_says_the_same_is_one_line_and_what_differs_is_two() {
        let place = "/etc/vsock-bridge/vsock-bridge.conf:2";
        let named = [("web", 3), ("www", 3), ("db", 4), ("host-of-all", 2)];
        let mut named = Vec::from(named.map(|(name, cid)| Named {
            name: name.to_owned(),
            location: Location::Cid(Cid::new(cid).unwrap()),
            place: place.to_owned(),
        }));
        named.push(Named {
            name: "hy".to_owned(),
            location: Location::Hybrid(UnixName::parse("/run/hy/guest.vsock").unwrap()),
            place: "hy.conf:1".to_owned(),
        });
        named.push(Named {
            name: "hy".to_owned(),
            location: Location::Cid(Cid::new(9).unwrap()),
            place: "z.conf:3".to_owned(),
        });
        let managed = [
            (Manager::Machined, machine("web", 3, "running")),
            (Manager::Libvirt, machine("web", 3, "running")),
            (Manager::Libvirt, machine("db", 5, "paused")),
            (Manager::Libvirt, machine("new", 0, "shut off")),
        ];
        let expected = format!(
            "\
NAME         CID  STATE     SOURCE                                                    SOCKET               OVERRULED BY
db             4  -         {place}                     -                    -
db             5  paused    libvirt                                                   -                    {place}
host-of-all    2  -         {place}                     -                    -
hy             -  -         hy.conf:1                                                 /run/hy/guest.vsock  -
hy             9  -         z.conf:3                                                  -                    hy.conf:1
new            -  shut off  libvirt                                                   -                    -
web            3  running   {place}, machined, libvirt  -                    -
www            3  running   {place}                     -                    -
"
        );
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        let machines = merged(&named, &managed);
        assert_eq!(plain(&table(&machines, true)), expected);
        let rows = expected.split_once('\n').unwrap().1;
        assert_eq!(plain(&table(&machines, false)).lines().count(), 8);
        assert!(plain(&table(&machines, false)).starts_with("db "), "{rows}");
        assert_eq!(table(&[], true), "");
    }

    #[test]
    fn a_machine_runs_if_one_of_its_name_and_cid_does() {
        let managed = [
            (Manager::Machined, machine("web", 3, "running")),
            (Manager::Libvirt, machine("web", 3, "shut off")),
        ];
        let [one] = &merged(&[], &managed)[..] else {
            panic!("not one machine")
        };
        assert_eq!(one.state.as_deref(), Some("running"));
    }

    #[test]
    fn json_has_the_names_of_the_manual() {
        let machines = merged(&[], &[(Manager::Libvirt, machine("new", 0, "shut off"))]);
        assert_eq!(
            serde_json::to_string(&machines).unwrap(),
            r#"[{"name":"new","cid":null,"socket":null,"state":"shut off","sources":["libvirt"],"overruled_by":null}]"#
        );
    }
}
