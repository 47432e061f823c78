//! libvirt, asked through virsh(1) for the XML of a domain (<https://libvirt.org/formatdomain.html#vsock>).
//!
//! Read-only connections need no rights, so an ordinary user finds the machines of the system as well as their own.

use std::fs;
use std::path::Path;

use nix::unistd::Pid;
use roxmltree::{Document, Node};

use super::answer::{Answer, Asked, Managed, one_cid, problem, shown};
use crate::clock::Moment;
use crate::tool;
use crate::vsock::Cid;

const TOOL: &str = "virsh";
/// A file with the process id for each domain of QEMU that runs, `NAME.pid`, beside its state, which only root may read.
pub(super) const FOLDER: &str = "/run/libvirt/qemu";
const NOT_THERE: &str = "virsh is not there (is the package libvirt-clients installed?)";
/// Where to look: where virsh does by itself, which is the user's own machines for all but root, and the system's.
const CONNECTIONS: [&[&str]; 2] = [&[], &["--connect", "qemu:///system"]];
/// What virsh complains of when there is no domain of the name (tools/virsh-util.c), and nothing else is wrong.
const UNKNOWN: [&str; 2] = ["failed to get domain", "Domain not found"];
const NONE: &str = "libvirt knows no such machine";
/// What virsh complains of when no libvirt is there, or none runs.
const ABSENT: [&str; 2] = [
    "failed to connect to the hypervisor",
    "No such file or directory",
];
/// How many domains are asked for at once, which is some 200 KB of XML.
const DOMAINS_MAX: usize = 25;
/// Letters, digits and hyphens in a UUID, which is the same to virsh in every place of a command.
const UUID_LENGTH: usize = 36;

/// Asks which CID the domain has; if none has the name, the only one whose name differs in capital letters, which ssh(1)
/// makes small.
pub(super) fn cid(name: &str, deadline: Moment) -> Result<Cid, String> {
    let problem = match exact(name, deadline) {
        Err(problem) if problem.contains(NONE) => problem,
        outcome => return outcome,
    };
    let all = machines(deadline).machines;
    let names = all.iter().map(|machine| &*machine.name);
    let alike: Vec<&str> = names
        .filter(|other| other.eq_ignore_ascii_case(name))
        .collect();
    match alike[..] {
        [] => Err(problem),
        [other] => exact(other, deadline),
        _ => Err(format!(
            "several machines have that name, with other capital letters: {}",
            shown(&alike.join(", "))
        )),
    }
}

fn exact(name: &str, deadline: Moment) -> Result<Cid, String> {
    let mut problems = Vec::new();
    for connection in CONNECTIONS {
        let question = ["--quiet", "--readonly", "dumpxml", "--domain", name];
        let arguments = [connection, &question].concat();
        let Some(said) = tool::ask(TOOL, &arguments, deadline)? else {
            return Err(NOT_THERE.to_owned());
        };
        let is_unknown = UNKNOWN.iter().any(|text| said.complaint.contains(text));
        let outcome = match said.answer.trim() {
            "" if is_unknown => Err(NONE.to_owned()),
            "" => Err(problem(&said, TOOL)),
            xml => read(xml, name),
        };
        match outcome {
            Err(problem) if said.answer.is_empty() || problem == NONE => problems.push(problem),
            outcome => return outcome,
        }
    }
    problems.dedup();
    Err(problems.join("; "))
}

/// Reads the CID from the XML of the domain, which virsh finds by its number as well as by its name.
fn read(xml: &str, name: &str) -> Result<Cid, String> {
    let document = Document::parse(xml)
        .map_err(|error| format!("virsh said \"{}\", which is no XML: {error}", shown(xml)))?;
    let domain = document.root_element();
    let is_it = |tag| children(domain, tag).any(|node| node.text().map(str::trim) == Some(name));
    if domain.tag_name().name() != "domain" || !(is_it("name") || is_it("uuid")) {
        return Err(NONE.to_owned());
    }
    cid_of(domain)
}

