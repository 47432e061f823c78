//! `machine/NAME` and `libvirt/NAME`: what vsock-connect makes of every answer, with tools and a machined of the tests.
//!
//! No connection is made: where a CID is found, strace(1) has connect(2) fail, and the line tells the CID.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::common::own_run::OwnRun;
use crate::common::program::{Finished, command, finish, ours};
use crate::common::{DEADLINE, own_folder, skipped};
use socket2::SockRef;
use tempfile::TempDir;

/// A machine with a /run of its own and no tools but those that a test gives it.
pub(crate) struct Machine {
    run: OwnRun,
    tools: TempDir,
    /// Where the socket of machined is.
    machined: PathBuf,
}

impl Machine {
    pub(crate) fn new() -> Option<Machine> {
        let Some(run) = OwnRun::new() else {
            skipped("nothing can be mounted here");
            return None;
        };
        let machined = run.service("machined").join("io.systemd.Machine");
        let tools = own_folder();
        Some(Machine {
            run,
            tools,
            machined,
        })
    }

    /// Makes a tool of a few lines of shell, in which DIR is a folder of the test.
    pub(crate) fn tool(&self, name: &str, script: &str) -> PathBuf {
        let path = self.tools.path().join(name);
        let folder = self.tools.path().to_str().unwrap();
        fs::write(
            &path,
            format!("#!/bin/sh\n{}\n", script.replace("DIR", folder)),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Starts vsock-connect, through `wrapper` if there is one.
    fn connect(&self, wrapper: &str, arguments: &[&str]) -> Finished {
        self.finish(wrapper, "vsock-connect", arguments)
    }

    /// Starts a program of ours, and waits for its end.
    pub(crate) fn finish(&self, wrapper: &str, program: &str, arguments: &[&str]) -> Finished {
        let script = format!(
            "mkdir /run/systemd && ln -s /run/vsock-bridge/machined /run/systemd/machine && \
             exec {wrapper} env PATH={} \"$0\" \"$@\"",
            self.tools.path().display()
        );
        let mut shell = self.run.command("sh");
        shell.args(["-c", &script, &ours(program)]);
        shell.args(arguments);
        finish(shell)
    }

    /// Expects one line and 255.
    fn expect_failure(&self, arguments: &[&str], words: &[&str]) {
        expect_line(&self.connect("", arguments), 255, words);
    }

    /// Expects that the machine is found; `calls` of connect(2) go to its manager first.
    fn expect_cid(&self, arguments: &[&str], cid: u32, port: u32, calls: u32) {
        if command("strace").arg("-V").output().is_err() {
            return skipped("strace is not installed");
        }
        let trace = self.tools.path().join("trace");
        let last = calls + 1;
        let wrapper = format!(
            "strace -f -qq -o {} -e trace=connect -e inject=connect:error=ECONNRESET:when={last}",
            trace.display()
        );
        let finished = self.connect(&wrapper, arguments);
        let target = format!("cannot connect to vsock:{cid}:{port} ");
        expect_line(&finished, 255, &[&target]);
        let calls = fs::read_to_string(trace).unwrap();
        let connected: Vec<&str> = calls.lines().filter(|l| l.contains("connect(")).collect();
        assert!(connected.last().unwrap().contains("INJECTED"), "{calls}");
    }
}

fn expect_line(finished: &Finished, code: i32, words: &[&str]) {
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    for word in words {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
    assert!(line.len() < 500, "{line}");
    assert_eq!((finished.code, &*finished.stdout), (code, ""), "{line}");
}

/// A domain with these devices, as virsh prints it.
fn domain(devices: &str) -> String {
    format!(
        "<domain type='kvm' id='5'>\n  <name>web</name>\n  <uuid>8c0f3a52</uuid>\n  \
         <devices>\n    {devices}\n  </devices>\n</domain>"
    )
}

pub(crate) fn prints(text: &str) -> String {
    format!("cat <<'END'\n{text}\nEND").replace("cat", "/bin/cat")
}

const UNKNOWN: &str = "echo \"error: failed to get domain 'web'\" >&2; exit 1";
const CID: u32 = 4_000_000_007;

fn with_cid() -> String {
    domain(&format!(
        "<vsock model='virtio'><cid auto='yes' address='{CID}'/></vsock>"
    ))
}

#[test]
fn libvirt_knows_the_machine_and_is_asked_read_only() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let script = format!(
        "[ \"$*\" = '--quiet --readonly dumpxml --domain web' ] || exit 1\n{}",
        prints(&with_cid())
    );
    machine.tool("virsh", &script);
    machine.expect_cid(&["libvirt/web"], CID, 22, 0);
    machine.expect_cid(&["libvirt%web", "445"], CID, 445, 0);
}

#[test]
fn libvirt_knows_the_machine_among_those_of_the_system() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let found = prints(&with_cid());
    let script = format!("case \"$*\" in *qemu:///system*)\n{found}\n;; *) {UNKNOWN};; esac");
    machine.tool("virsh", &script);
    machine.expect_cid(&["libvirt/web"], CID, 22, 0);
}

/// As ssh(1) asks, which makes the name small.
#[test]
fn libvirt_knows_one_machine_by_other_capital_letters_and_several_are_refused() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let uuids = [
        "8c0f3a52-0000-4000-8000-000000000001",
        "8c0f3a52-0000-4000-8000-000000000002",
    ];
    let script = |names: &[&str]| {
        let list = prints(&uuids[..names.len()].join("\n"));
        let domain = |name: &&str| with_cid().replace("<name>web<", &format!("<name>{name}<"));
        let each = |name: &&str| format!("*'--domain {name}') {}\n;; ", prints(&domain(name)));
        let all: String = names
            .iter()
            .map(|name| domain(name) + "\nrunning\n")
            .collect();
        format!(
            "case \"$*\" in *system*) {UNKNOWN};; *--uuid) {list}\n;; *domstate*) {}\n;; {} *) {UNKNOWN};; esac",
            prints(&all),
            names.iter().map(each).collect::<String>()
        )
    };
    machine.tool("virsh", &script(&["Web"]));
    machine.expect_cid(&["libvirt/web"], CID, 22, 0);
    machine.expect_cid(&["libvirt/WEB"], CID, 22, 0);
    machine.tool("virsh", &script(&["Web", "wEB"]));
    machine.expect_cid(&["libvirt/wEB"], CID, 22, 0);
    let words = ["cannot find libvirt/web: ", "several", "Web, wEB"];
    machine.expect_failure(&["libvirt/web"], &words);
    machine.tool("virsh", &script(&["web2"]));
    machine.expect_failure(&["libvirt/web"], &["knows no such machine"]);
}

