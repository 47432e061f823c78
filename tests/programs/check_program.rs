//! vsockctl check: its table, its exit status, and what it says of a machine without systemd.
//!
//! What it says of broken units and routes is tested under real systemd.

use std::process::{Command, Stdio};

use crate::common::program::{Finished, command, finish, ours};
use crate::common::skipped;

/// A line of the table: level, subject, the rest.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    level: &'a str,
    subject: &'a str,
    text: &'a str,
}

fn lines(finished: &Finished) -> Vec<Line<'_>> {
    finished.stdout.lines().map(parse).collect()
}

fn parse(line: &str) -> Line<'_> {
    let (level, rest) = line.split_once("  ").unwrap();
    let (subject, text) = rest.trim_start().split_once("  ").unwrap();
    Line {
        level: level.trim_end(),
        subject,
        text: text.trim_start(),
    }
}

fn level<'a>(lines: &[Line<'a>], subject: &str) -> &'a str {
    let mut found = lines.iter().filter(|line| line.subject == subject);
    let line = found
        .next()
        .unwrap_or_else(|| panic!("no {subject}: {lines:#?}"));
    assert!(found.next().is_none(), "{subject} twice: {lines:#?}");
    line.level
}

/// Checks a machine that has the files of `etc` alone, and no systemd. None where that cannot be made.
fn check_with(etc: &str) -> Option<Finished> {
    check_by(etc, "check")
}

fn check_by(etc: &str, arguments: &str) -> Option<Finished> {
    let unshared = |script: &str| {
        let mut unshare = command("unshare");
        unshare.args(["--map-root-user", "--mount", "sh", "-ec"]);
        let hide =
            "mount -t tmpfs none /etc; [ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd";
        unshare.arg(format!("{hide}; mkdir /etc/vsock-bridge; {script}"));
        unshare
    };
    let works = unshared("true").stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        skipped("no mount namespaces here");
        return None;
    }
    Some(finish(unshared(&format!(
        "{etc}; exec {} {arguments}",
        ours("vsockctl")
    ))))
}

const MACHINE_ID: &str = "echo 0123456789abcdef0123456789abcdef >/etc/machine-id";

#[test]
fn each_line_has_level_subject_and_text_and_the_status_tells_of_fail() {
    let mut check = command(ours("vsockctl"));
    check.arg("check");
    let finished = finish(check);
    let lines = lines(&finished);
    for line in &lines {
        assert!(["OK", "WARN", "FAIL"].contains(&line.level), "{line:?}");
        assert!(!line.text.is_empty(), "{line:?}");
    }
    for subject in ["device", "transport", "CID", "kernel", "IPv6", "prefix"] {
        level(&lines, subject);
    }
    let failed = lines.iter().filter(|line| line.level == "FAIL").count();
    let said: Vec<_> = finished
        .stderr
        .iter()
        .filter(|l| l.contains("failed"))
        .collect();
    assert_eq!(finished.code, i32::from(failed > 0), "{finished:#?}");
    assert_eq!(said.len(), usize::from(failed > 0), "{finished:#?}");
}

#[test]
fn nothing_is_in_use_nothing_fails() {
    let Some(finished) = check_with(MACHINE_ID) else {
        return;
    };
    let lines = lines(&finished);
    assert_eq!(finished.code, 0, "{finished:#?}");
    assert_eq!(level(&lines, "prefix"), "OK");
    assert_eq!(level(&lines, "units"), "OK");
    assert_eq!(finished.stderr, [""; 0]);
}

