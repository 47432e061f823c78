//! The sshd behind sshd-vsock.socket: whether it is there, and what it says of itself.

use std::path::{Path, PathBuf};

use super::finding::{Finding, Level};
use super::units::{SSHD_INSTANCE, Unit, Use};
use crate::clock::Moment;
use crate::packets::{Device, Packets};
use crate::tool::{self, ANSWER_TIME};

/// Where systemd looks for a command without a path, in its order (systemd.service(5)).
const PATH: [&str; 5] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
];
/// What Debian's sshd wants for privilege separation, made by tmpfiles.d.
const DIRECTORY: &str = "/run/sshd";

/// What is known of sshd.
#[derive(Debug)]
pub(super) struct Facts {
    /// Where it is.
    pub program: Option<PathBuf>,
    /// What `sshd -t` complains of; none was asked unless root did.
    pub complaint: Option<String>,
    /// The user may ask sshd.
    pub is_root: bool,
    /// /run/sshd is there.
    pub has_directory: bool,
    /// The unit of a connection makes it.
    pub unit_makes_directory: bool,
    /// The system has Debian's packages.
    pub is_debian: bool,
    /// The device of vsock may drop large packets, which sshd makes.
    pub loses_packets: bool,
}

/// Asks sshd itself, where root may.
pub(super) fn gather(units: &[Unit], is_root: bool) -> Facts {
    let program = PATH
        .iter()
        .map(|directory| Path::new(directory).join("sshd"))
        .find(|path| path.is_file());
    let makes = |unit: &Unit| {
        unit.id == SSHD_INSTANCE && unit.runtime_directory.split(' ').any(|name| name == "sshd")
    };
    Facts {
        complaint: program.as_deref().filter(|_| is_root).and_then(complaint),
        program,
        is_root,
        has_directory: Path::new(DIRECTORY).is_dir(),
        unit_makes_directory: units.iter().any(makes),
        is_debian: Path::new("/etc/debian_version").exists(),
        loses_packets: Packets::for_device(Device::find(Path::new("/")))
            .limit_bytes()
            .is_some(),
    }
}

/// Runs `sshd -t`, which checks configuration, host keys and directory, and listens to nothing.
fn complaint(program: &Path) -> Option<String> {
    let name = program.as_os_str();
    match tool::try_out(name, &["-t"], Moment::now() + ANSWER_TIME) {
        Ok(Some((status, _))) if status.success() => None,
        Ok(Some((status, said))) => {
            let last = said.complaint.trim().lines().last().map(str::to_owned);
            Some(last.unwrap_or(status.to_string()))
        }
        Ok(None) => Some("is not there any more".to_owned()),
        Err(problem) => {
            let of_it = problem.strip_prefix(&*name.to_string_lossy());
            Some(of_it.unwrap_or(&problem).trim().to_owned())
        }
    }
}

/// Checks it where a socket for it is in use.
pub(super) fn check(facts: &Facts, is_used: &Use) -> Option<Finding> {
    if !is_used.sshd {
        return None;
    }
    Some(look(facts))
}

fn look(facts: &Facts) -> Finding {
    let fail = |text: String| Finding::new(Level::Fail, "sshd", text);
    let Some(program) = facts.program.as_deref().map(Path::display) else {
        let finding = fail("is not installed".into());
        return match facts.is_debian {
            true => finding.run("apt-get install openssh-server"),
            false => finding,
        };
    };
    if !facts.has_directory {
        let level = Level::of_fault(!facts.unit_makes_directory);
        let text = format!("{DIRECTORY} is missing, which Debian's sshd needs");
        return Finding::new(level, "sshd", text).run("systemd-tmpfiles --create");
    }
    match &facts.complaint {
        Some(complaint) if complaint.contains("no hostkeys") => {
            fail(format!("{program} has no host keys")).run("ssh-keygen -A")
        }
        Some(complaint) if complaint.contains(DIRECTORY) => {
            fail(format!("{program}: {complaint}")).run("systemd-tmpfiles --create")
        }
        Some(complaint) => fail(format!("{program} -t: {complaint}")),
        None if !facts.is_root => Finding::warn(
            "sshd",
            format!("{DIRECTORY} is there; {program} -t can be asked by root only"),
        ),
        None if facts.loses_packets => Finding::warn(
            "sshd",
            "writes into vsock itself, and the device of this VM may drop its large packets; \
             a bridge to sshd on [::1]:22 sends small ones",
        )
        .run("systemctl enable --now vsock-bridge@22.socket"),
        None => Finding::ok("sshd", format!("{program} -t has no complaint")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            program: Some("/usr/sbin/sshd".into()),
            complaint: None,
            is_root: true,
            has_directory: true,
            unit_makes_directory: true,
            is_debian: true,
            loses_packets: false,
        }
    }

    fn expect(facts: Facts, level: Level, command: Option<&str>) {
        let finding = look(&facts);
        let commands: Vec<_> = command.iter().map(|c| (*c).to_owned()).collect();
        assert_eq!(
            (finding.level, finding.commands),
            (level, commands),
            "{}",
            finding.text
        );
    }

    #[test]
    fn without_the_socket_nothing_is_wanted_of_sshd() {
        let facts = Facts {
            program: None,
            ..good()
        };
        assert_eq!(check(&facts, &Use::NOTHING), None);
    }

    #[test]
    fn a_good_sshd_is_well_and_a_user_cannot_ask() {
        expect(good(), Level::Ok, None);
        let facts = Facts {
            is_root: false,
            ..good()
        };
        expect(facts, Level::Warn, None);
    }

    #[test]
    fn an_sshd_whose_packets_the_device_drops_is_a_warning() {
        let facts = Facts {
            loses_packets: true,
            ..good()
        };
        let command = "systemctl enable --now vsock-bridge@22.socket";
        expect(facts, Level::Warn, Some(command));
    }

    #[test]
    fn an_sshd_that_is_missing_fails() {
        let facts = || Facts {
            program: None,
            ..good()
        };
        expect(facts(), Level::Fail, Some("apt-get install openssh-server"));
        let other = Facts {
            is_debian: false,
            ..facts()
        };
        expect(other, Level::Fail, None);
    }

    #[test]
    fn a_missing_directory_fails_unless_the_unit_makes_it() {
        let facts = |unit_makes_directory| Facts {
            has_directory: false,
            unit_makes_directory,
            complaint: Some("Missing privilege separation directory: /run/sshd".into()),
            ..good()
        };
        let command = Some("systemd-tmpfiles --create");
        expect(facts(true), Level::Warn, command);
        expect(facts(false), Level::Fail, command);
    }

    #[test]
    fn an_sshd_that_is_no_program_says_why_and_not_its_name_twice() {
        // Nobody may execute it, not even root.
        let said = complaint(Path::new("/proc/self/status")).unwrap();
        assert!(said.starts_with("cannot be run: "), "{said}");
    }

    #[test]
    fn what_sshd_complains_of_fails() {
        for (complaint, command) in [
            (
                "sshd: no hostkeys available -- exiting.",
                Some("ssh-keygen -A"),
            ),
            (
                "/run/sshd must be owned by root and not group or world-writable.",
                Some("systemd-tmpfiles --create"),
            ),
            (
                "/etc/ssh/sshd_config line 3: Bad configuration option: x",
                None,
            ),
        ] {
            let facts = Facts {
                complaint: Some(complaint.into()),
                ..good()
            };
            expect(facts, Level::Fail, command);
        }
    }
}