#[test]
fn libvirt_has_answered_and_does_not_end_it_is_not_waited_for() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let answer = prints(&with_cid());
    machine.tool(
        "virsh",
        &format!("{answer}\nexec /bin/sleep 1000 >/dev/null 2>&1"),
    );
    machine.expect_cid(&["--connect-timeout", "1h", "libvirt/web"], CID, 22, 0);
}

#[test]
fn libvirt_gives_no_cid_exits_255_with_one_line() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let two = "<vsock><cid address='7'/></vsock><vsock><cid address='8'/></vsock>";
    for (script, words) in [
        (
            UNKNOWN.to_owned(),
            "libvirt/web: libvirt knows no such machine",
        ),
        (
            format!("case \"$*\" in *qemu:///system*) echo no >&2;; *) {UNKNOWN};; esac"),
            "libvirt knows no such machine; virsh said \"no\"",
        ),
        (
            "echo 'error: failed to connect to the hypervisor' >&2; echo more >&2; exit 1".into(),
            "virsh said \"error: failed to connect to the hypervisor; more\"",
        ),
        ("exit 1".into(), "virsh said nothing"),
        ("exit 0".into(), "virsh said nothing"),
        (prints(&domain("")), "it has no vsock"),
        (
            prints(&domain("<vsock><cid auto='yes'/></vsock>")),
            "not running",
        ),
        (prints(&domain(two)), "several CIDs: 7, 8"),
        (
            prints(&domain("<vsock><cid address='4294967295'/></vsock>")),
            "no CID",
        ),
        (prints(&with_cid().replace("web", "db")), "no such machine"),
        ("echo nonsense".into(), "no XML"),
        ("printf '\\377\\376\\0\\033[1m'".into(), "no XML"),
        ("exec /usr/bin/yes".into(), "does not stop talking"),
        ("exec /usr/bin/yes >&2".into(), "does not stop talking"),
    ] {
        machine.tool("virsh", &script);
        machine.expect_failure(&["libvirt/web"], &["cannot find libvirt/web: ", words]);
    }
}

