//! The module as glibc loads it: what getent(1) and getaddrinfo(3) find with `hosts: files vsock` in nsswitch.conf.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "the tests of vsockctl use the rest")]
#[path = "../../tests/programs/common/own_etc.rs"]
mod own_etc;

use std::fs;
use std::net::ToSocketAddrs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use own_etc::OwnEtc;
use tempfile::TempDir;

const CONFIG: &str = "vsock-bridge/vsock-bridge.conf";
const SETTINGS: &str =
    "VSOCK_BRIDGE_PREFIX=fd00:1:2:3::/64\nVSOCK_BRIDGE_NAMES=\"web=3 www=3 hyper=host\"\n";
/// getent(1): a key was not found.
const NOT_FOUND: i32 = 2;
/// AI_ADDRCONFIG, see getaddrinfo(3).
const NEEDS_IPV6: &str = "getent asks for IPv6 addresses only where a device has one";

/// A machine that resolves names with the module.
struct Machine {
    etc: OwnEtc,
    library: TempDir,
}

impl Machine {
    fn new(settings: &str) -> Option<Machine> {
        let Some(etc) = OwnEtc::new() else {
            eprintln!("skipped: no mount namespaces here");
            return None;
        };
        etc.write("nsswitch.conf", "hosts: files vsock\n");
        etc.write("hosts", "127.0.0.1 localhost\n");
        etc.write(CONFIG, settings);
        // cargo puts the module beside the test.
        let program = std::env::current_exe().unwrap();
        let module = program.with_file_name("libnss_vsock.so");
        assert!(module.exists(), "{} is missing", module.display());
        let library = tempfile::tempdir().unwrap();
        symlink(module, library.path().join("libnss_vsock.so.2")).unwrap();
        Some(Machine { etc, library })
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.etc.command("timeout");
        command
            .arg("30")
            .arg(program.as_ref())
            .env("LD_LIBRARY_PATH", self.library.path())
            .stdin(Stdio::null());
        command
    }

    /// Asks getent; gives the words of each line, without a word on stderr.
    fn getent(&self, arguments: &[&str]) -> (i32, Vec<String>) {
        let output = self.command("getent").args(arguments).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        (
            output.status.code().unwrap(),
            text.lines().map(words).collect(),
        )
    }

    fn expect(&self, arguments: &[&str], line: &str) {
        assert_eq!(
            self.getent(arguments),
            (0, vec![line.to_owned()]),
            "{arguments:?}"
        );
    }

    fn expect_nothing(&self, database: &str, keys: &[&str]) {
        for key in keys {
            assert_eq!(
                self.getent(&[database, key]),
                (NOT_FOUND, vec![]),
                "{key:?}"
            );
        }
    }
}

#[test]
fn names_of_machines_have_their_address() {
    let Some(machine) = Machine::new(SETTINGS) else {
        return;
    };
    for (name, line) in [
        ("3.vsock", "fd00:1:2:3::3 web.vsock www.vsock 3.vsock"),
        ("web.vsock", "fd00:1:2:3::3 web.vsock www.vsock 3.vsock"),
        ("WWW.Vsock", "fd00:1:2:3::3 web.vsock www.vsock 3.vsock"),
        ("host.vsock", "fd00:1:2:3::2 hyper.vsock host.vsock 2.vsock"),
        ("local.vsock", "fd00:1:2:3::1 local.vsock 1.vsock"),
        ("1024.vsock", "fd00:1:2:3::400 1024.vsock"),
        ("4294967294.vsock", "fd00:1:2:3::ffff:fffe 4294967294.vsock"),
    ] {
        machine.expect(&["hosts", name], line);
    }
    // AF_INET6 and AF_UNSPEC take other functions of the module.
    for database in ["ahostsv6", "ahosts"] {
        let (status, lines) = machine.getent(&[database, "3.vsock"]);
        assert_eq!(status, 0, "{database}: {NEEDS_IPV6}");
        assert_eq!(lines[0], "fd00:1:2:3::3 STREAM web.vsock", "{database}");
        assert!(
            lines.iter().all(|line| line.starts_with("fd00:1:2:3::3 ")),
            "{lines:?}"
        );
    }
}

#[test]
fn names_of_the_registry_come_and_go_and_follow_those_of_the_administrator() {
    let Some(mut machine) = Machine::new(SETTINGS) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    machine.etc.prelude = format!(
        "mount -t tmpfs none /run && mkdir -p /run/vsock-bridge/names.d && \
         mount --bind '{}' /run/vsock-bridge/names.d && ",
        folder.path().display()
    );
    let file = folder.path().join("new.conf");
    machine.expect_nothing("hosts", &["new.vsock"]);
    fs::write(&file, "new=3\nweb=9\nnonsense\nhy=/run/hy/guest.vsock\n").unwrap();
    let line = "fd00:1:2:3::3 web.vsock www.vsock new.vsock 3.vsock";
    for key in ["new.vsock", "web.vsock", "fd00:1:2:3::3"] {
        machine.expect(&["hosts", key], line);
    }
    machine.expect(&["hosts", "9.vsock"], "fd00:1:2:3::9 9.vsock");
    machine.expect_nothing("hosts", &["hy.vsock"]);
    fs::write(&file, "new=9\n").unwrap();
    machine.expect(&["hosts", "new.vsock"], "fd00:1:2:3::9 new.vsock 9.vsock");
    // As many as are read, in the time that a process may be held up: getent has 30 seconds, and needs far less.
    for number in 0..5000 {
        fs::write(
            folder.path().join(format!("{number}.conf")),
            format!("m{number}=7\n"),
        )
        .unwrap();
    }
    let (status, lines) = machine.getent(&["hosts", "7.vsock"]);
    assert_eq!((status, lines.len()), (0, 1));
    assert!(lines[0].split(' ').count() > 4000, "{}", lines[0].len());
    fs::remove_file(&file).unwrap();
    machine.expect_nothing("hosts", &["new.vsock"]);
}