fn cid_of(domain: Node<'_, '_>) -> Result<Cid, String> {
    let cids: Vec<Node<'_, '_>> = children(domain, "devices")
        .flat_map(|devices| children(devices, "vsock"))
        .flat_map(|vsock| children(vsock, "cid"))
        .collect();
    let addresses = cids.iter().filter_map(|cid| cid.attribute("address"));
    match (addresses.clone().count(), cids.len()) {
        (0, 1..) => Err("it has no CID while it is not running".to_owned()),
        _ => one_cid(TOOL, addresses),
    }
}

/// Asks for all domains, running or not: the user's own, then those of the system with other names.
pub(super) fn machines(deadline: Moment) -> Answer {
    let mut all = Answer::default();
    let (mut asked, mut absents) = (Vec::new(), Vec::new());
    for connection in CONNECTIONS {
        match add(&mut all.machines, &mut asked, connection, deadline) {
            Ok(absent) => absents.push(absent),
            Err(problem) => all.problems.push(problem),
        }
    }
    all.problems.dedup();
    if absents.len() == CONNECTIONS.len() && absents.iter().all(Option::is_some) {
        all.absent = absents.pop().flatten();
    }
    all
}

/// Adds the domains of a connection to those of others, whose UUIDs are in `asked`; returns why there is nobody to ask.
fn add(
    machines: &mut Vec<Managed>,
    asked: &mut Vec<String>,
    connection: &[&str],
    deadline: Moment,
) -> Result<Option<String>, String> {
    let found = match uuids(connection, deadline)? {
        Asked::Answered(found) => found,
        Asked::Absent(why) => return Ok(Some(why)),
    };
    let new: Vec<String> = (found.into_iter())
        .filter(|uuid| !asked.contains(uuid))
        .collect();
    for uuids in new.chunks(DOMAINS_MAX) {
        let commands = uuids
            .iter()
            .map(|uuid| format!("dumpxml --domain {uuid}; domstate --domain {uuid}"));
        let commands = commands.collect::<Vec<_>>().join("; ");
        let question = [connection, &["--quiet", "--readonly", &commands]].concat();
        let said = tool::ask(TOOL, &question, deadline)?;
        let text = said.map(|said| said.answer).unwrap_or_default();
        for mut machine in read_all(&text)? {
            machine.process = process(&machine.name);
            // Who asks for libvirt/NAME gets the first.
            if machines.iter().all(|known| known.name != machine.name) {
                machines.push(machine);
            }
        }
    }
    asked.extend(new);
    Ok(None)
}

