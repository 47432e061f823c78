//! The examples of the manuals work: each is run here, or by a case in `tests/vm` or `tests/systemd` that has its line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::bridge::Bridge;
use crate::common::examples::{Display, Step, displays, named_by_cases, root};
use crate::common::own_etc::OwnEtc;
use crate::common::place::{Kind, Place};
use crate::common::program::{command, finish, ours, path_with_ours};
use crate::common::{own_folder, skipped};

const CONFIG: &str = "vsock-bridge/vsock-bridge.conf";
/// The prefix of all examples.
const PREFIX: &str = "fd00:abcd:ef12::/64";

/// The settings that hold for all examples, which are themselves one.
fn common_settings() -> Display {
    let all = displays();
    let is_common =
        |one: &Display| one.file.as_deref() == Some("/etc/vsock-bridge/vsock-bridge.conf");
    all.into_iter().find(is_common).unwrap()
}

/// Returns the variables of a file with settings.
fn assignments(settings: &Display) -> Vec<(String, String)> {
    let lines = settings.lines.iter().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        })
        .collect()
}

#[test]
fn settings_are_accepted() {
    let mut count = 0;
    let of_bridges = |one: &Display| one.is_settings() && !is_of_commands(one);
    for settings in displays().into_iter().filter(of_bridges) {
        count += 1;
        let common = assignments(&common_settings());
        let all = common.into_iter().chain(assignments(&settings));
        let bridge = Bridge::bare().variable("VSOCK_BRIDGE_TO", "[::1]:1");
        let bridge = all.fold(bridge, |bridge, (name, value)| {
            bridge.variable(&name, value)
        });
        // Machines come over vsock alone, which there may be none of here.
        if assignments(&settings)
            .iter()
            .any(|(name, value)| name == "VSOCK_BRIDGE_TO" && value.contains('='))
        {
            let finished = bridge.arguments(&["--check"]).finish();
            assert_eq!(
                (finished.code, &finished.stderr[..]),
                (0, &[][..]),
                "{settings:#?}"
            );
            continue;
        }
        let listener = Place::listening(Kind::Tcp6);
        let mut bridge = bridge.listener(&listener).start();
        bridge.wait_for_line("bridging");
        let has_warned = bridge.log.iter().any(|line| line.contains("not a setting"));
        assert!(!has_warned, "{settings:#?}: {:#?}", bridge.log);
    }
    assert!(count > 5, "{count} files with settings");
}

/// The file of a port of vsock-exec@.
fn is_of_commands(settings: &Display) -> bool {
    let file = settings.file.as_deref().unwrap_or_default();
    settings.is_settings() && file.contains("/vsock-exec@")
}

#[test]
fn settings_of_commands_are_accepted() {
    let Some(etc) = machine(true) else { return };
    let files: Vec<Display> = displays().into_iter().filter(is_of_commands).collect();
    assert!(!files.is_empty());
    for settings in files {
        let file = settings.file.unwrap();
        let unit = Path::new(&file).file_stem().unwrap().to_str().unwrap();
        etc.write(
            file.trim_start_matches("/etc/"),
            settings.lines.join("\n") + "\n",
        );
        shell(&etc, &format!("vsock-bridge --check {unit}"));
    }
}

#[test]
fn rules_are_accepted() {
    let folder = own_folder();
    let path = folder.path().join("gateway.conf");
    let mut count = 0;
    for rules in displays().into_iter().filter(Display::is_rules) {
        count += 1;
        fs::write(&path, rules.lines.join("\n")).unwrap();
        let finished = Bridge::to("gateway")
            .variable("VSOCK_BRIDGE_RULES", &path)
            .variable("VSOCK_BRIDGE_NAMES", "web=3 db=4 cache=5 build=6")
            .arguments(&["--check"])
            .finish();
        assert_eq!((finished.code, &finished.stderr[..]), (0, &[][..]));
    }
    assert!(count > 0);
}

/// What of examples is for systemd 254 and newer, and 252 ignores, as they say.
const NEWER: [&str; 1] = ["Unknown key 'FileDescriptorStorePreserve'"];

