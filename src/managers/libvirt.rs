//! libvirt, asked through virsh(1) for the XML of a domain (<https://libvirt.org/formatdomain.html#vsock>).
//!
//! Read-only connections need no rights, so an ordinary user finds the machines of the system as well as their own.

use roxmltree::{Document, Node};

use super::answer::{one_cid, shown};
use super::tool;
use crate::clock::Moment;
use crate::vsock::Cid;

const TOOL: &str = "virsh";
/// Where else to look than where virsh does by itself, which is the user's own machines for all but root.
const SYSTEM: [&str; 2] = ["--connect", "qemu:///system"];
/// What virsh complains of when there is no domain of the name (tools/virsh-util.c), and nothing else is wrong.
const UNKNOWN: [&str; 2] = ["failed to get domain", "Domain not found"];
const NONE: &str = "libvirt knows no such machine";

/// Asks which CID the domain has.
pub(super) fn cid(name: &str, deadline: Moment) -> Result<Cid, String> {
    let mut problems = Vec::new();
    for connection in [&[][..], &SYSTEM] {
        let question = ["--quiet", "--readonly", "dumpxml", "--domain", name];
        let arguments = [connection, &question].concat();
        let Some(said) = tool::ask(TOOL, &arguments, deadline)? else {
            return Err(
                "virsh is not there (is the package libvirt-clients installed?)".to_owned(),
            );
        };
        let is_unknown = UNKNOWN.iter().any(|text| said.complaint.contains(text));
        let outcome = match said.answer.trim() {
            "" if is_unknown => Err(NONE.to_owned()),
            "" => Err(said.problem(TOOL)),
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
