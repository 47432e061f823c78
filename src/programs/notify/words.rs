//! What of a machine's message is passed on: assignments that tell of the machine and have the service manager do nothing
//! else. Pure, and bounded.
//!
//! The guest is not trusted: MAINPID=, FDSTORE=, WATCHDOG= and EXTEND_TIMEOUT_USEC= would be commands to the host. Nor is
//! STOPPING=, which a guest that reboots sends as well, and after which its unit would be killed.

/// Bytes of a value that are passed on.
const VALUE_BYTES_MAX: usize = 512;
/// What systemd calls what is its own (sd_notify(3)).
const OWN_NAME: &str = "X_SYSTEMD_";
/// Says that all is up.
const READY: &str = "READY=1";

/// Chooses the words to pass on.
#[derive(Debug)]
pub(super) struct Words {
    /// With which target of the guest the machine is ready; none is its own word.
    ready_when: Option<String>,
}

impl Words {
    /// Takes the target with which the machine is ready.
    pub(super) fn new(ready_when: Option<String>) -> Words {
        Words { ready_when }
    }

    /// Returns the lines of a message that are passed on, each with its end.
    pub(super) fn of(&self, message: &[u8]) -> String {
        let mut passed = String::new();
        for line in message.split(|&byte| byte == b'\n') {
            if let Some(line) = std::str::from_utf8(line).ok().and_then(assignment) {
                if line != READY || self.ready_when.is_none() {
                    passed.push_str(&line);
                    passed.push('\n');
                }
                if self.is_ready(&line) {
                    passed.push_str("READY=1\n");
                }
            } else if !line.is_empty() {
                log::trace!("left out: {}", line.escape_ascii());
            }
        }
        passed
    }

    /// Returns whether lines that were passed on say that the machine is ready.
    pub(super) fn say_ready(lines: &str) -> bool {
        lines.lines().any(|line| line == READY)
    }

    /// Returns whether it is the target with which the machine is ready.
    fn is_ready(&self, line: &str) -> bool {
        let target = line.strip_prefix("X_SYSTEMD_UNIT_ACTIVE=");
        target.is_some() && target == self.ready_when.as_deref()
    }
}

/// Reads an assignment that may be passed on, and makes its value harmless.
fn assignment(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    match name {
        "READY" => (value == "1").then(|| READY.to_owned()),
        "ERRNO" => value
            .parse::<u16>()
            .ok()
            .map(|number| format!("ERRNO={number}")),
        "STATUS" => Some(format!("STATUS={}", harmless(value))),
        _ if is_own(name) => Some(format!("{name}={}", harmless(value))),
        _ => None,
    }
}

fn is_own(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= 64 && name.starts_with(OWN_NAME) && name.bytes().all(is_part)
}

/// Shortens a text, and takes from it what a terminal may take for commands.
fn harmless(text: &str) -> String {
    let mut harmless = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if harmless.len() + c.len_utf8() > VALUE_BYTES_MAX {
            break;
        }
        harmless.push(c);
    }
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(message: &str) -> String {
        Words::new(None).of(message.as_bytes())
    }

    #[test]
    fn what_a_guest_says_at_its_boot_is_passed_on() {
        let said = "X_SYSTEMD_SIGNALS_LEVEL=2\nX_SYSTEMD_HOSTNAME=web";
        assert_eq!(passed(said), format!("{said}\n"));
        let said = "READY=1\nSTATUS=Startup finished in 3.1s.";
        assert_eq!(passed(said), format!("{said}\n"));
        assert!(Words::say_ready(&passed(said)));
        assert!(!Words::say_ready("STATUS=READY=1\n"));
    }

    #[test]
    fn commands_to_the_service_manager_are_left_out() {
        for line in [
            "MAINPID=1",
            "FDSTORE=1",
            "FDSTOREREMOVE=1",
            "WATCHDOG=1",
            "WATCHDOG=trigger",
            "WATCHDOG_USEC=1",
            "EXTEND_TIMEOUT_USEC=1",
            "STOPPING=1",
            "RELOADING=1",
            "BUSERROR=x",
            "BARRIER=1",
            "READY=0",
            "READY=",
            "READY",
            " READY=1",
            "ERRNO=x",
            "ERRNO=70000",
            "X_SYSTEMD_a=1",
            "X_OTHER=1",
            "",
            "=",
            "\0",
        ] {
            assert_eq!(passed(line), "", "{line:?}");
        }
        assert_eq!(passed("MAINPID=1\nREADY=1\r\nERRNO=2"), "ERRNO=2\n");
        assert_eq!(Words::new(None).of(b"STATUS=\xff\nREADY=1"), "READY=1\n");
    }

    #[test]
    fn a_status_is_a_short_text_without_control_characters() {
        assert_eq!(passed("STATUS=a\x1b[31mb\tc"), "STATUS=a [31mb c\n");
        let long = passed(&format!("STATUS={}", "ä".repeat(4000)));
        assert_eq!(long.len(), "STATUS=\n".len() + VALUE_BYTES_MAX);
    }

    #[test]
    fn ready_may_be_a_target_of_the_guest() {
        let words = Words::new(Some("ssh-access.target".to_owned()));
        assert_eq!(words.of(b"READY=1\nSTATUS=up"), "STATUS=up\n");
        for (target, is_ready) in [
            ("ssh-access.target", true),
            ("basic.target", false),
            ("", false),
        ] {
            let said = format!("X_SYSTEMD_UNIT_ACTIVE={target}");
            let passed = words.of(said.as_bytes());
            assert_eq!(Words::say_ready(&passed), is_ready, "{target}");
            assert!(passed.starts_with(&format!("{said}\n")));
        }
    }
}
