//! vsockctl list: what it prints of the bridges that run, and what it says of those that do not answer.
//!
//! Bridges that only systemd knows of are tested under real systemd.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::bridge::Bridge;
use crate::common::own_run::OwnRun;
use crate::common::place::{Kind, Place};
use crate::common::program::{Program, command, finish, ours};
use crate::common::served::{expect_output, own_run, serve, vsockctl};
use crate::common::skipped;
use crate::common::{eventually, own_folder};
use serde_json::Value;

#[test]
fn a_bridge_whose_control_path_is_longer_than_an_address_is_listed() {
    let Some(run) = own_run() else { return };
    let machine = r"srv-jailer-firecracker-6a1f0c3e\x2d4b7d\x2d4f1e\x2d9c55\x2d0d6f2b8e7a11-root-web.vsock_445";
    let name = format!("vsock-bridge-mux@{machine}");
    let served = serve(&run, &name);
    let listed = expect_output(vsockctl(&run, &["list"]));
    let target = &served.target.text;
    assert!(
        listed.contains(&name) && listed.contains(target),
        "{listed}"
    );
    let metrics = expect_output(vsockctl(&run, &["metrics"]));
    let one = r#"-root-web.vsock_445",peer="::1"} 1"#;
    assert!(metrics.contains(one), "{metrics}");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn bridges_of_a_user_are_below_the_users_own_folder() {
    let Some(run) = own_run() else { return };
    let _of_the_machine = serve(&run, "a@1");
    let folder = own_folder();
    let place = folder.path().join("vsock-bridge/b@2");
    fs::create_dir_all(&place).unwrap();
    let (listener, target) = (Place::listening(Kind::Tcp6), Place::listening(Kind::Unix));
    let bridge = Bridge::to(&target.text).listener(&listener);
    let mut bridge = bridge.variable("RUNTIME_DIRECTORY", place).start();
    bridge.wait_for_line("bridging");
    let list = |folder: Option<&Path>| {
        let mut vsockctl = run.command(ours("vsockctl"));
        vsockctl.args(["list", "--user", "--no-legend"]);
        vsockctl.envs(folder.map(|folder| ("XDG_RUNTIME_DIR", folder)));
        finish(vsockctl)
    };
    let listed = expect_output(list(Some(folder.path())));
    assert!(
        listed.starts_with("b@2 ") && !listed.contains("a@1"),
        "{listed}"
    );
    let none = list(Some(Path::new("/nonexistent")));
    assert!(none.stderr[0].contains("you have no bridge"), "{none:#?}");
    let unknown = list(None);
    assert_eq!(unknown.code, 2, "{unknown:#?}");
    assert!(
        unknown.stderr[0].contains("XDG_RUNTIME_DIR is not set"),
        "{unknown:#?}"
    );
}

#[test]
fn settings_of_a_user_are_told_with_their_own_place() {
    let folder = own_folder();
    let file = folder.path().join("a@1.conf");
    fs::write(&file, "VSOCK_BRIDGE_SUORCE=none\n").unwrap();
    let place = folder.path().join("run/a@1");
    fs::create_dir_all(&place).unwrap();
    let listener = Place::listening(Kind::Tcp6);
    let bridge = Bridge::to("[::1]:9").listener(&listener);
    let bridge = bridge.variable("VSOCK_BRIDGE_SUORCE", "none");
    let bridge = bridge.variable("RUNTIME_DIRECTORY", place);
    let finished = bridge
        .variable("CONFIGURATION_DIRECTORY", folder.path())
        .finish();
    let said = format!("{}:1: VSOCK_BRIDGE_SUORCE", file.display());
    assert!(finished.stderr[0].contains(&said), "{finished:#?}");
}

#[test]
fn list_has_a_line_for_each_bridge_and_each_connection() {
    let Some(run) = own_run() else { return };
    let bridges = [serve(&run, "b@1"), serve(&run, "a@2")];
    let text = expect_output(vsockctl(&run, &["list"]));
    let lines: Vec<_> = text.lines().map(words).collect();
    let titles = [
        "BRIDGE", "STATE", "LISTENER", "TARGET", "OPEN", "SERVED", "REFUSED", "FAILED", "ALLOWED",
    ];
    assert_eq!(lines[0], titles);
    for (line, name, served) in [
        (&lines[1], "a@2", &bridges[1]),
        (&lines[2], "b@1", &bridges[0]),
    ] {
        let (listener, target) = (&*served.listener.text, &*served.target.text);
        let expected = [name, "serving", listener, target, "1", "0", "0", "0", "-"];
        assert_eq!(line[..], expected, "{text}");
    }
    let titles = ["PEER", "TARGET", "STAGE", "IN", "OUT", "AGE", "IDLE"];
    for (lines, name, served) in [
        (&lines[3..7], "a@2", &bridges[1]),
        (&lines[7..11], "b@1", &bridges[0]),
    ] {
        assert_eq!(
            (&lines[0][..], &lines[1][..]),
            (&[][..], &[name][..]),
            "{text}"
        );
        assert_eq!(lines[2], titles);
        let expected = [&*served.peer(), &served.target.text, "open", "1B", "1B"];
        assert_eq!(lines[3][..5], expected, "{text}");
    }
    assert_eq!(lines.len(), 11, "{text}");
}

#[test]
fn json_is_one_line_with_all_bridges() {
    let Some(run) = own_run() else { return };
    let served = serve(&run, "vsock-bridge@445");
    let text = expect_output(vsockctl(&run, &["list", "--json"]));
    assert_eq!(text.matches('\n').count(), 1);
    let value: Value = serde_json::from_str(&text).unwrap();
    let [bridge] = &value.as_array().unwrap()[..] else {
        panic!("not one bridge: {text}")
    };
    assert_eq!(bridge["bridge"], "vsock-bridge@445");
    assert_eq!(bridge["state"], "serving");
    assert_eq!(
        bridge["listeners"],
        serde_json::json!([served.listener.text])
    );
    let connection = &bridge["connections"][0];
    assert_eq!(connection["peer"], *served.peer());
    assert_eq!(connection["inbound_bytes"], 1);
}

#[test]
fn no_bridge_is_there_that_is_said_and_exits_0() {
    let Some(run) = own_run() else { return };
    // Its process has not come so far, or has left.
    run.service("vsock-bridge@445");
    let finished = vsockctl(&run, &["list"]);
    assert_eq!((finished.code, &*finished.stdout), (0, ""), "{finished:#?}");
    assert_eq!(finished.stderr.len(), 1, "{finished:#?}");
    assert!(finished.stderr[0].contains("no bridge"), "{finished:#?}");
    assert_eq!(expect_output(vsockctl(&run, &["list", "--json"])), "[]\n");
}

#[test]
fn bridges_that_cannot_be_asked_are_a_line_each_the_others_are_shown_and_exits_1() {
    let Some(run) = own_run() else { return };
    let _served = serve(&run, "good@1");
    drop(UnixListener::bind(run.service("gone@2").join("control")).unwrap());
    let _hangs = UnixListener::bind(run.service("hangs@3").join("control")).unwrap();
    let closes = UnixListener::bind(run.service("closes@4").join("control")).unwrap();
    let babbles = UnixListener::bind(run.service("babbles@5").join("control")).unwrap();
    closes.set_nonblocking(true).unwrap();
    let is_over = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the end", || {
                drop(closes.accept());
                is_over.load(Ordering::Relaxed)
            })
        });
        scope.spawn(|| {
            babbles
                .accept()
                .unwrap()
                .0
                .write_all(b"{\"pid\": 7}")
                .unwrap()
        });
        let finished = vsockctl(&run, &["list"]);
        is_over.store(true, Ordering::Relaxed);
        finished
    });
    assert_eq!(finished.code, 1, "{finished:#?}");
    assert!(
        finished.stdout.contains("\ngood@1  serving "),
        "{finished:#?}"
    );
    let expected = [
        ("babbles@5", "missing field"),
        ("closes@4", "(it answers others; try again)"),
        ("gone@2", "(its process is gone)"),
        ("hangs@3", "(it does not answer;"),
    ];
    assert_eq!(finished.stderr.len(), expected.len(), "{finished:#?}");
    for (line, (name, words)) in finished.stderr.iter().zip(expected) {
        let start =
            format!("vsockctl: cannot look at a bridge through /run/vsock-bridge/{name}/control");
        assert!(line.starts_with(&start) && line.contains(words), "{line}");
    }
}