/// Reads which process a domain of the system's QEMU is.
fn process(name: &str) -> Option<Pid> {
    let path = Path::new(FOLDER).join(format!("{name}.pid"));
    let text = fs::read_to_string(path).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

fn uuids(connection: &[&str], deadline: Moment) -> Result<Asked<Vec<String>>, String> {
    let question = ["--quiet", "--readonly", "list", "--all", "--uuid"];
    let Some(said) = tool::ask(TOOL, &[connection, &question].concat(), deadline)? else {
        return Ok(Asked::Absent(NOT_THERE.to_owned()));
    };
    let answer = said.answer.trim();
    if answer.is_empty() && !said.complaint.trim().is_empty() {
        return match ABSENT.iter().all(|text| said.complaint.contains(text)) {
            true => Ok(Asked::Absent(problem(&said, TOOL))),
            false => Err(problem(&said, TOOL)),
        };
    }
    let is_uuid = |text: &str| {
        let is_part = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        text.len() == UUID_LENGTH && text.bytes().all(is_part) && !text.starts_with('-')
    };
    let lines = answer
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let uuids: Result<Vec<String>, String> = lines
        .map(|line| match is_uuid(line) {
            true => Ok(line.to_owned()),
            false => Err(format!("virsh said \"{}\", which is no UUID", shown(line))),
        })
        .collect();
    uuids.map(Asked::Answered)
}

/// Reads the XML of domains, each with its state behind. One that has gone meanwhile is not among them.
fn read_all(text: &str) -> Result<Vec<Managed>, String> {
    // What virsh prints has no declaration, so that together they are one document.
    let text = format!("<domains>{text}</domains>");
    let document = Document::parse(&text)
        .map_err(|error| format!("virsh said what is no XML of domains: {error}"))?;
    let machine = |domain: Node<'_, '_>| {
        let name = children(domain, "name").find_map(|node| node.text())?;
        let state = shown(domain.next_sibling().and_then(|node| node.text())?);
        (!state.is_empty()).then(|| Managed {
            name: name.trim().to_owned(),
            cid: cid_of(domain).ok(),
            state,
            process: None,
        })
    };
    Ok(children(document.root_element(), "domain")
        .filter_map(machine)
        .collect())
}

fn children<'a, 'i>(node: Node<'a, 'i>, tag: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| {
        child.tag_name().name() == tag && child.tag_name().namespace().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(devices: &str) -> String {
        format!(
            "<domain type='kvm' id='3'>\n  <name>web</name>\n  <uuid>c7a5</uuid>\n  <metadata>\n    \
             <x xmlns='http://example.org/'><vsock><cid address='99'/></vsock></x>\n  </metadata>\n  \
             <devices>\n    <disk/>\n    {devices}\n  </devices>\n</domain>\n"
        )
    }

    #[test]
    fn the_cid_is_that_of_the_vsock_device() {
        let one =
            domain("<vsock model='virtio'><cid auto='yes' address='7'/><alias name='v'/></vsock>");
        for name in ["web", "c7a5"] {
            assert_eq!(read(&one, name), Ok(Cid::new(7).unwrap()));
        }
    }

    #[test]
    fn a_machine_that_cannot_be_reached_has_its_reason() {
        for (devices, words) in [
            ("", "no vsock"),
            ("<vsock/>", "no vsock"),
            ("<vsock><cid auto='yes'/></vsock>", "not running"),
            ("<vsock><cid address='x'/></vsock>", "no CID"),
            ("<vsock><cid address='4294967296'/></vsock>", "no CID"),
            (
                "<vsock><cid address='7'/></vsock><vsock><cid address='8'/></vsock>",
                "several CIDs: 7, 8",
            ),
        ] {
            let problem = read(&domain(devices), "web").unwrap_err();
            assert!(problem.contains(words), "{devices}: {problem}");
        }
    }

    #[test]
    fn each_domain_has_its_state_behind_its_xml() {
        let web = domain("<vsock><cid auto='no' address='7'/></vsock>");
        let off = domain("<vsock><cid auto='yes'/></vsock>").replace("web", "db &amp; co");
        let text = format!("{web}\nrunning\n\n\n{off}\nshut off\n\n");
        let machine = |name: &str, cid, state: &str| Managed {
            name: name.to_owned(),
            cid: Cid::new(cid),
            state: state.to_owned(),
            process: None,
        };
        let all = [
            machine("web", 7, "running"),
            machine("db & co", 0, "shut off"),
        ];
        assert_eq!(read_all(&text).unwrap(), all);
        assert_eq!(read_all("").unwrap(), []);
        // Gone between the two commands.
        assert_eq!(read_all(&web).unwrap(), []);
        assert!(read_all("<domain>").is_err());
    }

    #[test]
    fn another_machine_or_no_xml_is_none() {
        let one = domain("<vsock><cid address='7'/></vsock>");
        // virsh takes a number for the id of a running domain.
        assert!(read(&one, "3").unwrap_err().contains("no such machine"));
        assert!(read("<network><name>web</name></network>", "web").is_err());
        for text in ["web", "<domain>", "<domain><name>web</name>", "\0"] {
            assert!(read(text, "web").unwrap_err().contains("no XML"), "{text}");
        }
    }
}
