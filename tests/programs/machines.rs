//! `vsockctl machines`: whom it asks, what it makes of the answers, and that nobody holds it up.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::common::own_etc::OwnEtc;
use crate::common::program::{Finished, command, finish, ours};
use crate::common::{own_folder, skipped};
use crate::managers::{Machine, prints, with_machined};

const WEB: &str = "8c0f3a52-0000-4000-8000-000000000001";
const DB: &str = "8c0f3a52-0000-4000-8000-000000000002";

fn domain(name: &str, uuid: &str, cid: &str, state: &str) -> String {
    format!(
        "<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n  <devices>{cid}</devices>\n</domain>\n\n{state}\n"
    )
}

/// A virsh that has web, which runs, for the user, and for the system web once more and db, which is off.
fn with_libvirt(machine: &Machine) {
    let web = domain("web", WEB, "<vsock><cid address='7'/></vsock>", "running");
    let db = domain("db", DB, "<vsock><cid auto='yes'/></vsock>", "shut off");
    let script = format!(
        "echo \"$*\" >>DIR/asked\n\
         case \"$*\" in\n\
         '--connect qemu:///system --quiet --readonly list --all --uuid') echo {WEB}; echo {DB};;\n\
         '--quiet --readonly list --all --uuid') echo {WEB}; echo;;\n\
         '--quiet --readonly dumpxml --domain {WEB}; domstate --domain {WEB}')\n{}\n;;\n\
         '--connect qemu:///system --quiet --readonly dumpxml --domain {DB}; domstate --domain {DB}')\n{}\n;;\n\
         *) echo 'error: unexpected' >&2; exit 1;; esac",
        prints(&web),
        prints(&db)
    );
    machine.tool("virsh", &script);
}

fn machines(machine: &Machine, arguments: &[&str]) -> Finished {
    machine.finish("", "vsockctl", &[&["machines"], arguments].concat())
}

fn expect_table(finished: &Finished, rows: &[&str]) {
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines, rows, "{finished:#?}");
    assert_eq!(
        (finished.code, finished.stderr.len()),
        (0, 0),
        "{finished:#?}"
    );
}

#[test]
fn machines_of_both_managers_and_of_the_names_are_one_table() {
    let Some(machine) = Machine::new() else {
        return;
    };
    with_libvirt(&machine);
    let replies = [
        json!({"parameters": {"name": "box", "class": "container"}, "continues": true}),
        json!({"parameters": {"name": "web", "class": "vm", "vSockCid": 7}, "continues": true}),
        json!({"parameters": {"name": "ci", "class": "vm", "vSockCid": 9}}),
    ];
    let text: String = replies.map(|reply| format!("{reply}\0")).concat();
    for pieces in [1, 100, 10_000] {
        let send = |stream: &mut UnixStream| {
            for piece in text.as_bytes().chunks(pieces) {
                stream.write_all(piece).unwrap();
            }
        };
        let question = with_machined(&machine, send, || {
            let finished = machines(&machine, &["--names", "web=7 www=7 old=8"]);
            expect_table(
                &finished,
                &[
                    "NAME  CID  STATE     SOURCE",
                    "ci      9  running   machined",
                    "db      -  shut off  libvirt",
                    "old     8  -         --names",
                    "web     7  running   --names, machined, libvirt",
                    "www     7  running   --names",
                ],
            );
        });
        assert_eq!(
            question,
            json!({"method": "io.systemd.Machine.List", "parameters": {}, "more": true})
        );
    }
}

#[test]
fn json_and_lines_without_titles_have_the_same() {
    let Some(machine) = Machine::new() else {
        return;
    };
    with_libvirt(&machine);
    let finished = machines(&machine, &["--no-legend"]);
    expect_table(
        &finished,
        &[
            "db      -  shut off  libvirt",
            "web     7  running   libvirt",
        ],
    );
    let found: Value = serde_json::from_str(&machines(&machine, &["--json"]).stdout).unwrap();
    assert_eq!(
        found,
        json!([
            {"name": "db", "cid": null, "socket": null, "state": "shut off", "sources": ["libvirt"], "overruled_by": null},
            {"name": "web", "cid": 7, "socket": null, "state": "running", "sources": ["libvirt"], "overruled_by": null},
        ])
    );
}

