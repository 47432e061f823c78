//! vsock-notify: a machine's word reaches the service manager, the machine never waits, and the monitor is on its own.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::common::notifications::Notifications;
use crate::common::program::{Program, command, finish, ours};
use crate::common::{DEADLINE, eventually, own_folder, skipped};

/// A machine with hybrid vsock, whose monitor is a program that waits.
struct Machine {
    manager: Notifications,
    path: PathBuf,
    program: Program,
    _folder: TempDir,
}

impl Machine {
    fn new(options: &[&str]) -> Machine {
        let (manager, folder) = (Notifications::new(), own_folder());
        let path = folder.path().join("vm.vsock_9003");
        let mut command = notify();
        command.arg("--listen").arg(&path).args(options);
        command.args(["sleep", "1000"]);
        command.env("NOTIFY_SOCKET", &manager.path);
        let program = Program::start(command);
        let machine = Machine {
            manager,
            path,
            program,
            _folder: folder,
        };
        // It listens before the monitor begins, and that before a shell would know.
        eventually("the monitor runs", || machine.monitor().contains("sleep"));
        machine
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// What runs as the main process of the unit.
    fn monitor(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.program.pid())).unwrap_or_default()
    }

    fn say(&self, text: &str) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }
}

fn notify() -> Command {
    command(ours("vsock-notify"))
}

