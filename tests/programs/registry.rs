//! The registry of names: what the programs find in files that others write and remove while machines run.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::own_run::OwnRun;
use crate::common::place::{Kind, Place};
use crate::common::program::{Finished, Program, finish, ours};
use crate::common::skipped;
use crate::common::vmm::taken;

const FOLDER: &str = "/run/vsock-bridge/names.d";

/// A machine with a folder for names.
struct Machine {
    run: OwnRun,
    folder: PathBuf,
}

impl Machine {
    fn new() -> Option<Machine> {
        let Some(run) = OwnRun::new() else {
            skipped("nothing can be mounted here");
            return None;
        };
        let folder = run.service("names.d");
        Some(Machine { run, folder })
    }

    /// Writes a file as those who start machines are told to.
    fn write(&self, name: &str, text: &str) {
        let unfinished = self.folder.join(format!(".{name}.new"));
        fs::write(&unfinished, text).unwrap();
        fs::rename(unfinished, self.folder.join(name)).unwrap();
    }

    fn finish(&self, program: &str, arguments: &[&str]) -> Finished {
        finish_with(self.run.command(ours(program)), arguments)
    }

    /// The same as a user for whom permissions of files hold.
    fn finish_without_rights(&self, program: &str, arguments: &[&str]) -> Finished {
        let command = self.run.command_without_rights(ours(program));
        finish_with(command, arguments)
    }

    fn expect(&self, arguments: &[&str], text: &str) {
        let finished = self.finish("vsockctl", arguments);
        assert_eq!(finished.stdout, text, "{arguments:?}: {finished:#?}");
        assert_eq!(
            (finished.code, finished.stderr.len()),
            (0, 0),
            "{finished:#?}"
        );
    }

    /// Expects one line and 2.
    fn expect_refusal(&self, program: &str, arguments: &[&str], words: &[&str]) {
        let finished = self.finish(program, arguments);
        let [line] = &finished.stderr[..] else {
            panic!("not one line: {finished:#?}")
        };
        assert_eq!((finished.code, &*finished.stdout), (2, ""), "{line}");
        for word in words {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}

fn finish_with(mut command: Command, arguments: &[&str]) -> Finished {
    command.env("VSOCK_BRIDGE_PREFIX", "fd00::/64");
    command.args(arguments);
    finish(command)
}

#[test]
fn a_name_is_looked_up_as_it_holds_at_that_moment() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.expect_refusal("vsockctl", &["cid", "web"], &["\"web\"", FOLDER]);
    for cid in ["7", "9"] {
        machine.write("web.conf", &format!("# by a hook\nWeb={cid}\n"));
        machine.expect(&["cid", "web.vsock"], &format!("{cid}\n"));
        machine.expect(&["addr", "WEB"], &format!("fd00::{cid}\n"));
    }
    machine.expect_refusal("vsock-connect", &["web:22"], &["write vsock:web:22"]);
    // It may be what is there of `web=71` by now; nobody writes more of it.
    fs::write(machine.folder.join("web.conf"), "web=7").unwrap();
    machine.expect(&["cid", "web"], "7\n");
    fs::remove_file(machine.folder.join("web.conf")).unwrap();
    machine.expect_refusal("vsockctl", &["cid", "web"], &["\"web\"", FOLDER]);
    fs::remove_dir(&machine.folder).unwrap();
    machine.expect_refusal("vsock-connect", &["web"], &["\"web\"", FOLDER]);
}

#[test]
fn a_name_that_is_not_found_may_be_in_a_file_that_this_user_cannot_read() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.write("web.conf", "web=7\n");
    let closed = fs::Permissions::from_mode(0o000);
    fs::set_permissions(machine.folder.join("web.conf"), closed).unwrap();
    machine.write("db.conf", "db=4\n");
    for (program, arguments) in [
        ("vsockctl", ["cid", "web"].as_slice()),
        ("vsockctl", &["addr", "web.vsock"]),
        ("vsock-connect", &["vsock:web:22"]),
        ("vsock-connect", &["web"]),
    ] {
        let finished = machine.finish_without_rights(program, arguments);
        let [line] = &finished.stderr[..] else {
            panic!("not one line: {finished:#?}")
        };
        let words = format!(
            "no machine is named \"web\": cannot read {FOLDER}/web.conf: Permission denied"
        );
        assert!(line.contains(&words) && finished.code == 2, "{line}");
    }
    let finished = machine.finish_without_rights("vsockctl", &["cid", "db"]);
    assert_eq!((&*finished.stdout, finished.stderr.len()), ("4\n", 0));
}

