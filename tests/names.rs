//! Names of machines: where the programs find them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::bridge::Bridge;
use common::own_etc::OwnEtc;
use common::place::{Kind, Place};
use common::program::{Finished, command, finish};
use common::skipped;

const CONFIG: &str = "vsock-bridge/vsock-bridge.conf";
const SETTINGS: &str = "VSOCK_BRIDGE_PREFIX=fd00::/64\nVSOCK_BRIDGE_NAMES=\"web=3 db=4\"\n";

/// A machine with two names.
fn machine() -> Option<OwnEtc> {
    let Some(etc) = OwnEtc::new() else {
        skipped("no mount namespaces here");
        return None;
    };
    etc.write(CONFIG, SETTINGS);
    Some(etc)
}

fn vsockctl(etc: &OwnEtc, arguments: &[&str]) -> Finished {
    let mut vsockctl = etc.command(env!("CARGO_BIN_EXE_vsockctl"));
    vsockctl.args(arguments);
    finish(vsockctl)
}

/// Runs it, and expects that it refuses in one line.
fn expect_failure(etc: &OwnEtc, arguments: &[&str], words: &[&str]) {
    let finished = vsockctl(etc, arguments);
    assert_eq!((finished.code, &*finished.stdout), (1, ""), "{finished:#?}");
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    for word in words {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
}

#[test]
fn names_come_from_the_option_then_the_environment_then_the_file() {
    let Some(etc) = machine() else { return };
    let addr = |name: &str, option: &[&str], variable: Option<&str>| {
        let mut vsockctl = etc.command(env!("CARGO_BIN_EXE_vsockctl"));
        vsockctl.args(["addr", name]).args(option);
        if let Some(names) = variable {
            vsockctl.env("VSOCK_BRIDGE_NAMES", names);
        }
        let finished = finish(vsockctl);
        (finished.code, finished.stdout)
    };
    let found = |address: &str| (0, format!("{address}\n"));
    assert_eq!(addr("Web.vsock", &[], None), found("fd00::3"));
    assert_eq!(addr("web", &[], Some("web=5")), found("fd00::5"));
    assert_eq!(
        addr("web", &["--names", "web=6"], Some("web=5")),
        found("fd00::6")
    );
    // The lists are not added up.
    assert_eq!(addr("db", &[], Some("web=5")).0, 2);
    assert_eq!(addr("db", &[], Some("")).0, 2);
}

#[test]
fn a_list_of_names_in_the_file_is_wrong_its_line_is_told_to_who_needs_it() {
    let Some(etc) = machine() else { return };
    etc.write(
        CONFIG,
        "VSOCK_BRIDGE_PREFIX=fd00::/64\n\nVSOCK_BRIDGE_NAMES=web=3 web=4\n",
    );
    expect_failure(
        &etc,
        &["addr", "web"],
        &["vsock-bridge.conf:3: ", "\"web=4\"", "twice"],
    );
    assert_eq!(vsockctl(&etc, &["addr", "3"]).stdout, "fd00::3\n");
}

#[test]
fn the_target_of_a_bridge_has_a_name() {
    let listener = Place::listening(Kind::Unix);
    let bridge = Bridge::to("vsock:Web.vsock:445").listener(&listener);
    let mut bridge = bridge.variable("VSOCK_BRIDGE_NAMES", "web=3 db=4").start();
    bridge.wait_for_line("to vsock:3:445");
}

#[test]
fn a_name_that_nobody_has_exits_2() {
    let Some(etc) = machine() else { return };
    for host in ["nobody", "nobody.vsock", "vsock/nobody", "vsock:Nobody:22"] {
        let mut connect = etc.command(env!("CARGO_BIN_EXE_vsock-connect"));
        connect.arg(host);
        let finished = finish(connect);
        let [line] = &finished.stderr[..] else {
            panic!("not one line: {finished:#?}")
        };
        assert!(
            line.contains("\"nobody\"") && line.contains("vsock-bridge.conf"),
            "{line}"
        );
        assert_eq!(finished.code, 2, "{line}");
    }
    let mut connect = command(env!("CARGO_BIN_EXE_vsock-connect"));
    connect.args(["--names", "web=0", "/run/x"]);
    assert_eq!(finish(connect).code, 2);
}