#[test]
fn bridges_of_another_user_are_a_line_that_says_who_may_look_and_exits_1() {
    let Some(run) = own_run() else { return };
    if finish(run.command_without_rights("true")).code != 0 {
        return skipped("no setpriv(1) here");
    }
    let folders = ["vsock-bridge@445", "vsock-bridge@446"].map(|name| run.service(name));
    let set_mode = |mode| {
        for folder in &folders {
            fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
        }
    };
    set_mode(0o000);
    for arguments in [&["list"][..], &["list", "--json"], &["metrics"]] {
        let mut vsockctl = run.command_without_rights(ours("vsockctl"));
        vsockctl.args(arguments);
        let finished = finish(vsockctl);
        assert_eq!(finished.code, 1, "{finished:#?}");
        let [line] = &finished.stderr[..] else {
            panic!("not one line: {finished:#?}")
        };
        let path = "/run/vsock-bridge/vsock-bridge@445/control";
        assert!(
            line.contains(path) && line.contains("run it as root"),
            "{line}"
        );
    }
    set_mode(0o700);
}

#[test]
fn watch_prints_again_with_an_empty_line_between_until_the_reader_goes() {
    let Some(run) = own_run() else { return };
    let served = serve(&run, "b@1");
    let mut watch = run.command(ours("vsockctl"));
    watch.args(["list", "--watch=100ms"]).stdout(Stdio::piped());
    let mut watch = Program::start(watch);
    let mut lines = BufReader::new(watch.stdout()).lines().map(Result::unwrap);
    let picture = |lines: &mut dyn Iterator<Item = String>| {
        // The titles, the bridge, and behind an empty line its name and its connection.
        let picture: Vec<String> = lines.take(6).collect();
        assert!(picture[0].starts_with("BRIDGE ") && picture[1].starts_with("b@1 "));
        assert!(picture[5].contains(&served.peer()), "{picture:#?}");
    };
    picture(&mut lines);
    assert_eq!(lines.next().unwrap(), "");
    picture(&mut lines);
    drop(lines);
    assert_eq!(watch.exit_code(), 0);
    assert_eq!(watch.log, [""; 0]);
}

