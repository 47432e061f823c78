//! Bridges with a list of ports (`VSOCK_BRIDGE_PORTS` in the file of an instance): their sockets listen on each of them, and
//! their services connect to the port that a peer came to.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::write;
use crate::config_file;
use crate::configured;
use crate::error::{Error, Result};
use crate::port_list::{PortList, VARIABLE};
use crate::prefix::Prefix;
use crate::vsock::Cid;

/// The drop-in, in the folders of socket and service.
const DROP_IN: &str = "60-ports.conf";

/// Which template an instance is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Template {
    /// From vsock to this machine.
    Vsock,
    /// From the address of the host to the host.
    Ipv6,
}

impl Template {
    /// Returns that of an instance. A drop-in for the template itself, which has no name behind the `@`, would be one for
    /// all instances; and systemd knows no unit by a name with other characters (systemd.unit(5)).
    fn of(unit: &str) -> Option<Template> {
        let (template, instance) = unit.split_once('@')?;
        let is_known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if instance.is_empty() || !instance.chars().all(is_known) {
            return None;
        }
        match template {
            "vsock-bridge" => Some(Template::Vsock),
            "vsock-bridge-ipv6" => Some(Template::Ipv6),
            _ => None,
        }
    }

    /// Returns where peers connect to, but for the port.
    fn address(self, prefix: Option<Prefix>) -> Option<String> {
        match self {
            Template::Vsock => Some("vsock:".to_owned()),
            Template::Ipv6 => Some(format!("[{}]", prefix?.address(Cid::HOST))),
        }
    }

    /// Returns the default target.
    fn target(self) -> &'static str {
        match self {
            Template::Vsock => "[::1]:mapped",
            Template::Ipv6 => "vsock:mapped",
        }
    }
}

/// Writes the drop-ins of all instances below `root` that have a list; one that is wrong is told and left out.
pub(super) fn run(directory: &Path, root: &Path, prefix: Option<Prefix>) {
    let folder = root.join("etc/vsock-bridge");
    // Without the folder there is no list.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        if let Err(error) = expand(directory, &file, prefix) {
            log::error!("{}", error.report());
        }
    }
}

fn expand(directory: &Path, file: &Path, prefix: Option<Prefix>) -> Result<()> {
    let name = file.file_name().and_then(|name| name.to_str());
    let unit = name.and_then(|name| name.strip_suffix(".conf"));
    let Some((unit, template)) = unit.and_then(|unit| Some((unit, Template::of(unit)?))) else {
        return Ok(());
    };
    // What else is wrong in it is told by the bridge.
    let (settings, _) = config_file::parse(&configured::text(file)?);
    let Some(setting) = config_file::last(settings, VARIABLE) else {
        return Ok(());
    };
    let list: PortList = setting.value.parse().map_err(|problem| {
        let place = format!("{}:{}", file.display(), setting.line);
        Error::Usage(format!("{place}: {VARIABLE}: {problem}"))
    })?;
    // That there is none is told where it is looked for.
    let Some(address) = template.address(prefix) else {
        return Ok(());
    };
    let path = |kind: &str| directory.join(format!("{unit}.{kind}.d")).join(DROP_IN);
    let head = format!(
        "# Written by vsock-bridge-generator, for {VARIABLE}.\n[Unit]\nSourcePath={}\n\n",
        file.display()
    );
    let listen = list
        .ports()
        .iter()
        .map(|port| format!("ListenStream={address}:{port}\n"));
    let socket = format!(
        "{head}[Socket]\nListenStream=\n{}",
        String::from_iter(listen)
    );
    write(&path("socket"), &socket)?;
    let service = format!(
        "{head}[Service]\nEnvironment=VSOCK_BRIDGE_TO={}\n",
        template.target()
    );
    write(&path("service"), &service)
}
