//! `vsockctl forward` for as long as it runs: from ports and paths, until it is told to end, and what is told before.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use nix::sys::signal::Signal;
use socket2::Domain;

use crate::common::content::{End, read_to_end};
use crate::common::place::{Kind, Place, ping};
use crate::common::program::{Finished, Program, command, finish, ours, with_own_settings};
use crate::common::spot::Spot;

fn forward(arguments: &[&str]) -> std::process::Command {
    let mut vsockctl = command(ours("vsockctl"));
    with_own_settings(&mut vsockctl)
        .arg("forward")
        .args(arguments);
    vsockctl
}

fn refused(arguments: &[&str]) -> Finished {
    let finished = finish(forward(arguments));
    assert_eq!(
        (finished.code, finished.stderr.len()),
        (2, 1),
        "{finished:?}"
    );
    finished
}

#[test]
fn a_port_is_listened_on_at_both_addresses_of_loopback_until_interrupted() {
    let target = Place::listening(Kind::Unix);
    // The same port of both, which nobody else is given.
    let (six, four) = (0..100)
        .find_map(|_| {
            let six = Spot::new(Kind::Tcp6);
            let port = six.address.as_socket().unwrap().port();
            let four = format!("127.0.0.1:{port}");
            let is_free = std::net::TcpListener::bind(&four).is_ok();
            is_free.then(|| (six, Spot::tcp(Domain::IPV4, &four)))
        })
        .unwrap();
    let port = six.address.as_socket().unwrap().port().to_string();
    // The last one is that of a terminal that has gone.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut program = Program::start(forward(&[&port, &target.text]));
        program.wait_for_line(&format!("bridging {} to {}", four.text, target.text));
        let mut open = Vec::new();
        for spot in [&six, &four] {
            let (mut client, mut server) = (spot.connect(), target.accept());
            ping(&mut client, &mut server);
            open.push((client, server));
        }
        program.signal(signal);
        assert_eq!(program.exit_code(), 0, "{:#?}", program.log);
        // At once, whatever is open.
        for (mut client, _server) in open {
            assert!(matches!(read_to_end(&mut client), (_, End::Reset)));
        }
        assert!(six.is_refused() && four.is_refused());
    }
}

#[test]
fn a_path_is_for_the_user_alone_and_goes_with_the_program() {
    let target = Place::listening(Kind::Tcp6);
    let spot = Spot::new(Kind::Unix);
    let mut program = Program::start(forward(&[&spot.text, &target.text]));
    program.wait_for_line("bridging");
    let file = fs::metadata(spot.file()).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    ping(&mut spot.connect(), &mut target.accept());
    program.signal(Signal::SIGINT);
    assert_eq!(program.exit_code(), 0);
    assert!(!spot.file().exists());
}

#[test]
fn what_is_given_away_is_told_before() {
    let folder = crate::common::own_folder();
    let agent = folder.path().join("ssh-agent.socket");
    let spot = Spot::new(Kind::Unix);
    let mut program = Program::start(forward(&[&spot.text, agent.to_str().unwrap()]));
    program.wait_for_line("bridging");
    let warning = &program.log[0];
    assert!(
        warning.starts_with("vsockctl: warning: whoever may write to the socket comes to"),
        "{warning}"
    );
    assert!(
        warning.contains("may log in wherever its keys open"),
        "{warning}"
    );
    program.stop();
}

#[test]
fn what_cannot_be_forwarded_is_one_line() {
    let place = Place::listening(Kind::Unix);
    for (arguments, words) in [
        (&["8080", "80"][..], "write 3:80 for port 80 of machine 3"),
        (&["0", "web:80"], "a TCP port is from 1 to 65535"),
        (
            &["-L", "8080:web:80"],
            "`-L` is ssh's; write 8080 web:80, in two words",
        ),
        (
            &["8080", "web", "80"],
            "the port is missing; expected e.g. web:80",
        ),
        (&["8080", "web:80", "tcp"], "one word too many"),
        (&["web:80", "8080"], "expected e.g. 8080 web:80"),
        (&["8080", "0:80"], "e.g. 3:80"),
        (&["8080", "unix:80"], "written 3:80"),
        (&["vsock::1 vsock::2", "/run/x"], "one address is forwarded"),
        (&["8080", "vsock:mapped"], "name one target"),
        (
            &["8080", "inbound"],
            "systemctl enable --now vsock-bridge-inbound.socket",
        ),
        (&["8080"], "<TARGET>"),
        (&["--remove", "8080", "3:80"], "cannot be used with"),
        (
            &["--dry-run", "8080", "3:80"],
            "`--dry-run` is for `--persistent` and `--remove`",
        ),
        (&["--owner", "me", "8080", "3:80"], "--persistent"),
        (
            &["--allow-cid", "3", "8080", "3:80"],
            "`--allow-cid` is for vsock",
        ),
        (
            &["--remove", "--allow-cid", "3", "vsock::7000"],
            "cannot be used with",
        ),
        (
            &[
                "--persistent",
                "--dry-run",
                "--names",
                "zz=9",
                "8080",
                "zz:80",
            ],
            "are not those of the service",
        ),
        (
            &["--persistent", "--dry-run", "--owner", "me", "8080", "3:80"],
            "--owner is for a unix socket",
        ),
        (
            &[
                "--persistent",
                "--dry-run",
                "--owner",
                "me\nExecStartPre=x",
                "/run/x",
                "3:80",
            ],
            "is no name of a user",
        ),
        (
            &[
                "--persistent",
                "--dry-run",
                "--owner",
                "nobdy",
                "/run/x",
                "3:80",
            ],
            "--owner nobdy: this machine has no user of that name",
        ),
        (
            &["--persistent", "--dry-run", "vsock::80", "/run/x\nEND"],
            "has letters that no file of settings takes",
        ),
        (
            &["--persistent", "@name", "3:80"],
            "`--persistent` listens on a vsock port, a TCP port or the path",
        ),
    ] {
        let line = &refused(arguments).stderr[0];
        assert!(line.contains(words), "{arguments:?}: {line}");
    }
    // In use, which is told as of a bridge.
    let finished = finish(forward(&[&place.text, "[::1]:80"]));
    assert_eq!(finished.code, 1);
    assert!(finished.stderr[0].contains(&place.text), "{finished:?}");
}