#[test]
fn a_tool_is_missing_or_cannot_be_run_exits_255_with_one_line() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.expect_failure(&["libvirt/web"], &["libvirt/web", "libvirt-clients"]);
    machine.expect_failure(&["machine/web"], &["machine/web", "systemd-container"]);
    for (name, host) in [("virsh", "libvirt/web"), ("machinectl", "machine/web")] {
        let path = machine.tool(name, "");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        machine.expect_failure(&[host], &[name, "cannot be run"]);
    }
}

#[test]
fn a_tool_is_silent_exits_255_after_the_connect_timeout_and_it_is_ended() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for (name, host) in [("virsh", "libvirt/web"), ("machinectl", "machine/web")] {
        machine.tool(name, "echo $$ >DIR/pid; exec /bin/sleep 1000");
        let arguments = ["--connect-timeout", "500ms", host];
        machine.expect_failure(&arguments, &[name, "gave no answer in time"]);
        let pid = fs::read_to_string(machine.tools.path().join("pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}

#[test]
fn machinectl_knows_the_machine_where_there_is_no_varlink() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let script = format!(
        "[ \"$*\" = 'show --no-pager --property VSockCID -- web' ] || exit 1\necho VSockCID={CID}"
    );
    machine.tool("machinectl", &script);
    machine.expect_cid(&["machine/web"], CID, 22, 2);
    machine.expect_cid(&["machine%web", "445"], CID, 445, 2);
}

#[test]
fn machinectl_gives_no_cid_exits_255_with_one_line() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for (script, words) in [
        (
            "echo \"Could not get path to machine: No machine 'web' known\" >&2; exit 1",
            "knows no such machine",
        ),
        (
            "echo 'Failed to connect to bus' >&2; exit 1",
            "machinectl said \"Failed to connect to bus\"",
        ),
        ("exit 0", "systemd 256"),
        ("echo VSockCID=4294967295", "it has no vsock"),
        ("echo VSockCID=7; echo VSockCID=8", "several CIDs: 7, 8"),
        ("echo VSockCID=0", "no CID"),
        ("echo VSockCID=host", "no CID"),
        ("echo VSockCID=", "no CID"),
        ("echo nonsense", "machinectl said \"nonsense\""),
    ] {
        machine.tool("machinectl", script);
        machine.expect_failure(&["machine/web"], &["cannot find machine/web: ", words]);
    }
}

/// Answers one question as machined does, and gives the question.
fn answer_with(listener: &UnixListener, act: impl FnOnce(&mut UnixStream)) -> String {
    // accept(2) keeps to it as well (socket(7)).
    let socket = SockRef::from(listener);
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut question = Vec::new();
    while !question.ends_with(b"\0") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        question.extend(byte);
    }
    act(&mut stream);
    question.pop();
    String::from_utf8(question).unwrap()
}

/// Has a test run while a thread plays machined, which gives the question back.
pub(crate) fn with_machined(
    machine: &Machine,
    act: impl FnOnce(&mut UnixStream) + Send,
    test: impl FnOnce(),
) -> serde_json::Value {
    let _ = fs::remove_file(&machine.machined);
    let listener = UnixListener::bind(&machine.machined).unwrap();
    let question = std::thread::scope(|scope| {
        let machined = scope.spawn(|| answer_with(&listener, act));
        test();
        machined.join().unwrap()
    });
    serde_json::from_str(&question).unwrap()
}