#[test]
fn addresses_of_machines_have_their_names() {
    let Some(machine) = Machine::new(SETTINGS) else {
        return;
    };
    for (address, names) in [
        ("fd00:1:2:3::3", "web.vsock www.vsock 3.vsock"),
        ("fd00:1:2:3::2", "hyper.vsock host.vsock 2.vsock"),
        ("fd00:1:2:3::7", "7.vsock"),
    ] {
        machine.expect(&["hosts", address], &format!("{address} {names}"));
    }
    machine.expect_nothing(
        "hosts",
        &[
            "fd00:1:2:4::3",
            "fd00:1:2:3::",
            "fd00:1:2:3:1::3",
            "fe80::3",
            "192.0.2.3",
        ],
    );
}

#[test]
fn what_is_not_ours_is_left_to_others() {
    let Some(machine) = Machine::new(SETTINGS) else {
        return;
    };
    machine.expect(&["hosts", "localhost"], "127.0.0.1 localhost");
    machine.expect_nothing(
        "ahosts",
        &[
            "nobody.vsock",
            "0.vsock",
            "web",
            "3.example",
            "vsock",
            ".vsock",
            "w\u{e9}b.vsock",
        ],
    );
    machine.expect_nothing("ahostsv4", &["3.vsock", "web.vsock"]);
}

#[test]
fn the_prefix_is_the_one_of_the_machine_id_without_configuration() {
    let Some(machine) = Machine::new("") else {
        return;
    };
    let (status, lines) = machine.getent(&["hosts", "3.vsock"]);
    assert_eq!(status, 0);
    let address = lines[0].split(' ').next().unwrap();
    assert!(
        address.starts_with("fd") && address.ends_with("::3"),
        "{lines:?}"
    );
    machine.expect(&["hosts", address], &format!("{address} 3.vsock"));
}

#[test]
fn a_broken_configuration_is_no_answer_and_no_noise() {
    let Some(machine) = Machine::new("VSOCK_BRIDGE_PREFIX=nonsense\n") else {
        return;
    };
    let keys = ["3.vsock", "web.vsock", "fd00:1:2:3::3"];
    machine.expect_nothing("hosts", &keys);
    fs::remove_file(machine.etc.path(CONFIG)).unwrap();
    fs::create_dir(machine.etc.path(CONFIG)).unwrap();
    machine.expect_nothing("hosts", &keys);
    fs::remove_dir(machine.etc.path(CONFIG)).unwrap();
    fs::remove_file(machine.etc.path("machine-id")).unwrap();
    machine.expect_nothing("hosts", &keys);
}

#[test]
fn names_that_are_broken_leave_the_cids() {
    let Some(machine) =
        Machine::new("VSOCK_BRIDGE_PREFIX=fd00::\nVSOCK_BRIDGE_NAMES=web\nnonsense\n")
    else {
        return;
    };
    machine.expect(&["hosts", "host.vsock"], "fd00::2 host.vsock 2.vsock");
    machine.expect_nothing("hosts", &["web.vsock"]);
}

#[test]
fn a_machine_has_more_names_than_the_first_buffer_holds() {
    let names: Vec<String> = (0..500).map(|n| format!("name-{n}=3")).collect();
    let settings = format!("VSOCK_BRIDGE_NAMES={}\n", names.join(" "));
    let Some(machine) = Machine::new(&settings) else {
        return;
    };
    for database in ["hosts", "ahosts", "ahostsv6"] {
        let (status, lines) = machine.getent(&[database, "name-499.vsock"]);
        assert_eq!(status, 0, "{database}: {NEEDS_IPV6}");
        assert!(lines[0].contains("name-0.vsock"), "{lines:?}");
    }
    let (_, lines) = machine.getent(&["hosts", "3.vsock"]);
    assert!(lines[0].ends_with("name-499.vsock 3.vsock"), "{lines:?}");
}

#[test]
fn the_environment_does_not_count() {
    let Some(machine) = Machine::new(SETTINGS) else {
        return;
    };
    machine
        .etc
        .write("other/vsock-bridge.prefix", "fd00:9::/64\n");
    let mut getent = machine.command("getent");
    getent
        .args(["hosts", "web.vsock"])
        .env("VSOCK_BRIDGE_PREFIX", "fd00:9::/64")
        .env("VSOCK_BRIDGE_NAMES", "web=9")
        .env("CREDENTIALS_DIRECTORY", "/etc/other");
    let output = getent.output().unwrap();
    assert!(output.stdout.starts_with(b"fd00:1:2:3::3 "), "{output:?}");
}

#[test]
fn many_threads_resolve_at_once() {
    let Some(machine) = Machine::new(SETTINGS) else {
        return;
    };
    let mut test = machine.command(std::env::current_exe().unwrap());
    test.args(["--ignored", "--exact", "as_many_threads"]);
    let output = test.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

#[test]
#[ignore = "needs the machine of `many_threads_resolve_at_once`, which starts it"]
fn as_many_threads() {
    let resolve = |thread: u32| {
        for round in 0..200 {
            let cid = 3 + thread * 1000 + round;
            let mut addresses = (format!("{cid}.vsock"), 22).to_socket_addrs().unwrap();
            let expected = format!("[fd00:1:2:3::{cid:x}]:22");
            assert_eq!(addresses.next().unwrap().to_string(), expected);
            assert_eq!(addresses.next(), None);
        }
    };
    thread::scope(|scope| {
        for thread in 0..16 {
            scope.spawn(move || resolve(thread));
        }
    });
}