/// Begins vsockctl on a terminal, which passes on what it gets as input.
fn on_terminal(run: &OwnRun, arguments: &str) -> Option<Command> {
    let version = Command::new("script").arg("--version").output();
    if version.is_err() {
        skipped("no script(1) here");
        return None;
    }
    let mut script = run.command("script");
    // A terminal without a size has none that could be too small; whoever started the tests may ignore ^C.
    let settings = "stty rows 24 columns 120; exec env --default-signal=INT,QUIT";
    let line = format!("{settings} {} {arguments}", ours("vsockctl"));
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env("TERM", "xterm").env("SHELL", "/bin/sh");
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    Some(script)
}

#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    let Some(run) = own_run() else { return };
    let _served = serve(&run, "b@1");
    let Some(script) = on_terminal(&run, "list") else {
        return;
    };
    let text = finish(script).stdout;
    assert!(text.contains("\x1b[32mserving\x1b[0m"), "{text:?}");
    let mut script = on_terminal(&run, "list").unwrap();
    script.env("NO_COLOR", "1");
    let text = finish(script).stdout;
    assert!(
        text.contains("serving") && !text.contains('\x1b'),
        "{text:?}"
    );
    let json = finish(on_terminal(&run, "list --json").unwrap()).stdout;
    assert!(json.contains("\n    \"bridge\": \"b@1\""), "{json:?}");
}

