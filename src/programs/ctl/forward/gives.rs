//! What is given away with a socket of this machine, told before it is forwarded.

use std::path::Path;

use crate::endpoint::{Endpoint, UnixName};

/// By which name a socket is known, where it is, and what whoever reaches it can do.
const KNOWN: [(&str, &str); 11] = [
    ("docker.sock", ROOT),
    ("podman.sock", ROOT),
    ("containerd.sock", ROOT),
    ("libvirt-sock", ROOT),
    (
        "system_bus_socket",
        "may ask all services of this machine for whatever its user may",
    ),
    ("bus", "may start any program as its user"),
    (
        "S.gpg-agent.extra",
        "may sign and decrypt with the keys of that agent, as long as it does not ask",
    ),
    (
        "S.gpg-agent",
        "may sign, decrypt and change keys; S.gpg-agent.extra beside it is the one to forward",
    ),
    ("X0", "sees the screen and reads every key"),
    (
        "wayland-0",
        "may open windows, and read what is copied while one of them is in front",
    ),
    ("pipewire-0", "hears the microphone and sees the camera"),
];
const ROOT: &str = "is root on this machine";
const AGENT: &str = "may log in wherever its keys open, for as long as this runs; `ssh-add -c` has each use confirmed";

/// Returns a line for each thing that somebody who types this may not think of.
pub(super) fn warnings(listen: &[Endpoint], target: &Endpoint, allowed: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(consequence) = consequence(target) {
        let who = listen.first().map_or("nobody", |address| who(address));
        let remedy = match listen.first() {
            Some(Endpoint::Vsock(_)) if allowed == "any" => "; name the machines by --allow-cid",
            _ => "",
        };
        lines.push(format!(
            "{who} comes to {target}, and {consequence}{remedy}"
        ));
    }
    let is_open =
        |address: &&Endpoint| matches!(address, Endpoint::Tcp(addr) if !addr.ip().is_loopback());
    lines.extend(listen.iter().find(is_open).map(|address| {
        format!(
            "whoever reaches {address} over a network comes to {target}, by no password of ours"
        )
    }));
    lines
}

fn who(address: &Endpoint) -> &'static str {
    match address {
        Endpoint::Vsock(_) => "every process of a machine that may connect",
        Endpoint::Unix(UnixName::Path(_)) => "whoever may write to the socket",
        _ => "every user of this machine",
    }
}

fn consequence(target: &Endpoint) -> Option<&'static str> {
    let Endpoint::Unix(UnixName::Path(path)) = target else {
        return None;
    };
    let name = path.file_name()?.to_str()?;
    let known = KNOWN.iter().find(|(known, _)| is_like(name, known));
    match known {
        Some((_, consequence)) => Some(consequence),
        None => is_agent(path, name).then_some(AGENT),
    }
}

/// Displays have numbers.
fn is_like(name: &str, known: &str) -> bool {
    match known.strip_suffix('0') {
        Some(stem) => {
            let number = name.strip_prefix(stem).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        }
        None => name == known,
    }
}

/// As ssh-agent(1), systemd, GNOME and gpg call theirs: /tmp/ssh-XXX/agent.PID, ssh-agent.socket, keyring/ssh, S.gpg-agent.ssh.
fn is_agent(path: &Path, name: &str) -> bool {
    let folder = path.parent().and_then(Path::file_name);
    let folder = folder.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    name.contains("ssh-agent")
        || name == "S.gpg-agent.ssh"
        || name.starts_with("agent.") && folder.starts_with("ssh-")
        || name == "ssh" && folder == "keyring"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(listen: &str, target: &str, allowed: &str) -> String {
        let listen = [listen.parse().unwrap()];
        warnings(&listen, &target.parse().unwrap(), allowed).join("\n")
    }

    #[test]
    fn a_socket_that_gives_much_away_is_told() {
        for (target, words) in [
            ("/run/docker.sock", "is root on this machine"),
            ("/run/user/1000/podman/podman.sock", "is root"),
            ("/run/user/1000/ssh-agent.socket", "may log in"),
            ("/tmp/ssh-XXabc/agent.77", "may log in"),
            ("/run/user/1000/keyring/ssh", "may log in"),
            ("/run/user/1000/gnupg/S.gpg-agent.ssh", "may log in"),
            (
                "/run/user/1000/gnupg/S.gpg-agent",
                "S.gpg-agent.extra beside it",
            ),
            (
                "/run/user/1000/gnupg/S.gpg-agent.extra",
                "may sign and decrypt",
            ),
            ("/run/user/1000/wayland-1", "may open windows"),
            ("/tmp/.X11-unix/X10", "reads every key"),
            ("/run/user/1000/bus", "may start any program"),
        ] {
            let line = told("vsock::7000", target, "any");
            assert!(
                line.contains(words) && line.contains("--allow-cid"),
                "{target}: {line}"
            );
            assert!(!told("vsock::7000", target, "3").contains("--allow-cid"));
        }
    }

    #[test]
    fn what_gives_nothing_away_is_no_word_worth() {
        for target in [
            "/run/app.sock",
            "[::1]:80",
            "vsock:3:80",
            "/run/x/wayland-",
            "/run/Xorg",
        ] {
            assert_eq!(told("vsock::7000", target, "any"), "", "{target}");
        }
    }

    #[test]
    fn an_address_of_a_network_is_told() {
        let line = told("[::]:80", "vsock:3:80", "any");
        assert!(
            line.contains("whoever reaches [::]:80 over a network"),
            "{line}"
        );
        assert_eq!(told("127.0.0.1:80", "vsock:3:80", "any"), "");
    }
}
