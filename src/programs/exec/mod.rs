//! The body of vsock-exec: one connection that systemd has accepted (Accept=yes), handed to a command.
//!
//! Must not read a byte of the connection, nor start the command before the peer may come in.

mod arguments;
pub(crate) mod command;
mod settings;

use std::process::Command;

use crate::activation::{Activation, Passed};
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::logging::event;
use crate::peer::{self, Peer};
use crate::prefix::Prefix;
use crate::programs::replace::replace;

pub use arguments::Arguments;
use settings::Settings;

/// Becomes the command; returns when the peer may not come in or has gone, or by an error.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Some(passed) = take()? else {
        return Ok(());
    };
    let local = passed.stream.local_address().ok();
    let local = local.and_then(|address| peer::endpoint(&address));
    let local = local.ok_or_else(|| Error::Usage("the listener has no address".to_owned()));
    match local.and_then(|local| Settings::new(arguments, &local)) {
        Ok(settings) => serve(passed, settings),
        Err(error) => {
            // The peer takes nothing for a complete answer.
            passed.stream.abort();
            Err(error)
        }
    }
}

/// Takes the one connection; none if its peer has gone.
fn take() -> Result<Option<Passed>> {
    let activation = Activation::take().map_err(|error| match error {
        Error::NotActivated(why) => Error::Usage(format!(
            "no connection was passed ({why}): start a socket unit with Accept=yes, e.g. `systemctl start vsock-exec@22.socket`"
        )),
        error => error,
    })?;
    let mut connections = activation.connections;
    match (activation.listeners.is_empty(), connections.len()) {
        (true, 0 | 1) => Ok(connections.pop()),
        _ => Err(Error::Usage(
            "one connection is served, and no listener: write Accept=yes into the socket unit"
                .to_owned(),
        )),
    }
}

fn serve(passed: Passed, settings: Settings) -> Result<()> {
    let Passed { stream, peer } = passed;
    let mut gate = Gate::new(settings.allowed, 1, 1, settings.prefix);
    if let Err(refusal) = gate.enter(&peer, stream.destination()) {
        let fields = vec![("peer", peer.to_string()), ("reason", refusal.to_string())];
        event::PEER_REFUSED.log(fields, format_args!("{peer} refused: {refusal}"));
        stream.abort();
        return Ok(());
    }
    let Some((name, rest)) = settings.command.split_first() else {
        return Err(Error::Usage("there is no command".to_owned()));
    };
    log::debug!("{peer} gets {}", name.to_string_lossy());
    let mut program = Command::new(name);
    program.args(rest).envs(settings.variables);
    tell(&mut program, &peer, settings.prefix);
    replace(stream, None, program).map_err(|error| match &*settings.place {
        "" => error,
        place => Error::Usage(format!("{place}: {}", error.report())),
    })
}

/// Tells the program who is at the other end, in the words of systemd.exec(5) and of CGI.
fn tell(program: &mut Command, peer: &Peer, prefix: Option<Prefix>) {
    // What systemd has said of it is an address of no program but its own; of the descriptors, which are taken, systemd 259
    // and newer says more than listenfd removes. And nothing says who it is but its socket.
    for name in [
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "REMOTE_CID",
        "REMOTE_UID",
        "LISTEN_PIDFDID",
    ] {
        program.env_remove(name);
    }
    match peer {
        Peer::Vsock(addr) => {
            if let Some(cid) = addr.cid {
                program.env("REMOTE_CID", cid.to_string());
                program.envs(prefix.map(|prefix| ("REMOTE_ADDR", prefix.address(cid).to_string())));
            }
            program.env("REMOTE_PORT", addr.port.number().to_string());
        }
        Peer::Tcp(address, port) => {
            program.env("REMOTE_ADDR", address.to_string());
            program.env("REMOTE_PORT", port.to_string());
        }
        Peer::Unix(Some(uid)) => {
            program.env("REMOTE_UID", uid.to_string());
        }
        Peer::Unix(None) | Peer::Stdio => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::vsock::{Cid, VsockAddr};

    fn told(peer: Peer) -> BTreeMap<String, Option<String>> {
        let mut program = Command::new("x");
        tell(&mut program, &peer, Some("fd00:1::/64".parse().unwrap()));
        let text = |text: &std::ffi::OsStr| text.to_str().unwrap().to_owned();
        let pairs = program.get_envs();
        pairs
            .map(|(name, value)| (text(name), value.map(text)))
            .collect()
    }

    #[test]
    fn the_program_is_told_who_is_there() {
        let guest = Peer::Vsock(VsockAddr {
            cid: Cid::new(1024),
            port: 77u16.into(),
        });
        let set = |pairs: &[(&str, &str)]| {
            let removed = [
                "REMOTE_ADDR",
                "REMOTE_PORT",
                "REMOTE_CID",
                "REMOTE_UID",
                "LISTEN_PIDFDID",
            ];
            let mut all = BTreeMap::from(removed.map(|name| (name.into(), None)));
            all.extend(pairs.iter().map(|&(n, v)| (n.into(), Some(v.into()))));
            all
        };
        for (peer, expected) in [
            (
                guest,
                set(&[
                    ("REMOTE_CID", "1024"),
                    ("REMOTE_ADDR", "fd00:1::400"),
                    ("REMOTE_PORT", "77"),
                ]),
            ),
            (
                Peer::Tcp("::1".parse().unwrap(), 5),
                set(&[("REMOTE_ADDR", "::1"), ("REMOTE_PORT", "5")]),
            ),
            (Peer::Unix(Some(7)), set(&[("REMOTE_UID", "7")])),
            (Peer::Unix(None), set(&[])),
        ] {
            assert_eq!(told(peer), expected, "{peer}");
        }
    }
}