#[test]
fn watch_draws_over_the_last_picture_on_a_terminal_and_leaves_it_clean_when_interrupted() {
    let Some(run) = own_run() else { return };
    let _served = serve(&run, "b@1");
    let stale = UnixListener::bind(run.service("stale@2").join("control")).unwrap();
    drop(stale);
    let Some(mut script) = on_terminal(&run, "list --watch") else {
        return;
    };
    script.env("NO_COLOR", "1");
    let mut script = Program::start(script);
    let (mut keyboard, mut screen) = (script.stdin(), script.stdout());
    let mut shown = Vec::new();
    let mut read_more = || {
        let mut bytes = [0; 4096];
        let count = screen.read(&mut bytes).unwrap();
        shown.extend(&bytes[..count]);
        (count > 0, String::from_utf8_lossy(&shown).into_owned())
    };
    eventually("three pictures", || {
        read_more().1.matches("\x1b[H").count() >= 3
    });
    keyboard.write_all(b"\x03").unwrap();
    let mut all = String::new();
    eventually("the end", || {
        let (is_more, text) = read_more();
        all = text;
        !is_more
    });
    assert_eq!(script.exit_code(), 130);
    let pictures: Vec<&str> = all.split("\x1b[H").collect();
    for part in [
        "BRIDGE",
        "b@1",
        "serving",
        "stale@2/control",
        "process is gone",
        "\x1b[?7h",
    ] {
        assert!(pictures[1].contains(part), "{part:?}: {all:?}");
        assert!(pictures[2].contains(part), "{part:?}: {all:?}");
    }
    // No colour, and no mode of the terminal that stays.
    assert!(!all.contains("\x1b[3"), "{all:?}");
    assert!(all.ends_with("\x1b[0m\x1b[?7h\r\x1b[J"), "{all:?}");
    assert!(all.matches("\x1b[?").count() == all.matches("\x1b[?7").count());
}

#[test]
fn bridges_that_are_named_are_shown_and_no_others_are_asked() {
    let Some(run) = own_run() else { return };
    let _bridges = [serve(&run, "a@1"), serve(&run, "a@2"), serve(&run, "b@1")];
    // Would answer after five seconds, and be a line.
    let _hangs = UnixListener::bind(run.service("hangs@3").join("control")).unwrap();
    for (units, expected) in [
        (&["a@1"][..], &["a@1"][..]),
        (&["a@1.service", "b@1.socket"], &["a@1", "b@1"]),
        (&["a@*"], &["a@1", "a@2"]),
        (&["?@[1]", "a@2"], &["a@1", "a@2", "b@1"]),
        (&["x*", "a@1"], &["a@1"]),
    ] {
        let text = expect_output(vsockctl(&run, &[&["list", "--json"], units].concat()));
        let found: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<&str> = (found.as_array().unwrap().iter())
            .map(|bridge| bridge["bridge"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{units:?}");
    }
    let text = expect_output(vsockctl(&run, &["list", "--no-legend", "a@1"]));
    let first: Vec<&str> = text.lines().map(|line| words(line)[0]).take(1).collect();
    assert_eq!(first, ["a@1"], "{text}");
    assert!(!text.contains("BRIDGE") && !text.contains("PEER"), "{text}");
}

#[test]
fn a_bridge_that_is_named_and_not_there_is_a_line_and_exits_1() {
    let Some(run) = own_run() else { return };
    let _bridge = serve(&run, "a@1");
    let finished = vsockctl(&run, &["list", "a@1", "a@2.socket"]);
    assert!(finished.stdout.contains("a@1"), "{finished:#?}");
    let said = ["vsockctl: no bridge is named a@2; `vsockctl list` shows all that run or wait"];
    assert_eq!(
        (finished.code, &*finished.stderr),
        (1, &said.map(str::to_owned)[..])
    );
    // A pattern may fit none.
    let finished = vsockctl(&run, &["list", "b@*"]);
    assert_eq!((finished.code, &*finished.stdout), (0, ""), "{finished:#?}");
    assert!(
        finished.stderr[0].contains("no bridge matches"),
        "{finished:#?}"
    );
}

#[test]
fn without_a_command_the_list_is_shown() {
    let Some(run) = own_run() else { return };
    let _bridge = serve(&run, "a@1");
    let listed = expect_output(vsockctl(&run, &["list", "--json"]));
    assert!(listed.contains("a@1"));
    let shown = expect_output(vsockctl(&run, &[]));
    assert!(
        shown.starts_with("BRIDGE") && shown.contains("a@1"),
        "{shown}"
    );
}

#[test]
fn wrong_command_lines_exit_2() {
    for arguments in [
        &["list", "a/b"][..],
        &["list", "vsock-bridge@["],
        &["list", "--watch=0"],
        &["list", "--watch=x"],
        &["list", "--nonsense"],
        &["metrics", "--json"],
    ] {
        let mut vsockctl = command(ours("vsockctl"));
        vsockctl.args(arguments);
        let finished = finish(vsockctl);
        assert_eq!(
            (finished.code, finished.stderr.len()),
            (2, 1),
            "{finished:#?}"
        );
    }
}
