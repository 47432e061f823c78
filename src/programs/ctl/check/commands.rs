//! Whether each port of vsock-exec@ that is in use has a command, and one that can be run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Level};
use super::settings::{Setting, services, setting};
use super::units::Unit;
use crate::programs::exec::command::{self, CommandLine, VARIABLE};

/// Where systemd looks for programs (systemd.exec(5), ExecSearchPath=).
const SEARCH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Returns a line for each port whose connections get no command, and for each drop-in that none of them reads.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    let ports = services(units).filter(|service| service.id.starts_with(command::UNIT));
    ports
        .flat_map(|service| {
            let found = look(service, is_program);
            found
                .into_iter()
                .chain(useless(service, Path::is_dir(&folder(service))))
        })
        .collect()
}

fn look(service: &Unit, is_program: impl Fn(&str) -> bool) -> Option<Finding> {
    // A command line of the administrator's is not read, nor is the file then.
    let (_, arguments) = service.command.split_once("argv[]=")?;
    let (line, _) = arguments.split_once(" ;")?;
    if !line.ends_with("/vsock-exec") {
        return None;
    }
    // A file that cannot be read has its line with the settings.
    let Some(Setting { text, place }) = setting(service, VARIABLE, " -- ").ok()? else {
        let file = service.environment_files.last()?.display();
        let text = format!(
            "{} has no command: write one into {file}, such as {}",
            service.id,
            command::EXAMPLE
        );
        return Some(Finding::new(Level::Fail, "command", text));
    };
    // What is none has its line with the settings as well.
    let command: CommandLine = text.parse().ok()?;
    let program = command.program();
    (!is_program(program)).then(|| {
        let text = format!(
            "{place}: {program} is not there, or no program: install it, or name another one"
        );
        Finding::new(Level::Fail, "command", text)
    })
}

/// Says that systemd finds no drop-in for a port: it names the services of connections by other instances.
fn useless(service: &Unit, is_there: bool) -> Option<Finding> {
    let text = format!(
        "{} has no effect, since the service of a connection has another name: write it for all ports, below {}, or \
         give the port units of its own (vsock-exec(8), EXAMPLES)",
        folder(service).display(),
        "/etc/systemd/system/vsock-exec@.service.d"
    );
    is_there.then(|| Finding::warn("command", text))
}

fn folder(service: &Unit) -> PathBuf {
    format!("/etc/systemd/system/{}.d", service.id).into()
}

fn is_program(name: &str) -> bool {
    let is_one = |path: &Path| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    match name.contains('/') {
        true => is_one(Path::new(name)),
        false => SEARCH
            .iter()
            .any(|folder| is_one(&Path::new(folder).join(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::inactive;
    use super::*;

    fn service(file: &Path, command: &str) -> Unit {
        Unit {
            command: command.to_owned(),
            environment_files: vec![file.to_owned()],
            ..inactive("vsock-exec@2222.service")
        }
    }

    #[test]
    fn a_port_has_a_command_that_is_there_or_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.conf");
        let by_file = "{ path=/x/vsock-exec ; argv[]=/x/vsock-exec ; ignore_errors=no }";
        for (text, words) in [
            ("", Some("has no command: write one into")),
            (
                "VSOCK_BRIDGE_EXEC=/x -y\n",
                Some("x.conf:1: /x is not there"),
            ),
            ("VSOCK_BRIDGE_EXEC='\n", None),
            ("VSOCK_BRIDGE_EXEC=cat -u\n", None),
        ] {
            std::fs::write(&file, text).unwrap();
            let found = look(&service(&file, by_file), |name| name == "cat");
            assert_eq!(found.is_some(), words.is_some(), "{text}: {found:?}");
            let is_said = |finding: Finding| finding.text.contains(words.unwrap_or_default());
            assert!(found.is_none_or(is_said), "{text}");
        }
        let by_line = "{ path=/x/vsock-exec ; argv[]=/x/vsock-exec -- cat ; ignore_errors=no }";
        std::fs::write(&file, "").unwrap();
        assert_eq!(look(&service(&file, by_line), |_| false), None);
    }

    #[test]
    fn programs_are_found_as_systemd_finds_them() {
        assert!(is_program("sh") && is_program("/bin/sh"));
        assert!(
            !is_program("/etc/passwd") && !is_program("/bin") && !is_program("no-such-program")
        );
    }
}
