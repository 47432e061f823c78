//! `vsock-bridge --check UNIT` where systemd runs: Environment= of the unit counts, as systemctl(1) tells it.
//!
//! The systemctl is the test's; with a real one it is in tests/systemd.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::common::own_etc::OwnEtc;
use crate::common::program::{Finished, finish, ours};
use crate::common::{own_folder, skipped};

const FILE: &str = "/etc/vsock-bridge/vsock-bridge@445.conf";

/// What systemctl says of the unit, which has these lines besides its usual ones.
fn unit(lines: &str) -> String {
    format!(
        "case \"$*\" in 'show '*'-- vsock-bridge@445.service vsock-bridge@445.socket') ;; *) exit 9;; esac\n\
         /bin/cat <<'END'\nId=vsock-bridge@445.service\nLoadState=loaded\n\
         EnvironmentFiles=/etc/vsock-bridge/vsock-bridge.conf (ignore_errors=yes)\n\
         EnvironmentFiles={FILE} (ignore_errors=yes)\n{lines}\nEND"
    )
}

/// Checks a unit where systemd says that of it, and its file has these settings, if it is there.
fn check(name: &str, systemctl: &str, settings: Option<&str>) -> Option<Finished> {
    let mut etc = OwnEtc::new()?;
    if let Some(settings) = settings {
        etc.write("vsock-bridge/vsock-bridge@445.conf", settings);
    }
    Some(check_in(&mut etc, name, systemctl))
}

