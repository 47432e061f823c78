//! machinectl(1), which asks systemd-machined(8) over D-Bus, where it does not answer over varlink.

use super::answer::{Asked, Managed, one_cid, problem, shown};
use crate::clock::Moment;
use crate::tool;
use crate::vsock::Cid;

const TOOL: &str = "machinectl";
const PROPERTY: &str = "VSockCID";
/// How machined writes that a machine has no CID: VMADDR_CID_ANY.
const NO_CID: &str = "4294967295";
/// What machinectl complains of when there is no D-Bus, and so no machined: `Failed to connect to bus: …`, and since systemd 256
/// `Failed to connect to system scope bus via local transport: …`.
const NO_BUS: [&str; 2] = ["Failed to connect to ", "bus"];
const NOT_THERE: &str = "neither systemd-machined nor machinectl is there \
     (is the package systemd-container installed?)";
const NO_CIDS: &str = "this systemd-machined knows no CIDs (systemd 256 and newer do)";
/// Whoever was asked.
pub(super) const UNKNOWN: &str = "systemd-machined knows no such machine";

/// Asks which CID the machine has.
pub(super) fn cid(name: &str, deadline: Moment) -> Result<Cid, String> {
    let question = ["show", "--no-pager", "--property", PROPERTY, "--", name];
    let Some(said) = tool::ask(TOOL, &question, deadline)? else {
        return Err(NOT_THERE.to_owned());
    };
    let answer = said.answer.trim();
    if answer.is_empty() && said.complaint.contains("No machine") {
        return Err(UNKNOWN.to_owned());
    }
    if answer.is_empty() && said.complaint.trim().is_empty() {
        return Err(NO_CIDS.to_owned());
    }
    if answer.is_empty() {
        return Err(problem(&said, TOOL));
    }
    let cids: Option<Vec<&str>> = answer
        .lines()
        .map(|line| line.strip_prefix(PROPERTY)?.strip_prefix('='))
        .collect();
    let Some(cids) = cids else {
        return Err(format!("machinectl said \"{}\"", shown(answer)));
    };
    one_cid(TOOL, cids.into_iter().filter(|cid| *cid != NO_CID))
}

/// Asks for the names, then for the CIDs of all; or returns why there is nobody to ask.
pub(super) fn machines(deadline: Moment) -> Result<Asked<Vec<Managed>>, String> {
    let question = ["--no-pager", "--no-legend", "list"];
    let Some(said) = tool::ask(TOOL, &question, deadline)? else {
        return Ok(Asked::Absent(NOT_THERE.to_owned()));
    };
    // What does not begin at the left goes on with the machine above.
    let lines = said.answer.lines().filter(|line| !line.starts_with(' '));
    let names: Vec<&str> = lines
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if names.is_empty() {
        return match said.complaint.trim() {
            "" => Ok(Asked::Answered(Vec::new())),
            complaint if NO_BUS.iter().all(|words| complaint.contains(words)) => {
                Ok(Asked::Absent(problem(&said, TOOL)))
            }
            _ => Err(problem(&said, TOOL)),
        };
    }
    let question = [
        "show",
        "--no-pager",
        "--property",
        "Name",
        "--property",
        PROPERTY,
        "--",
    ];
    let said = tool::ask(TOOL, &[&question, &names[..]].concat(), deadline)?;
    let answer = said.map(|said| said.answer).unwrap_or_default();
    if !answer.trim().is_empty() && !answer.contains(PROPERTY) {
        return Ok(Asked::Absent(NO_CIDS.to_owned()));
    }
    let machines = answer.split("\n\n").filter_map(machine);
    Ok(Asked::Answered(machines.collect()))
}

/// Reads the properties of one machine; before systemd 256 no CID is among them.
fn machine(text: &str) -> Option<Managed> {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    let cid = value(PROPERTY).filter(|cid| *cid != NO_CID)?;
    let cid = one_cid(TOOL, [cid]).ok()?;
    Some(Managed::running(value("Name")?, Some(cid), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_cid_is_left_out() {
        let shown = machine("Name=web\nVSockCID=7");
        assert_eq!(shown, Some(Managed::running("web", Cid::new(7), None)));
        for none in [
            "",
            "Name=web",
            "Name=web\nVSockCID=4294967295",
            "VSockCID=7",
        ] {
            assert_eq!(machine(none), None, "{none}");
        }
    }
}