#[test]
fn machined_knows_the_machine() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let answer = format!("{{\"parameters\":{{\"name\":\"web\",\"vSockCid\":{CID}}}}}\0");
    for pieces in [1, 10, 1000] {
        let send = |stream: &mut UnixStream| {
            for piece in answer.as_bytes().chunks(pieces) {
                stream.write_all(piece).unwrap();
            }
        };
        let question = with_machined(&machine, send, || {
            machine.expect_cid(&["machine/web"], CID, 22, 2);
        });
        assert_eq!(question["method"], "io.systemd.Machine.List");
        assert_eq!(question["parameters"]["name"], "web");
    }
}

#[test]
fn machined_gives_no_cid_exits_255_with_one_line() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for (answer, words) in [
        (
            "{\"error\":\"io.systemd.Machine.NoSuchMachine\"}\0",
            "knows no such machine",
        ),
        (
            "{\"parameters\":{\"name\":\"web\",\"class\":\"container\"}}\0",
            "it has no vsock",
        ),
        ("{\"parameters\":{\"vSockCid\":4294967295}}\0", "no CID"),
        (
            "{\"parameters\":{\"vSockCid\":[7,8]}}\0",
            "systemd-machined said",
        ),
        ("{\"error\":\"io.systemd.System\"}\0", "io.systemd.System"),
        ("nonsense\0", "systemd-machined said \"nonsense\""),
        ("{\"parameters\":", "systemd-machined said"),
        ("", "systemd-machined said"),
    ] {
        let send = |stream: &mut UnixStream| stream.write_all(answer.as_bytes()).unwrap();
        with_machined(&machine, send, || {
            machine.expect_failure(&["machine/web"], &["cannot find machine/web: ", words]);
        });
    }
}

#[test]
fn machined_never_ends_its_answer_exits_255_after_the_connect_timeout() {
    let Some(machine) = Machine::new() else {
        return;
    };
    // Bytes keep coming, so that it is never silent for long.
    let drip = |stream: &mut UnixStream| {
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    with_machined(&machine, drip, || {
        let arguments = ["--connect-timeout", "500ms", "machine/web"];
        machine.expect_failure(&arguments, &["systemd-machined gave no answer in time"]);
    });
    // And so that it is soon too much.
    let flood = |stream: &mut UnixStream| while stream.write_all(&[b'['; 65536]).is_ok() {};
    with_machined(&machine, flood, || {
        machine.expect_failure(&["machine/web"], &["systemd-machined said \"[[[["]);
    });
}

#[test]
fn machined_has_no_such_method_or_has_gone_then_machinectl_is_asked() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.tool("machinectl", &format!("echo VSockCID={CID}"));
    let answer = b"{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{}}\0";
    let send = |stream: &mut UnixStream| stream.write_all(answer).unwrap();
    with_machined(&machine, send, || {
        machine.expect_cid(&["machine/web"], CID, 22, 2);
    });
    // Its socket is still there, and nobody listens.
    machine.expect_cid(&["machine/web"], CID, 22, 2);
}

#[test]
fn what_is_no_name_or_port_exits_2_and_nobody_is_asked() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for tool in ["virsh", "machinectl"] {
        machine.tool(tool, "echo asked >DIR/asked");
    }
    let long = "x".repeat(256);
    for word in ["machine/", "libvirt/", "machine%", "libvirt%"] {
        for name in ["", "-x", "--help", "a/b", "a\nb", "a\x1bb", &long] {
            let host = format!("{word}{name}");
            expect_line(&machine.connect("", &["--", &host]), 2, &["name"]);
        }
        let host = format!("{word}web");
        expect_line(&machine.connect("", &[&host, "x"]), 2, &["port"]);
    }
    assert!(!machine.tools.path().join("asked").exists());
}
