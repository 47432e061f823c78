//! `vsockctl machines`: the machines that have a name, by configuration or by systemd-machined or libvirt.
//!
//! A line is a name with its CID: what says the same about both is one line, what does not is two.

use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::bridges::complain;
use super::output;
use super::table::{self, Cell, Column};
use crate::config_file;
use crate::error::{Error, Result};
use crate::managers::{Answer, Managed, Manager};
use crate::names::{GivenNames, Names};
use crate::vsock::Cid;

/// For everything that a manager is asked.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The state that matters most where several machines have a CID.
const RUNNING: &str = "running";
const NO_MACHINES: &str = "no machine has a name: neither VSOCK_BRIDGE_NAMES in /etc/vsock-bridge/vsock-bridge.conf, nor \
     systemd-machined, nor libvirt knows one";

/// How the machines are shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print JSON.
    ///
    /// Prints an array of objects instead of a table.
    #[arg(long)]
    json: bool,
    /// Leave out the titles of the columns.
    ///
    /// Prints the rows of the table without the line of its titles.
    #[arg(long)]
    no_legend: bool,
}

/// A name with its CID, and who says so.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Known {
    name: String,
    cid: Option<u32>,
    state: Option<String>,
    sources: Vec<String>,
}

/// Prints the machines. `given`: names of the option or the environment.
///
/// Errors: somebody could not be asked, after the others are printed; or nothing can be written.
pub(super) fn run(arguments: &Arguments, given: Option<&GivenNames>) -> Result<()> {
    let answers = ask_all();
    let (named, mut errors) = match named(given) {
        Ok(named) => (named, Vec::new()),
        Err(error) => (Vec::new(), vec![error]),
    };
    let mut managed = Vec::new();
    for (manager, answer) in answers {
        managed.extend(answer.machines.into_iter().map(|one| (manager, one)));
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

/// Returns the names that are configured, with the place of each.
fn named(given: Option<&GivenNames>) -> Result<Vec<(String, Cid, String)>> {
    let with = |names: &Names, place: &str| {
        let all = names.given();
        all.map(|(name, cid)| (name.to_owned(), cid, place.to_owned()))
            .collect()
    };
    match given {
        Some(given) => Ok(with(given.names()?, "--names")),
        None => {
            let (names, line) = Names::read_with_line()?;
            Ok(with(&names, &format!("{}:{line}", config_file::PATH)))
        }
    }
}

/// Sorts by name, and puts together what says the same.
fn merged(named: &[(String, Cid, String)], managed: &[(Manager, Managed)]) -> Vec<Known> {
    let state_of = |cid: Cid| {
        let mut same = managed.iter().filter(|(_, one)| one.cid == Some(cid));
        let states: Vec<&String> = same.by_ref().map(|(_, one)| &one.state).collect();
        let best = states.iter().find(|state| ***state == RUNNING);
        best.or(states.first()).map(|state| (*state).clone())
    };
    let configured = named.iter().map(|(name, cid, place)| Known {
        name: name.clone(),
        cid: Some(cid.number()),
        state: state_of(*cid),
        sources: vec![place.clone()],
    });
    let others = managed.iter().map(|(manager, one)| Known {
        name: one.name.clone(),
        cid: one.cid.map(Cid::number),
        state: Some(one.state.clone()),
        sources: vec![manager.to_string()],
    });
    let mut machines: Vec<Known> = Vec::new();
    for one in configured.chain(others) {
        let same = (machines.iter_mut()).find(|it| it.name == one.name && it.cid == one.cid);
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
    machines.sort_by(|one, other| (&one.name, one.cid).cmp(&(&other.name, other.cid)));
    machines
}

fn table(machines: &[Known], has_titles: bool) -> String {
    if machines.is_empty() {
        return String::new();
    }
    let columns = [
        Column::text("NAME"),
        Column::number("CID"),
        Column::text("STATE"),
        Column::text("SOURCE"),
    ];
    let row = |one: &Known| {
        vec![
            Cell::new(&one.name),
            one.cid.map_or_else(Cell::nothing, Cell::new),
            one.state.as_ref().map_or_else(Cell::nothing, Cell::new),
            Cell::new(one.sources.join(", ")),
        ]
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

    fn machine(name: &str, cid: u32, state: &str) -> Managed {
        Managed {
            name: name.to_owned(),
            cid: Cid::new(cid),
            state: state.to_owned(),
        }
    }

    #[test]
    fn what_says_the_same_is_one_line_and_what_differs_is_two() {
        let place = "/etc/vsock-bridge/vsock-bridge.conf:2";
        let named = [("web", 3), ("www", 3), ("db", 4), ("host-of-all", 2)];
        let named =
            named.map(|(name, cid)| (name.to_owned(), Cid::new(cid).unwrap(), place.to_owned()));
        let managed = [
            (Manager::Machined, machine("web", 3, "running")),
            (Manager::Libvirt, machine("web", 3, "running")),
            (Manager::Libvirt, machine("db", 5, "paused")),
            (Manager::Libvirt, machine("new", 0, "shut off")),
        ];
        let expected = format!(
            "\
NAME         CID  STATE     SOURCE
db             4  -         {place}
db             5  paused    libvirt
host-of-all    2  -         {place}
new            -  shut off  libvirt
web            3  running   {place}, machined, libvirt
www            3  running   {place}
"
        );
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        let machines = merged(&named, &managed);
        assert_eq!(plain(&table(&machines, true)), expected);
        let rows = expected.split_once('\n').unwrap().1;
        assert_eq!(plain(&table(&machines, false)).lines().count(), 6);
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
            r#"[{"name":"new","cid":null,"state":"shut off","sources":["libvirt"]}]"#
        );
    }
}
