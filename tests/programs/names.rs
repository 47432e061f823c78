//! Names of machines: where the programs find them, and the lines and records that vsockctl writes for all others.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use crate::common::bridge::Bridge;
use crate::common::own_etc::OwnEtc;
use crate::common::place::{Kind, Place};
use crate::common::program::{Finished, command, finish, ours};
use crate::common::skipped;

const CONFIG: &str = "vsock-bridge/vsock-bridge.conf";
const SETTINGS: &str = "VSOCK_BRIDGE_PREFIX=fd00::/64\nVSOCK_BRIDGE_NAMES=\"web=3 db=4\"\n";
const BLOCK: &str = "# BEGIN vsock-bridge\n# Written by `vsockctl hosts`; changes are lost.\n\
    fd00::2\thost.vsock 2.vsock\nfd00::3\tweb.vsock 3.vsock\nfd00::4\tdb.vsock 4.vsock\n# END vsock-bridge\n";
const RECORDS: &str = "systemd/resolve/static.d";

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
    let mut vsockctl = etc.command(ours("vsockctl"));
    vsockctl.args(arguments);
    finish(vsockctl)
}

/// Runs it, and expects that it prints nothing and says in one line what it did.
fn expect_done(etc: &OwnEtc, arguments: &[&str], words: &str) {
    let finished = vsockctl(etc, arguments);
    assert_eq!((finished.code, &*finished.stdout), (0, ""), "{finished:#?}");
    let [line] = &finished.stderr[..] else {
        panic!("not one line: {finished:#?}")
    };
    assert!(line.ends_with(words), "{line}");
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
fn hosts_is_written_twice_the_second_time_touches_nothing() {
    let Some(etc) = machine() else { return };
    etc.write("hosts", "127.0.0.1\tlocalhost\n# mine");
    expect_done(&etc, &["hosts", "--write"], "/etc/hosts is written");
    assert_eq!(
        etc.read("hosts"),
        format!("127.0.0.1\tlocalhost\n# mine\n{BLOCK}")
    );
    let before = fs::metadata(etc.path("hosts")).unwrap();
    expect_done(&etc, &["hosts", "--write"], "/etc/hosts needs no change");
    let after = fs::metadata(etc.path("hosts")).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec()),
        (after.ino(), after.mtime_nsec())
    );
    // What is printed is what was written.
    assert_eq!(vsockctl(&etc, &["hosts"]).stdout, BLOCK);
    assert_eq!(etc.list("."), ["hosts", "machine-id", "vsock-bridge"]);
}

#[test]
fn hosts_has_two_blocks_one_is_left() {
    let Some(etc) = machine() else { return };
    let old = "# BEGIN vsock-bridge\r\nfd00:9::2 host.vsock\r\n# END vsock-bridge\r\n";
    etc.write("hosts", format!("::1 a\r\n{old}\t::2 b # c\n\n{old}# d"));
    expect_done(&etc, &["hosts", "--write"], "is written");
    assert_eq!(
        etc.read("hosts"),
        format!("::1 a\r\n{BLOCK}\t::2 b # c\n\n# d")
    );
}