/// Nothing that is said of a machine without systemd is to be done with systemd.
#[test]
fn there_is_no_systemd_no_line_names_its_commands() {
    let wrong = "echo VSOCK_BRIDGE_PREFIX=fd00::/48 >/etc/vsock-bridge/vsock-bridge.conf";
    for etc in ["true", MACHINE_ID, wrong] {
        let Some(finished) = check_with(etc) else {
            return;
        };
        let text = &finished.stdout;
        for word in ["systemctl", "systemd-", ".service", ".socket"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        assert!(text.contains("`--listen`"), "{text}");
    }
}

#[test]
fn the_prefix_in_the_file_is_wrong_its_line_fails_and_exits_1() {
    let write =
        r"printf '# c\nVSOCK_BRIDGE_PREFIX=fd00::/48\n' >/etc/vsock-bridge/vsock-bridge.conf";
    let Some(finished) = check_with(&format!("{MACHINE_ID}; {write}")) else {
        return;
    };
    let lines = lines(&finished);
    let failed: Vec<_> = lines.iter().filter(|line| line.level == "FAIL").collect();
    let [line] = failed[..] else {
        panic!("not one failure: {finished:#?}")
    };
    assert_eq!(line.subject, "prefix");
    assert!(
        line.text
            .starts_with("/etc/vsock-bridge/vsock-bridge.conf:2: "),
        "{line:?}"
    );
    assert!(
        line.text
            .ends_with("; run `vsockctl prefix generate --write`"),
        "{line:?}"
    );
    assert_eq!(finished.code, 1);
    assert!(
        finished.stderr[0].starts_with("vsockctl: 1 failed"),
        "{finished:#?}"
    );
}

#[test]
fn there_is_no_machine_id_the_prefix_is_a_warning() {
    let Some(finished) = check_with("true") else {
        return;
    };
    assert_eq!(level(&lines(&finished), "prefix"), "WARN");
    assert_eq!(finished.code, 0, "{finished:#?}");
}

#[test]
fn quiet_leaves_out_what_is_well_and_json_has_every_finding() {
    let slip = "echo VSOCK_BRIDGE_ALOW_CID=3 >/etc/vsock-bridge/vsock-bridge@445.conf";
    let check = |arguments: &str| check_by(&format!("{MACHINE_ID}; {slip}"), arguments);
    let (Some(all), Some(quiet), Some(json)) =
        (check("check"), check("-q check"), check("check --json"))
    else {
        return;
    };
    let is_well = |line: &Line<'_>| line.level == "OK";
    assert!(lines(&all).iter().any(is_well) && !lines(&quiet).iter().any(is_well));
    let slips = |finished| {
        lines(finished)
            .iter()
            .filter(|line| line.subject == "settings")
            .count()
    };
    assert_eq!((slips(&all), slips(&quiet)), (1, 1), "{quiet:#?}");
    let findings: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    assert_eq!(findings.len(), lines(&all).len());
    let finding = findings
        .iter()
        .find(|one| one["subject"] == "settings")
        .unwrap();
    assert_eq!(finding["level"], "warn", "{finding}");
    let text = finding["text"].as_str().unwrap();
    let begin = "/etc/vsock-bridge/vsock-bridge@445.conf:1: VSOCK_BRIDGE_ALOW_CID";
    assert!(
        text.starts_with(begin) && text.ends_with("did you mean VSOCK_BRIDGE_ALLOW_CID?"),
        "{text}"
    );
    assert!(finding["commands"].is_array());
}

/// The lines about settings where the folder of settings is as these shell commands leave it.
fn settings_after(commands: &str) -> Option<Vec<String>> {
    let finished = check_with(&format!("{MACHINE_ID}; cd /etc/vsock-bridge; {commands}"))?;
    let lines = lines(&finished).into_iter();
    let settings = lines.filter(|line| line.subject == "settings");
    Some(
        settings
            .map(|line| format!("{} {}", line.level, line.text))
            .collect(),
    )
}

#[test]
fn a_list_of_ports_in_the_file_of_no_instance_has_no_effect() {
    let said = settings_after(
        "echo VSOCK_BRIDGE_PORTS=80,90 | tee vsock-bridge@.conf >vsock-bridge@8000.conf",
    );
    let Some(said) = said else {
        return;
    };
    let begin =
        "WARN /etc/vsock-bridge/vsock-bridge@.conf:1: VSOCK_BRIDGE_PORTS has no effect here";
    assert!(said.len() == 1 && said[0].starts_with(begin), "{said:?}");
}

#[test]
fn a_file_with_settings_whose_name_is_of_no_bridge_is_told_and_no_other_one() {
    let wrong = [
        "445.conf",
        "vsock-bridge@445",
        "vsock-bridge@445.socket.conf",
    ];
    let right = [
        "vsock-bridge@445.conf",
        "vsock-bridge-any.conf",
        "vsock-bridge@80.conf~",
    ];
    let files = [&wrong[..], &right[..]].concat().join(" ");
    let write = format!(
        "echo VSOCK_BRIDGE_ALLOW_CID=3 | tee {files} >/dev/null; echo see README >notes; \
         echo '3 host:53' >gateway.conf"
    );
    let Some(said) = settings_after(&write) else {
        return;
    };
    assert_eq!(said.len(), wrong.len(), "{said:?}");
    for (line, name) in said.iter().zip(wrong) {
        let begin = format!("WARN /etc/vsock-bridge/{name} is read by no bridge: ");
        assert!(line.starts_with(&begin), "{line:?}");
    }
}

#[test]
fn what_a_file_comes_to_is_told_though_no_unit_is_in_use() {
    let write = "echo 'VSOCK_BRIDGE_NAMES=\"web=3\"' >vsock-bridge.conf; \
        echo 'VSOCK_BRIDGE_TO=\"3=/run/a web=/run/b\"' >vsock-bridge@1.conf; \
        echo VSOCK_BRIDGE_TO=vsock:web:1 >vsock-bridge@2.conf; \
        echo VSOCK_BRIDGE_ALLOW_CID=web,nobody >vsock-bridge@3.conf";
    let Some(said) = settings_after(write) else {
        return;
    };
    let begins = [
        "1.conf:1: VSOCK_BRIDGE_TO: machine 3 has two targets",
        "3.conf:1: VSOCK_BRIDGE_ALLOW_CID: no machine is named \"nobody\"",
    ];
    assert_eq!(said.len(), begins.len(), "{said:?}");
    for (line, begin) in said.iter().zip(begins) {
        let begin = format!("WARN /etc/vsock-bridge/vsock-bridge@{begin}");
        assert!(line.starts_with(&begin), "{line:?}");
    }
}

#[test]
fn colours_are_for_terminals_and_not_where_they_are_not_wanted() {
    let on_terminal = |variable: Option<(&str, &str)>| {
        let mut script = command("script");
        script.args([
            "-qec",
            &format!("{} check; true", ours("vsockctl")),
            "/dev/null",
        ]);
        script.env("TERM", "xterm").envs(variable);
        finish(script).stdout
    };
    if Command::new("script")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return skipped("no script(1) here");
    }
    assert!(on_terminal(None).contains("\x1b["));
    assert!(!on_terminal(Some(("NO_COLOR", "1"))).contains('\x1b'));
    let mut check = command(ours("vsockctl"));
    check.arg("check").env("TERM", "xterm");
    assert!(!finish(check).stdout.contains('\x1b'));
}

#[test]
fn the_table_cannot_be_written_exits_1() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        return skipped("no /dev/full here");
    };
    let mut check = command(ours("vsockctl"));
    check.arg("check").stdout(Stdio::from(full));
    assert_eq!(check.status().unwrap().code(), Some(1));
}
