//! Socket units of bridges as systemd knows them: a bridge that nobody has used yet has no process that could be asked.

use std::process::{Command, Stdio};

/// Our units, whatever the drop-ins of an instance are.
const PATTERN: &str = "vsock-bridge*.socket";
const PROPERTIES: &str = "Id,SubState,Listen,Triggers";

/// A socket unit, and the service that it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketUnit {
    /// Name of the service, without suffix.
    pub name: String,
    /// `waiting` for the first peer, `failed`, or `unknown`: systemd has started the service and waits for it to tell.
    pub state: &'static str,
    /// Addresses that it listens on.
    pub listeners: Vec<String>,
}

/// Asks systemd for those that listen, have listened or should; none where there is no systemd to ask.
pub fn gather() -> Vec<SocketUnit> {
    if !libsystemd::daemon::booted() {
        return Vec::new();
    }
    let output = Command::new("systemctl")
        .args(["show", "--no-pager", "--property", PROPERTIES, PATTERN])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => parse(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            log::debug!("systemctl failed: {}", said.trim());
            Vec::new()
        }
        Err(error) => {
            log::debug!("systemctl cannot be run: {error}");
            Vec::new()
        }
    }
}

/// Reads blocks of `NAME=VALUE` with an empty line between them.
fn parse(text: &str) -> Vec<SocketUnit> {
    text.split("\n\n").filter_map(unit).collect()
}

fn unit(block: &str) -> Option<SocketUnit> {
    let values = |name: &'static str| {
        let pairs = block.lines().filter_map(|line| line.split_once('='));
        pairs
            .filter(move |(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    // With Accept=yes each connection has a service of its own, and the socket unit triggers none.
    let service = values("Triggers").find_map(|name| name.strip_suffix(".service"))?;
    let state = match values("SubState").next()? {
        "listening" => "waiting",
        "running" => "unknown",
        "failed" => "failed",
        _ => return None,
    };
    let address = |text: &str| text.strip_suffix(" (Stream)").unwrap_or(text).to_owned();
    Some(SocketUnit {
        name: service.to_owned(),
        state,
        listeners: values("Listen").map(address).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_listen_should_or_have_are_bridges() {
        let text = "\
Triggers=vsock-bridge@445.service
Listen=vsock::445 (Stream)
Id=vsock-bridge@445.socket
SubState=listening

Triggers=vsock-bridge-ipv6@445.service
Listen=[fd00::2]:445 (Stream)
Listen=/run/x y (Stream)
Id=vsock-bridge-ipv6@445.socket
SubState=running

Triggers=vsock-bridge@22.service
Listen=vsock::22 (Stream)
Id=vsock-bridge@22.socket
SubState=failed

Triggers=vsock-bridge@23.service
Listen=vsock::23 (Stream)
Id=vsock-bridge@23.socket
SubState=dead

Triggers=
Listen=vsock::9418 (Stream)
Id=vsock-bridge-git.socket
SubState=listening
";
        let unit = |name: &str, state, listeners: &[&str]| SocketUnit {
            name: name.to_owned(),
            state,
            listeners: listeners.iter().map(ToString::to_string).collect(),
        };
        let expected = [
            unit("vsock-bridge@445", "waiting", &["vsock::445"]),
            unit(
                "vsock-bridge-ipv6@445",
                "unknown",
                &["[fd00::2]:445", "/run/x y"],
            ),
            unit("vsock-bridge@22", "failed", &["vsock::22"]),
        ];
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), []);
    }
}