#[test]
fn hosts_is_a_link_its_target_keeps_mode_owner_and_bytes() {
    let Some(etc) = machine() else { return };
    etc.write("elsewhere/hosts", b"::1 \xff\xfe\n");
    let target = etc.path("elsewhere/hosts");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o604)).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    let owner = if is_root {
        1234
    } else {
        fs::metadata(&target).unwrap().uid()
    };
    if is_root {
        chown(&target, Some(owner), Some(owner)).unwrap();
    }
    symlink("elsewhere/hosts", etc.path("hosts")).unwrap();
    expect_done(&etc, &["hosts", "--write"], "is written");
    let metadata = fs::metadata(&target).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o604, owner));
    assert_eq!(
        fs::read(&target).unwrap(),
        [b"::1 \xff\xfe\n", BLOCK.as_bytes()].concat()
    );
    assert!(
        fs::symlink_metadata(etc.path("hosts"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(etc.list("elsewhere"), ["hosts"]);
}

#[test]
fn there_is_no_hosts_file_it_is_made() {
    let Some(etc) = machine() else { return };
    expect_done(&etc, &["hosts", "--remove"], "needs no change");
    expect_done(&etc, &["hosts", "--write"], "is written");
    assert_eq!(etc.read("hosts"), BLOCK);
    assert_eq!(
        fs::metadata(etc.path("hosts")).unwrap().mode() & 0o7777,
        0o644
    );
}

#[test]
fn hosts_has_half_a_block_it_stays() {
    let Some(etc) = machine() else { return };
    let text = "::1 a\n# BEGIN vsock-bridge\n::2 b\n";
    etc.write("hosts", text);
    for option in ["--write", "--remove"] {
        expect_failure(
            &etc,
            &["hosts", option],
            &["/etc/hosts:2: ", "# END vsock-bridge"],
        );
        assert_eq!(etc.read("hosts"), text);
    }
}

#[test]
fn hosts_is_a_mount_point_or_cannot_be_written_it_stays() {
    let Some(mut etc) = machine() else { return };
    etc.write("hosts", "::1 a\n");
    etc.prelude = "mount --bind /etc/hosts /etc/hosts && ".to_owned();
    expect_failure(
        &etc,
        &["hosts", "--write"],
        &["/etc/hosts", "mount point", "--add-host"],
    );
    etc.prelude = "mount -o remount,bind,ro /etc && ".to_owned();
    expect_failure(&etc, &["hosts", "--write"], &["/etc/hosts", "Read-only"]);
    assert_eq!(etc.read("hosts"), "::1 a\n");
    assert_eq!(etc.list("."), ["hosts", "machine-id", "vsock-bridge"]);
}

#[test]
fn the_block_is_removed_whatever_the_configuration_says() {
    let Some(etc) = machine() else { return };
    etc.write("hosts", "::1 a\n::2 b\n");
    expect_done(&etc, &["hosts", "--write"], "is written");
    etc.write(CONFIG, "VSOCK_BRIDGE_PREFIX=x\nVSOCK_BRIDGE_NAMES=x\n");
    expect_done(&etc, &["hosts", "--remove"], "is written");
    assert_eq!(etc.read("hosts"), "::1 a\n::2 b\n");
}

#[test]
fn records_are_written_and_removed() {
    let Some(etc) = machine() else { return };
    expect_done(
        &etc,
        &["hosts", "--resolved", "--write"],
        "vsock-bridge.rr is written",
    );
    assert_eq!(etc.list(RECORDS), ["vsock-bridge.rr"]);
    let text = etc.read(&format!("{RECORDS}/vsock-bridge.rr"));
    assert_eq!(vsockctl(&etc, &["hosts", "--resolved"]).stdout, text);
    assert!(
        text.contains("\"web.vsock\"") && text.contains("\"4.vsock\""),
        "{text}"
    );
    expect_done(&etc, &["hosts", "--resolved", "--write"], "needs no change");
    for _ in 0..2 {
        let finished = vsockctl(&etc, &["hosts", "--resolved", "--remove"]);
        assert_eq!(finished.code, 0, "{finished:#?}");
        assert_eq!(etc.list(RECORDS), [""; 0]);
    }
    assert!(!etc.path("hosts").exists());
}

#[test]
fn names_come_from_the_option_then_the_environment_then_the_file() {
    let Some(etc) = machine() else { return };
    let addr = |name: &str, option: &[&str], variable: Option<&str>| {
        let mut vsockctl = etc.command(ours("vsockctl"));
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
        let mut connect = etc.command(ours("vsock-connect"));
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
    let mut connect = command(ours("vsock-connect"));
    connect.args(["--names", "web=0", "web"]);
    assert_eq!(finish(connect).code, 2);
}