#[test]
fn machinectl_is_asked_where_there_is_no_varlink() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let script = "case \"$*\" in\n\
         '--no-pager --no-legend list') echo 'web vm x - - 10.0.0.1'; echo '           10.0.0.2'; echo 'box container x - - -';;\n\
         'show --no-pager --property Name --property VSockCID -- web box')\n\
         echo Name=web; echo VSockCID=7; echo; echo Name=box; echo VSockCID=4294967295;;\n\
         *) exit 1;; esac";
    machine.tool("machinectl", script);
    let finished = machines(&machine, &[]);
    expect_table(
        &finished,
        &["NAME  CID  STATE    SOURCE", "web     7  running  machined"],
    );
}

/// With the libvirt of this machine, whose test driver needs no service.
#[test]
fn a_real_virsh_tells_its_domains() {
    let place = own_folder();
    let file = place.path().join("node.xml");
    let domain = |name: &str, uuid: &str, device: &str| {
        format!(
            "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory>\
             <os><type>hvm</type></os><devices>{device}</devices></domain>"
        )
    };
    let device = "<vsock model='virtio'><cid auto='no' address='7'/></vsock>";
    let text = [domain("a &amp; b", WEB, device), domain("db", DB, "")].concat();
    fs::write(&file, format!("<node>{text}</node>")).unwrap();
    let uri = format!("test://{}", file.display());
    let mut virsh = command("virsh");
    virsh.args(["--connect", &uri, "list"]);
    if !virsh.output().is_ok_and(|done| done.status.success()) {
        return skipped("virsh is not installed");
    }
    let Some(machine) = Machine::new() else {
        return;
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let wrapped = format!(
        "case \"$*\" in *qemu:///system*) exit 0;; esac\nexport PATH={path} LIBVIRT_DEFAULT_URI={uri}\nexec virsh \"$@\""
    );
    machine.tool("virsh", &wrapped);
    let finished = machines(&machine, &[]);
    expect_table(
        &finished,
        &[
            "NAME   CID  STATE    SOURCE",
            "a & b    7  running  libvirt",
            "db       -  running  libvirt",
        ],
    );
}

#[test]
fn who_cannot_be_asked_is_a_line_the_others_are_shown_and_exits_1() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.tool(
        "machinectl",
        "echo 'Failed to list machines: no' >&2; exit 1",
    );
    for (script, words) in [
        (
            "echo 'error: no rights' >&2; exit 1".to_owned(),
            "error: no rights",
        ),
        ("echo nonsense".to_owned(), "\"nonsense\", which is no UUID"),
        (
            format!("case \"$*\" in *list*) echo {WEB};; *) echo '<domain>';; esac"),
            "no XML",
        ),
        ("exec /usr/bin/yes".into(), "does not stop talking"),
    ] {
        machine.tool("virsh", &script);
        let finished = machines(&machine, &["--names", "web=7"]);
        assert_eq!(finished.code, 1, "{finished:#?}");
        assert!(
            finished.stdout.contains("web     7  -      --names"),
            "{finished:#?}"
        );
        let [first, second] = &finished.stderr[..] else {
            panic!("not two lines: {finished:#?}")
        };
        assert!(
            first.contains("cannot ask machined for its machines: machinectl said"),
            "{first}"
        );
        assert!(
            second.contains("cannot ask libvirt for its machines: ") && second.contains(words),
            "{second}"
        );
    }
}

#[test]
fn managers_that_are_silent_or_never_end_are_not_waited_for() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.tool("virsh", "exec /bin/sleep 1000");
    let drip = |stream: &mut UnixStream| {
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    with_machined(&machine, drip, || {
        let finished = machines(&machine, &["--names", "web=7"]);
        assert_eq!(
            (finished.code, finished.stderr.len()),
            (1, 2),
            "{finished:#?}"
        );
        assert!(
            finished
                .stderr
                .iter()
                .all(|line| line.ends_with("no answer in time")),
            "{finished:#?}"
        );
        assert!(finished.stdout.contains("--names"), "{finished:#?}");
    });
}