#[test]
fn the_administrator_and_then_the_earliest_file_have_the_word() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.write("b.conf", "web=5\ndb=6\n");
    machine.write("a.conf", "web=4\nnonsense\n");
    machine.expect(&["cid", "web"], "4\n");
    machine.expect(&["cid", "db"], "6\n");
    machine.expect(&["--names", "web=3", "cid", "web"], "3\n");
    machine.expect(&["--names", "web=3", "cid", "db"], "6\n");
    // What is only on its way, and what is no file of the registry.
    fs::write(machine.folder.join(".c.conf"), "new=7\n").unwrap();
    fs::write(machine.folder.join("c.conf~"), "new=7\n").unwrap();
    machine.expect_refusal("vsockctl", &["cid", "new"], &["\"new\""]);
}

#[test]
fn a_machine_of_hybrid_vsock_is_reached_by_its_name() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let vmm = Place::listening(Kind::Unix);
    machine.write("web.conf", &format!("web={}\n", vmm.text));
    machine.expect_refusal("vsockctl", &["addr", "web"], &["\"web\"", &vmm.text]);
    for arguments in [["vsock/web", "4711"].as_slice(), &["vsock:web:4711"]] {
        let connect = |arguments: &[&str]| machine.finish("vsock-connect", arguments);
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(arguments));
            let mut vm = vmm.accept();
            let mut request = vec![0; b"CONNECT 4711\n".len()];
            vm.read_exact(&mut request).unwrap();
            assert_eq!(request, b"CONNECT 4711\n");
            vm.write_all(b"OK 1\nhello").unwrap();
            drop(vm);
            let finished = connecting.join().unwrap();
            assert_eq!(
                (finished.code, &*finished.stdout),
                (0, "hello"),
                "{finished:#?}"
            );
        });
    }
}

#[test]
fn who_waits_for_a_machine_comes_to_the_one_that_has_its_name_by_then() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let (former, vmm) = (Place::bound(Kind::Unix), Place::listening(Kind::Unix));
    for (line, is_named) in [("refused", true), ("no machine is named", false)] {
        if is_named {
            machine.write("web.conf", &format!("web={}\n", former.text));
        }
        let mut command = machine.run.command(ours("vsock-connect"));
        command
            .args(["--wait", "10m", "web", "22"])
            .stdout(Stdio::piped());
        let mut program = Program::start(command);
        program.wait_for_line(line);
        machine.write("web.conf", &format!("web={}\n", vmm.text));
        former.socket.listen(1).unwrap();
        let mut vm = taken(&vmm, 22);
        vm.write_all(b"hello").unwrap();
        drop(vm);
        let mut said = String::new();
        program.stdout().read_to_string(&mut said).unwrap();
        assert_eq!((&*said, program.exit_code()), ("hello", 0));
        assert!(former.has_nobody_waiting());
        fs::remove_file(machine.folder.join("web.conf")).unwrap();
    }
}

#[test]
fn machines_shows_each_name_with_its_line_and_what_is_wrong() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.write("a.conf", "web=3\nhy=/run/hy/guest.vsock\n");
    machine.write("b.conf", "\nweb=4\nx=0\n");
    let finished = machine.finish("vsockctl", &["--names", "web=3", "machines", "--json"]);
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    assert!(line.contains("names.d/b.conf:3: \"x=0\""), "{line}");
    let found: Value = serde_json::from_str(&finished.stdout).unwrap();
    let row = |name: &str, cid: Option<u32>, socket: Option<&str>, sources: &[&str]| json!({"name": name, "cid": cid, "socket": socket, "state": null, "sources": sources, "overruled_by": null});
    let place = |rest: &str| format!("{FOLDER}/{rest}");
    let mut expected = json!([
        row(
            "hy",
            None,
            Some("/run/hy/guest.vsock"),
            &[&place("a.conf:2")]
        ),
        row("web", Some(3), None, &["--names", &place("a.conf:1")]),
        row("web", Some(4), None, &[&place("b.conf:2")]),
    ]);
    expected[2]["overruled_by"] = json!("--names");
    assert_eq!(found, expected);
    let finished = machine.finish("vsockctl", &["machines", "--no-legend"]);
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let found: Vec<_> = finished.stdout.lines().map(words).collect();
    let (hy, a, b) = (place("a.conf:2"), place("a.conf:1"), place("b.conf:2"));
    let expected = [
        ["hy", "-", "-", &hy, "/run/hy/guest.vsock", "-"],
        ["web", "3", "-", &a, "-", "-"],
        ["web", "4", "-", &b, "-", &a],
    ];
    assert_eq!(found, expected);
}
