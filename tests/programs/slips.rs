//! Slips of the pen in the file of a bridge, as people make them, each with the line that it is told in.

use crate::common::own_etc::OwnEtc;
use crate::common::program::{finish, ours};
use crate::common::skipped;

/// What is typed, and below it, indented, what is said of it.
const TABLE: &str = include_str!("slips.txt");
const FILE: &str = "/etc/vsock-bridge/vsock-bridge@445.conf";

#[test]
fn every_slip_is_told_in_the_line_that_is_expected() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    etc.write(
        "vsock-bridge/vsock-bridge.conf",
        "VSOCK_BRIDGE_NAMES=\"web=3 db=4\"\n",
    );
    let mut told = String::new();
    let typed = || TABLE.lines().filter(|line| !line.starts_with("    "));
    for line in typed() {
        etc.write("vsock-bridge/vsock-bridge@445.conf", format!("{line}\n"));
        let mut check = etc.command(ours("vsock-bridge"));
        check.args(["--check", "vsock-bridge@445"]);
        let finished = finish(check);
        assert_eq!(
            (finished.code, &*finished.stdout),
            (2, ""),
            "{line}: {finished:#?}"
        );
        let [said] = &finished.stderr[..] else {
            panic!("{line}: not one line: {finished:#?}")
        };
        let said = said.replace(&format!("vsock-bridge: {FILE}:1: "), "");
        told += &format!("{line}\n    {said}\n");
    }
    assert_eq!(told, TABLE);
    assert!(typed().count() >= 60);
}

#[test]
fn what_is_right_is_told_in_no_line() {
    let Some(etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    let right = "# a comment\n\nVSOCK_BRIDGE_TO=\"[::1]:445\"\nVSOCK_BRIDGE_ALLOW_CID=web,7-9\n\
                 VSOCK_BRIDGE_IDLE_TIMEOUT=5\nVSOCK_BRIDGE_LOG=debug\nRES_OPTIONS=timeout:1\n";
    etc.write("vsock-bridge/vsock-bridge@445.conf", right);
    etc.write(
        "vsock-bridge/vsock-bridge.conf",
        "VSOCK_BRIDGE_NAMES=web=3\n",
    );
    let mut check = etc.command(ours("vsock-bridge"));
    check.args(["--check", "vsock-bridge@445"]);
    let finished = finish(check);
    assert_eq!(finished.code, 0, "{finished:#?}");
    assert_eq!((&*finished.stdout, finished.stderr), ("", vec![]));
}