#[test]
fn units_pass_verification() {
    if command("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        return skipped("systemd-analyze is not installed");
    }
    let folder = own_folder();
    install_units(folder.path());
    let units: Vec<Display> = displays().into_iter().filter(Display::is_unit).collect();
    let mut names = BTreeSet::new();
    for unit in &units {
        let file = unit.file.as_deref().unwrap();
        let name = file.rsplit('/').next().unwrap();
        let path = match file.contains('/') {
            true => folder.path().join(name),
            // A drop-in.
            false => folder.path().join(format!("{name}.d/50-example.conf")),
        };
        write_unit(&path, &(unit.lines.join("\n") + "\n"));
        names.insert(name.replace("@.", "@1."));
    }
    assert!(names.len() > 3, "{names:?}");
    for name in names {
        let mut verify = command("systemd-analyze");
        let path = format!("{}:", folder.path().display());
        verify.env("SYSTEMD_UNIT_PATH", path);
        let finished = finish({
            verify.args(["verify", "--man=no", &name]);
            verify
        });
        // Unknown keys are a warning only.
        let is_newer = |line: &&String| !NEWER.iter().any(|key| line.contains(key));
        let is_silent = finished.code == 0 && !finished.stderr.iter().any(|line| is_newer(&line));
        assert!(is_silent, "{name}: {finished:#?}");
    }
}

/// The units of the project and the drop-in of the generator, with the built programs.
fn install_units(folder: &Path) {
    for entry in fs::read_dir(root().join("units")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            write_unit(&folder.join(name.trim_end_matches(".in")), &text);
        }
    }
    let drop_in = "[Socket]\nListenStream=[fd00:abcd:ef12::2]:%i\n";
    let path = folder.join("vsock-bridge-ipv6@.socket.d/40-prefix.conf");
    write_unit(&path, drop_in);
}