#[test]
fn managers_that_are_not_there_or_do_not_run_have_no_machines() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for complaint in [
        "Failed to connect to bus: No such file or directory",
        // systemd 257
        "Failed to connect to system scope bus via local transport: No such file or directory",
        "",
    ] {
        let finished = machines(&machine, &[]);
        assert_eq!((finished.code, &*finished.stdout), (0, ""), "{finished:#?}");
        let [line] = &finished.stderr[..] else {
            panic!("not one line: {finished:#?}")
        };
        assert!(line.contains("no machine has a name"), "{line}");
        assert_eq!(machines(&machine, &["--json"]).stdout, "[]\n");
        machine.tool(
            "virsh",
            "echo \"error: failed to connect to the hypervisor\nerror: Failed to connect socket to \
             '/var/run/libvirt/libvirt-sock-ro': No such file or directory\" >&2; exit 1",
        );
        machine.tool("machinectl", &format!("echo '{complaint}' >&2; exit 1"));
    }
}

#[test]
fn a_name_of_the_file_has_its_line() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("no mount namespaces here");
    };
    let tools = own_folder();
    let run = |settings: &str| {
        etc.write("vsock-bridge/vsock-bridge.conf", settings);
        let mut vsockctl = etc.command("env");
        vsockctl.arg(format!("PATH={}", tools.path().display()));
        vsockctl.args([&ours("vsockctl"), "machines", "--no-legend"]);
        finish(vsockctl)
    };
    let place = "/etc/vsock-bridge/vsock-bridge.conf";
    let finished = run("# names\nVSOCK_BRIDGE_NAMES=\"Web=3\"\n");
    let states = finished.stdout.split_whitespace().collect::<Vec<_>>();
    assert_eq!(
        states,
        ["web", "3", "-", &format!("{place}:2")],
        "{finished:#?}"
    );
    let finished = run("VSOCK_BRIDGE_NAMES=\"web=3,db=4\"\n");
    assert_eq!((finished.code, &*finished.stdout), (1, ""), "{finished:#?}");
    let line = &finished.stderr[0];
    assert!(
        line.contains(&format!("{place}:1: ")) && line.contains("not commas"),
        "{line}"
    );
}

/// Each program that reads the file for all of them says so, once however often it reads it.
#[test]
fn a_slip_in_the_file_is_told_by_every_program_that_reads_it() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("no mount namespaces here");
    };
    let settings = "VSOCK_BRIDGE_NAME=\"web=3\"\nVSOCK_BRIDGE_PREFX=fd00:1::/64\nnonsense\n";
    etc.write("vsock-bridge/vsock-bridge.conf", settings);
    let place = "/etc/vsock-bridge/vsock-bridge.conf";
    let lines = [
        format!(
            "{place}:1: VSOCK_BRIDGE_NAME is not a setting of vsock-bridge, did you mean VSOCK_BRIDGE_NAMES?"
        ),
        format!(
            "{place}:2: VSOCK_BRIDGE_PREFX is not a setting of vsock-bridge, did you mean VSOCK_BRIDGE_PREFIX?"
        ),
        format!("{place}:3: expected NAME=value; the line is skipped"),
    ];
    for (program, arguments) in [
        ("vsockctl", &["cid", "web"][..]),
        ("vsockctl", &["addr", "web"]),
        ("vsockctl", &["prefix"]),
        ("vsockctl", &["hosts"]),
        ("vsock-connect", &["web"]),
        (
            "vsock-notify",
            &[
                "--listen",
                "vsock-stream::9003",
                "--allow-cid",
                "web",
                "true",
            ],
        ),
    ] {
        let mut command = etc.command(ours(program));
        command.args(arguments);
        let finished = finish(command);
        for line in &lines {
            let told = finished.stderr.iter().filter(|told| told.contains(line));
            assert_eq!(told.count(), 1, "{program} {arguments:?}: {finished:#?}");
        }
    }
}