/// Checks a unit of which systemd says that, with the settings in that folder.
fn check_in(etc: &mut OwnEtc, name: &str, systemctl: &str) -> Finished {
    let tools = own_folder();
    let path = tools.path().join("systemctl");
    fs::write(&path, format!("#!/bin/sh\n{systemctl}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // A systemd that has booted, as sd_booted(3) sees it; the tool is elsewhere than in /run.
    etc.prelude = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && ".to_owned();
    let mut command = etc.command("env");
    command.arg(format!("PATH={}", tools.path().display()));
    command.args([&ours("vsock-bridge"), "--check", name]);
    let finished = finish(command);
    assert_eq!(finished.stdout, "", "{finished:#?}");
    finished
}

fn expect(finished: Option<Finished>, code: i32, lines: &[&str]) {
    let Some(finished) = finished else {
        return skipped("nothing can be mounted here");
    };
    assert_eq!(
        (finished.code, finished.stderr.len()),
        (code, lines.len()),
        "{finished:#?}"
    );
    for (line, begin) in finished.stderr.iter().zip(lines) {
        let begin = format!("vsock-bridge: {begin}");
        assert!(line.starts_with(&begin), "{line:?} instead of {begin:?}");
    }
}

#[test]
fn what_is_wrong_in_the_unit_is_told_with_its_name() {
    let lines = "Environment=VSOCK_BRIDGE_TO=[::1]:445 VSOCK_BRIDGE_IDLE_TIMEOUT=5x ALLOW_CID=3 TO=x TZ=UTC";
    let lines = unit(lines);
    let said = [
        "vsock-bridge@445.service: VSOCK_BRIDGE_IDLE_TIMEOUT: \"5x\" is not a valid time",
        "vsock-bridge@445.service: ALLOW_CID is not a setting of vsock-bridge, did you mean VSOCK_BRIDGE_ALLOW_CID?",
        "vsock-bridge@445.service: TO is not a setting of vsock-bridge, did you mean VSOCK_BRIDGE_TO?",
    ];
    for name in [
        "vsock-bridge@445",
        "vsock-bridge@445.service",
        "vsock-bridge@445.socket",
    ] {
        expect(check(name, &lines, None), 2, &said);
    }
}

#[test]
fn the_unit_has_the_names_and_the_file_the_list() {
    let lines = unit("Environment=VSOCK_BRIDGE_TO=[::1]:445 \"VSOCK_BRIDGE_NAMES=web=3 db=4\"");
    let check = |settings| check("vsock-bridge@445", &lines, Some(settings));
    expect(check("VSOCK_BRIDGE_ALLOW_CID=web,db\n"), 0, &[]);
    let said = format!("{FILE}:1: VSOCK_BRIDGE_ALLOW_CID: no machine is named \"ci\"");
    expect(check("VSOCK_BRIDGE_ALLOW_CID=ci\n"), 2, &[&said]);
}

/// What is in the file of all bridges is for the gateways among them.
#[test]
fn settings_of_a_gateway_are_told_in_the_file_of_another_bridge_alone() {
    let Some(mut etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    let (name, unit) = (
        "vsock-bridge@445",
        unit("Environment=VSOCK_BRIDGE_TO=[::1]:445"),
    );
    etc.write(
        "vsock-bridge/vsock-bridge.conf",
        "VSOCK_BRIDGE_AS_PEER=yes\n",
    );
    expect(Some(check_in(&mut etc, name, &unit)), 0, &[]);
    etc.write(
        "vsock-bridge/vsock-bridge@445.conf",
        "VSOCK_BRIDGE_AS_PEER=yes\n",
    );
    let said =
        format!("{FILE}:1: VSOCK_BRIDGE_AS_PEER has no effect: it is for the target `gateway`");
    expect(Some(check_in(&mut etc, name, &unit)), 2, &[&said]);
}

#[test]
fn a_unit_without_a_target_is_told() {
    let check = |lines: &str| check("vsock-bridge@445", &unit(lines), None);
    let said = "vsock-bridge@445.service: `--to` or VSOCK_BRIDGE_TO is missing";
    expect(check("Environment="), 2, &[said]);
    expect(
        check("ExecStart={ path=/x ; argv[]=/x --to [::1]:80 ; }"),
        0,
        &[],
    );
}

#[test]
fn a_unit_that_does_not_exist_is_told_unless_it_has_a_file() {
    let systemctl = "echo Id=vsock-bridge@445.service; echo LoadState=not-found";
    let check = |settings| check("vsock-bridge@445", systemctl, settings);
    let said = format!("there is neither a unit vsock-bridge@445.service nor a file {FILE}");
    expect(check(None), 2, &[&said]);
    expect(check(Some("VSOCK_BRIDGE_TO=[::1]:445\n")), 0, &[]);
}

#[test]
fn a_bridge_of_a_socket_that_is_to_listen_by_itself_as_well_is_told() {
    let name = "vsock-bridge@445";
    let lines = "Environment=VSOCK_BRIDGE_TO=[::1]:445";
    let with_socket = |state: &str| {
        let socket = format!("Id=vsock-bridge@445.socket\nLoadState={state}");
        unit(&format!("{lines}\n\n{socket}"))
    };
    let settings = Some("VSOCK_BRIDGE_LISTEN=vsock::445\n");
    let said = format!(
        "{FILE}:1: VSOCK_BRIDGE_LISTEN is for running without systemd, and vsock-bridge@445.socket listens"
    );
    expect(check(name, &with_socket("loaded"), settings), 2, &[&said]);
    expect(check(name, &with_socket("not-found"), settings), 0, &[]);
    expect(check(name, &with_socket("loaded"), None), 0, &[]);
}

#[test]
fn an_answer_as_long_as_that_of_thousands_of_units_is_read() {
    let long = "printf 'Id=long.socket\\nStatusText='; /usr/bin/head -c 4000000 /dev/zero | /usr/bin/tr '\\0' x; echo; echo";
    let lines = unit("Environment=VSOCK_BRIDGE_TO=[::1]:445 VSOCK_BRIDGE_IDLE_TIMEOUT=5x");
    let said = "vsock-bridge@445.service: VSOCK_BRIDGE_IDLE_TIMEOUT";
    let finished = check("vsock-bridge@445", &format!("{long}\n{lines}"), None);
    expect(finished, 2, &[said]);
}

#[test]
fn a_systemd_that_does_not_answer_is_not_waited_for() {
    let settings = Some("VSOCK_BRIDGE_TO=[::1]:445\n");
    let said =
        "Environment= of vsock-bridge@445.service is left out: systemctl gave no answer in time";
    expect(
        check("vsock-bridge@445", "exec /bin/sleep 60", settings),
        0,
        &[said],
    );
}

#[test]
fn a_pattern_is_no_unit() {
    for name in ["vsock-bridge@*", "*.service", ".socket", "a/b"] {
        let finished = check(name, "echo Id=vsock-bridge@445.service", None);
        let name = name
            .trim_end_matches(".service")
            .trim_end_matches(".socket");
        let said = format!("{name:?} is not the name of one unit");
        expect(finished, 2, &[&said]);
    }
}

#[test]
fn systemd_cannot_be_asked_the_files_are_looked_at_and_that_is_said() {
    let check = |settings| {
        check(
            "vsock-bridge@445",
            "echo no bus >&2; exit 1",
            Some(settings),
        )
    };
    let said = "Environment= of vsock-bridge@445.service is left out: systemctl failed: no bus";
    expect(check("VSOCK_BRIDGE_TO=[::1]:445\n"), 0, &[said]);
    let wrong = format!("{FILE}:1: ALLOW_CID is not a setting");
    expect(check("ALLOW_CID=3\n"), 2, &[said, &wrong]);
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_not_taken_for_right() {
    for systemctl in [
        unit("Environment=VSOCK_BRIDGE_TO=[::1]:445"),
        "exit 1".to_owned(),
    ] {
        let Some(mut etc) = OwnEtc::new() else {
            return skipped("nothing can be mounted here");
        };
        etc.write("vsock-bridge/other", "");
        symlink(
            "vsock-bridge@445.conf",
            etc.path("vsock-bridge/vsock-bridge@445.conf"),
        )
        .unwrap();
        let said = format!("cannot read {FILE}: Too many levels of symbolic links");
        let finished = check_in(&mut etc, "vsock-bridge@445", &systemctl);
        let last = finished.stderr.last().map(String::as_str);
        let last = last
            .unwrap_or_default()
            .trim_start_matches("vsock-bridge: ");
        assert!(
            finished.code == 2 && last.starts_with(&said),
            "{finished:#?}"
        );
    }
}

#[test]
fn there_is_neither_the_file_of_a_bridge_nor_a_systemd_that_is_told() {
    let Some(mut etc) = OwnEtc::new() else {
        return skipped("nothing can be mounted here");
    };
    etc.write(
        "vsock-bridge/vsock-bridge@445.conf",
        "VSOCK_BRIDGE_TO=[::1]:445\n",
    );
    etc.prelude = "mount -t tmpfs none /run && ".to_owned();
    for (name, code) in [("vsock-bridge@445", 0), ("vsock-bridge@446", 2)] {
        let mut check = etc.command(ours("vsock-bridge"));
        check.args(["--check", name]);
        let finished = finish(check);
        assert_eq!(finished.code, code, "{finished:#?}");
        let file = format!("vsock-bridge: there is no file /etc/vsock-bridge/{name}.conf, ");
        let is_told = finished.stderr.iter().all(|line| line.starts_with(&file));
        assert!(
            is_told && finished.stderr.len() * 2 == code as usize,
            "{finished:#?}"
        );
    }
}