fn write_unit(path: &Path, text: &str) {
    let (bridge, exec) = (ours("vsock-bridge"), ours("vsock-exec"));
    let text = text
        .replace("@LIBEXECDIR@/vsock-bridge/vsock-bridge", &bridge)
        .replace("/usr/libexec/vsock-bridge/vsock-bridge", &bridge)
        .replace(
            "/usr/libexec/vsock-bridge/vsock-notify",
            &ours("vsock-notify"),
        )
        .replace("@LIBEXECDIR@/vsock-bridge/vsock-exec", &exec)
        .replace("/usr/libexec/vsock-bridge/vsock-exec", &exec)
        .replace("@BINDIR@/vsockctl", &ours("vsockctl"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn ssh_takes_its_configurations() {
    let folder = own_folder();
    let file = folder.path().join("config");
    let parts: Vec<Display> = (displays().into_iter())
        .filter(Display::is_ssh_configuration)
        .collect();
    let text: Vec<String> = parts.iter().flat_map(|part| part.lines.clone()).collect();
    fs::write(&file, text.join("\n") + "\n").unwrap();
    let mut ssh = command("ssh");
    ssh.arg("-F").arg(&file).args(["-T", "-G", "3.vsock"]);
    if ssh.output().is_err() {
        return skipped("ssh is not installed");
    }
    let finished = finish(ssh);
    assert_eq!(finished.code, 0, "{finished:#?}");
    for line in [
        "proxycommand /usr/bin/vsock-connect --fdpass %h %p",
        "proxyusefdpass yes",
        "hostkeyalias web",
    ] {
        assert!(finished.stdout.lines().any(|l| l == line), "{finished:#?}");
    }
}

#[test]
fn the_configuration_of_ssh_is_the_installed_one() {
    let path = root().join("packaging/ssh/35-vsock-bridge.conf.in");
    let installed = fs::read_to_string(path).unwrap();
    let installed = installed.replace("@BINDIR@", "/usr/bin");
    let installed: Vec<&str> = installed
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let all = displays();
    let is_it = |one: &&Display| one.is_ssh_configuration() && one.file.is_some();
    assert_eq!(all.iter().find(is_it).unwrap().lines, installed);
}

/// Those of vsockctl that need nothing but a configuration.
fn is_of_vsockctl(step: &Step) -> bool {
    ["vsockctl addr ", "vsockctl cid ", "vsockctl hosts"]
        .iter()
        .any(|start| step.command.starts_with(start))
}

fn is_of_generator(step: &Step) -> bool {
    step.command.contains("/generator")
}

fn sessions() -> impl Iterator<Item = Display> {
    displays().into_iter().filter(Display::is_session)
}

/// A machine with the settings of the examples, if `is_configured`.
fn machine(is_configured: bool) -> Option<OwnEtc> {
    let Some(etc) = OwnEtc::new() else {
        skipped("no mount namespaces here");
        return None;
    };
    etc.write("hosts", "");
    if is_configured {
        etc.write(CONFIG, common_settings().lines.join("\n") + "\n");
    }
    Some(etc)
}

/// Runs a line of shell that finds our programs; gives what it prints.
fn shell(etc: &OwnEtc, line: &str) -> String {
    let mut shell = etc.command("sh");
    shell.args(["-c", line]).env("PATH", path_with_ours());
    let finished = finish(shell);
    assert_eq!(finished.code, 0, "{line}: {finished:#?}");
    finished.stdout
}

#[test]
fn vsockctl_prints_what_is_shown() {
    let Some(etc) = machine(true) else { return };
    let mut compared = 0;
    for step in sessions().flat_map(|session| session.steps()) {
        if is_of_vsockctl(&step) {
            let printed = shell(&etc, &step.command);
            let printed: Vec<&str> = printed.lines().collect();
            assert_eq!(printed, step.output, "{}", step.command);
            compared += usize::from(!printed.is_empty());
        }
    }
    assert!(compared > 3, "{compared} outputs");
    assert!(etc.read("hosts").contains("web.vsock"));
}

#[test]
fn the_generator_writes_what_is_shown() {
    let Some(etc) = machine(false) else { return };
    let prefix = shell(&etc, "vsockctl --quiet prefix show");
    let own = prefix.trim_end().trim_end_matches("/64");
    let folder = own_folder();
    let output = folder.path().join("generator").display().to_string();
    let mut printed = Vec::new();
    let mut expected = Vec::new();
    for step in sessions().flat_map(|session| session.steps()) {
        if is_of_generator(&step) {
            let line = step
                .command
                .replace("/tmp/generator", &output)
                .replace("/usr/lib/systemd/system-generators/", "");
            let text = shell(&etc, &line).replace(own, PREFIX.trim_end_matches("/64"));
            printed.extend(text.lines().map(str::to_owned));
            expected.extend(step.output);
        }
    }
    assert!(!expected.is_empty());
    assert_eq!(printed, expected);
}

#[test]
fn each_example_is_run() {
    let cases = named_by_cases();
    let is_in_a_case = |text: &str| cases.iter().any(|(_, named)| named == text);
    for display in displays() {
        if display.is_session() {
            let first = &display.lines[0];
            for step in display.steps() {
                let is_run = is_of_vsockctl(&step) || is_of_generator(&step);
                // The file that it shows is taken from there.
                let is_taken = is_in_a_case(&format!("# {}", step.command));
                let is_run = is_run || is_taken || is_in_a_case(&step.command);
                assert!(is_run, "{}, {first}: no test runs {step:?}", display.page);
            }
        } else {
            let is_run =
                display.is_settings() || display.is_unit() || display.is_ssh_configuration();
            let is_run = is_run || display.is_rules();
            let is_run = is_run || is_in_a_case(&display.lines[0]);
            assert!(is_run, "no test has {display:#?}");
        }
    }
}

#[test]
fn each_line_that_a_case_runs_is_an_example() {
    let mut shown = BTreeSet::new();
    for display in displays() {
        shown.insert(display.lines[0].clone());
        if display.is_session() {
            let commands = display.steps().into_iter().map(|step| step.command);
            shown.extend(
                commands
                    .flat_map(|command| [format!("# {command}"), format!("$ {command}"), command]),
            );
        }
    }
    let cases = named_by_cases();
    assert!(!cases.is_empty());
    for (case, line) in cases {
        assert!(shown.contains(&line), "{case}: in no manual: {line}");
    }
}