/// As the guest's PID 1 does.
fn wait_for_the_end(mut stream: UnixStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_a_machine_says_is_passed_on_and_its_stream_closed() {
    let machine = Machine::new(&[]);
    let mode = fs::metadata(&machine.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = machine.say("READY=1\nSTATUS=Startup finished in 3.1s.");
    stream.shutdown(Shutdown::Write).unwrap();
    wait_for_the_end(stream);
    let said = machine.manager.next();
    assert_eq!(said, "READY=1\nSTATUS=Startup finished in 3.1s.\n");
    // A monitor may keep the end of one direction to itself.
    wait_for_the_end(machine.say("X_SYSTEMD_UNIT_ACTIVE=ssh-access.target"));
    let said = machine.manager.next();
    assert_eq!(said, "X_SYSTEMD_UNIT_ACTIVE=ssh-access.target\n");
}

#[test]
fn commands_to_the_service_manager_are_not_passed_on() {
    let machine = Machine::new(&[]);
    wait_for_the_end(machine.say("MAINPID=1\nSTOPPING=1\nFDSTORE=1\nWATCHDOG=1"));
    // Its rest is not read, so that its end is a reset.
    let mut long = machine.say(&format!("STATUS={}\nREADY=1", "x".repeat(5000)));
    assert!(!matches!(long.read(&mut [0]), Ok(1..)));
    wait_for_the_end(machine.say("MAINPID=1\nSTATUS=a\x1b[2Jb"));
    assert_eq!(machine.manager.next(), "STATUS=a [2Jb\n");
}

#[test]
fn a_target_of_the_guest_may_be_what_makes_it_ready() {
    let machine = Machine::new(&["--ready-when", "ssh-access.target"]);
    wait_for_the_end(machine.say("READY=1\nSTATUS=up"));
    assert_eq!(machine.manager.next(), "STATUS=up\n");
    wait_for_the_end(machine.say("X_SYSTEMD_UNIT_ACTIVE=ssh-access.target"));
    let said = machine.manager.next();
    assert_eq!(said, "X_SYSTEMD_UNIT_ACTIVE=ssh-access.target\nREADY=1\n");
}

#[test]
fn silent_connections_hold_nobody_up() {
    let machine = Machine::new(&[]);
    let _silent: Vec<UnixStream> = (0..100).map(|_| machine.connect()).collect();
    wait_for_the_end(machine.say("READY=1"));
    assert_eq!(machine.manager.next(), "READY=1\n");
}

/// The queue of a service manager that is busy is full after some messages.
#[test]
fn a_service_manager_without_room_holds_nobody_up_and_hears_all_later() {
    let machine = Machine::new(&[]);
    let others = machine.manager.fill();
    for text in ["READY=1", "STATUS=up", "STATUS=and running"] {
        wait_for_the_end(machine.say(text));
    }
    for _ in 0..others {
        machine.manager.next();
    }
    for text in ["READY=1\n", "STATUS=up\n", "STATUS=and running\n"] {
        assert_eq!(machine.manager.next(), text);
    }
}

#[test]
fn who_makes_room_for_others_has_been_heard() {
    let machine = Machine::new(&[]);
    let own = machine.program.pid();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
    let listener = nix::unistd::Pid::from_raw(children.trim().parse().unwrap());
    let signal = |signal| nix::sys::signal::kill(listener, signal).unwrap();
    // All are there when it looks, so that each is heard beside the others.
    signal(nix::sys::signal::Signal::SIGSTOP);
    let text = |number| format!("STATUS={number}\n");
    let streams = (0..60).map(|number| machine.say(&text(number)));
    let streams = Vec::from_iter(streams);
    signal(nix::sys::signal::Signal::SIGCONT);
    let mut heard: Vec<String> = streams.iter().map(|_| machine.manager.next()).collect();
    heard.sort();
    let mut said: Vec<String> = (0..60).map(text).collect();
    said.sort();
    assert_eq!(heard, said);
}

#[test]
fn a_machine_that_is_ready_without_end_fills_no_log() {
    let mut machine = Machine::new(&[]);
    for _ in 0..100 {
        wait_for_the_end(machine.say("READY=1"));
        machine.manager.next();
    }
    machine.program.signal(nix::sys::signal::Signal::SIGTERM);
    machine.program.exit_code();
    let lines = machine.program.log.iter();
    let count = lines
        .filter(|line| line.contains("the machine is ready"))
        .count();
    // Those of two times of 5 seconds, if it took that long.
    assert!((1..=20).contains(&count), "{count}");
}

#[test]
fn who_listens_ends_with_the_monitor_and_the_next_takes_its_place() {
    let mut machine = Machine::new(&["--listen-mode", "0660"]);
    let mode = fs::metadata(&machine.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    machine.program.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(machine.program.exit_code(), 128 + 9);
    let is_refused = || UnixStream::connect(&machine.path).is_err();
    eventually("nobody listens", is_refused);
    let mut again = notify();
    again.arg("--listen").arg(&machine.path);
    again.args(["sh", "-c", "test -S \"$0\" && exit 7"]);
    again.arg(&machine.path);
    assert_eq!(finish(again).code, 7);
}

#[test]
fn the_monitor_is_the_process_that_was_started_and_hears_of_no_service_manager() {
    let (manager, folder) = (Notifications::new(), own_folder());
    let mut command = notify();
    command.arg("--listen").arg(folder.path().join("n"));
    command.args([
        "sh",
        "-c",
        "echo $$ ${NOTIFY_SOCKET-none} \"$@\"",
        "-",
        "--help",
    ]);
    command.env("NOTIFY_SOCKET", &manager.path);
    command.stdout(Stdio::piped());
    let mut program = Program::start(command);
    let mut said = String::new();
    program.stdout().read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("{} none --help\n", program.pid()));
    assert_eq!(program.exit_code(), 0);
}

#[test]
fn without_a_service_manager_the_monitor_runs_all_the_same() {
    let folder = own_folder();
    let mut command = notify();
    command.arg("--listen").arg(folder.path().join("n"));
    command.args(["sleep", "1000"]);
    let mut program = Program::start(command);
    program.wait_for_line("NOTIFY_SOCKET is not set, so nobody hears that the machine is ready");
    program.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(program.exit_code(), 128 + 15);
}

#[test]
fn what_cannot_be_is_one_line() {
    let folder = own_folder();
    let path = folder.path().join("n");
    let path = path.to_str().unwrap();
    let _taken = std::os::unix::net::UnixListener::bind(path).unwrap();
    let free = format!("{path}2");
    for (arguments, code, words) in [
        (
            &["--listen", "vsock-stream::9003", "true"][..],
            2,
            "say which machine may speak at that address, e.g. `--allow-cid 3`",
        ),
        (
            &["--listen", "vsock::9003", "--allow-cid", "3", "true"],
            2,
            "write vsock-stream::9003",
        ),
        (
            &[
                "--listen",
                "vsock-stream::9003",
                "--allow-cid",
                "any",
                "true",
            ],
            2,
            "`--allow-cid any` would have every machine say",
        ),
        (
            &["--listen", &free, "--allow-cid", "3", "true"],
            2,
            "`--allow-cid` is for vsock",
        ),
        (
            &["--listen", &free, "--ready-when", "", "true"],
            2,
            "--ready-when: \"\" is not a valid target: expected one of the guest's systemd",
        ),
        (
            &["--listen", &free, "--ready-when", "ssh-access", "true"],
            2,
            "such as ssh-access.target",
        ),
        (
            &["--listen", &free, ""],
            2,
            "`COMMAND`: the name of the program is empty",
        ),
        (&["--listen", &free], 2, "COMMAND"),
        (&["true"], 2, "--listen"),
        (
            &["--listen", path, "true"],
            1,
            "another program listens there",
        ),
        (
            &["--listen", &free, "/nonexistent/qemu"],
            1,
            "cannot run /nonexistent/qemu: No such file or directory",
        ),
    ] {
        let mut command = notify();
        command.args(arguments);
        let finished = finish(command);
        let line: Vec<_> = finished
            .stderr
            .iter()
            .filter(|line| !line.contains("NOTIFY_SOCKET is"))
            .collect();
        assert!(line.len() == 1 && line[0].contains(words), "{finished:#?}");
        assert_eq!(finished.code, code, "{finished:#?}");
    }
}

/// The kernel is not asked: its answer for a CID of another machine, and for a port that is taken, is put in its place.
#[test]
fn what_a_line_says_to_write_is_taken() {
    if command("strace").arg("-V").output().is_err() {
        return skipped("strace is not installed");
    }
    for (address, error, words) in [
        (
            "vsock-stream:2:9003",
            "EADDRNOTAVAIL",
            "2 is no CID of this machine; vsock-stream::9003 is for",
        ),
        (
            "vsock-seqpacket:7:9003",
            "EADDRNOTAVAIL",
            "vsock-seqpacket::9003 is for",
        ),
        (
            "vsock-stream::9003",
            "EADDRINUSE",
            "another program listens there",
        ),
    ] {
        let mut traced = command("strace");
        let inject = format!("inject=socket:error={error}");
        traced.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=socket",
            "-e",
            &inject,
        ]);
        traced.arg(ours("vsock-notify"));
        traced.args(["--listen", address, "--allow-cid", "3", "true"]);
        let finished = finish(traced);
        let [line] = &finished.stderr[..] else {
            panic!("not one line: {finished:#?}")
        };
        assert!(line.contains(words) && finished.code == 1, "{line}");
    }
}
