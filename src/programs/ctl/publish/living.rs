//! Which machines of a manager have a name, and which have none because it would be a guess.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::managers::Managed;
use crate::names::is_name;
use crate::sys;
use crate::vsock::Cid;

/// What a manager says of a machine that has its CID: of libvirt (virDomainState), whose machines may be off, and machined.
const RUNNING: [&str; 5] = ["running", "idle", "paused", "in shutdown", "pmsuspended"];

/// A machine with a name.
#[derive(Debug)]
pub(super) struct Living {
    name: String,
    cid: Cid,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    number: Pid,
    /// As long as it is open, no other process is taken for this one.
    descriptor: OwnedFd,
}

impl Living {
    /// Returns its line of the registry.
    pub(super) fn line(&self) -> String {
        format!("{}={}\n", self.name, self.cid)
    }

    /// Returns what can be read when it has ended.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.process.as_ref()?.descriptor.as_fd())
    }

    /// Returns whether its process has.
    pub(super) fn has_ended(&self) -> bool {
        let is_readable = |descriptor| {
            let mut watched = [PollFd::new(descriptor, PollFlags::POLLIN)];
            poll(&mut watched, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        };
        self.descriptor().is_some_and(is_readable)
    }
}

/// Returns the machines that have a name now, and why others have none. `before`: those that had one, which are used up.
pub(super) fn select(
    machines: Vec<Managed>,
    before: &mut Vec<Living>,
) -> (Vec<Living>, BTreeSet<String>) {
    let (mut living, mut left_out) = (Vec::new(), BTreeSet::new());
    before.retain(|machine| !machine.has_ended());
    for machine in machines {
        // machined's `.host` is this machine.
        if !RUNNING.contains(&&*machine.state) || machine.name.starts_with('.') {
            continue;
        }
        let name = machine.name.to_ascii_lowercase();
        let (known, process) = match machine.process.map(|number| process(number, &name, before)) {
            None => (None, None),
            Some(Ok((cid, process))) => (cid, Some(process)),
            // Its manager has not noticed yet.
            Some(Err(Errno::ESRCH)) => continue,
            // Such as a kernel without them: its manager is believed.
            Some(Err(_)) => (None, None),
        };
        // machined forgets CIDs when it starts again (systemd 257), and a machine keeps its own until its process ends.
        let Some(cid) = machine.cid.or(known) else {
            continue;
        };
        if !is_name(&name) {
            left_out.insert(format!(
                "{:?} (CID {cid}) has no name here: letters, digits and hyphens can be one, at least one of them a letter",
                machine.name
            ));
            continue;
        }
        let one = Living { name, cid, process };
        if !one.has_ended() {
            living.push(one);
        }
    }
    living.sort_by(|one, other| one.name.cmp(&other.name));
    leave_out_doubtful(&mut living, &mut left_out);
    (living, left_out)
}

/// Returns the process, and the CID of that machine where it is the same one as before.
fn process(
    number: Pid,
    name: &str,
    before: &mut Vec<Living>,
) -> Result<(Option<Cid>, Process), Errno> {
    let is_it = |one: &Living| {
        let process = one.process.as_ref();
        one.name == name && process.is_some_and(|process| process.number == number)
    };
    let same = before.iter().position(is_it);
    let same = same.map(|index| before.swap_remove(index));
    if let Some(Living {
        cid,
        process: Some(process),
        ..
    }) = same
    {
        return Ok((Some(cid), process));
    }
    let descriptor = sys::process_descriptor(number)?;
    Ok((None, Process { number, descriptor }))
}

/// Takes out machines that have the name or the CID of another one: only one of them can be right, and nobody knows which.
fn leave_out_doubtful(living: &mut Vec<Living>, left_out: &mut BTreeSet<String>) {
    let is_doubtful: Vec<bool> = (living.iter().enumerate())
        .map(|(index, one)| {
            let others = living.iter().enumerate();
            let mut others = others.filter(|(other, _)| *other != index);
            let other = others.find(|(_, other)| other.name == one.name || other.cid == one.cid);
            if let Some((_, other)) = other {
                left_out.insert(format!(
                    "{} (CID {}) has no name while there is {} (CID {}): only one of them can be right",
                    one.name, one.cid, other.name, other.cid
                ));
            }
            other.is_some()
        })
        .collect();
    let mut is_doubtful = is_doubtful.into_iter();
    living.retain(|_| !is_doubtful.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn machine(name: &str, cid: u32, state: &str, process: Option<Pid>) -> Managed {
        Managed {
            name: name.to_owned(),
            cid: Cid::new(cid),
            state: state.to_owned(),
            process,
        }
    }

    fn lines(living: &[Living]) -> String {
        living.iter().map(Living::line).collect()
    }

    /// A process that runs until it is killed.
    struct Monitor(Child);

    impl Monitor {
        fn new() -> Monitor {
            let mut cat = Command::new("cat");
            Monitor(cat.stdin(Stdio::piped()).spawn().unwrap())
        }

        fn number(&self) -> Option<Pid> {
            i32::try_from(self.0.id()).ok().map(Pid::from_raw)
        }

        fn end(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn who_runs_and_has_a_cid_has_a_name() {
        let machines = vec![
            machine("Web", 7, "running", None),
            machine("db", 8, "paused", None),
            machine("off", 9, "shut off", None),
            machine("crashed", 10, "crashed", None),
            machine("box", 0, "running", None),
            machine(".host", 1, "running", None),
            machine("my_vm", 11, "running", None),
        ];
        let (living, left_out) = select(machines, &mut Vec::new());
        assert_eq!(lines(&living), "db=8\nweb=7\n");
        let left_out = Vec::from_iter(left_out);
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert!(left_out[0].starts_with("\"my_vm\" (CID 11) has no name here"));
    }

    #[test]
    fn of_two_with_one_name_or_cid_none_has_a_name() {
        let machines = vec![
            machine("web", 7, "running", None),
            machine("old", 7, "running", None),
            machine("db", 8, "running", None),
            machine("DB", 9, "running", None),
            machine("ci", 10, "running", None),
        ];
        let (living, left_out) = select(machines, &mut Vec::new());
        assert_eq!(lines(&living), "ci=10\n");
        assert_eq!(left_out.len(), 4, "{left_out:?}");
    }

    #[test]
    fn the_name_ends_with_the_process_whatever_the_manager_says() {
        let mut monitor = Monitor::new();
        let said = || vec![machine("web", 7, "running", monitor.number())];
        let (living, _) = select(said(), &mut Vec::new());
        let late = said();
        assert!(!living[0].has_ended());
        monitor.end();
        assert!(living[0].has_ended());
        let mut before = living;
        let (living, left_out) = select(late, &mut before);
        assert_eq!((lines(&living), left_out.len()), (String::new(), 0));
    }

    #[test]
    fn a_cid_that_machined_has_forgotten_is_that_of_the_same_process_and_of_no_other() {
        let (mut first, mut other) = (Monitor::new(), Monitor::new());
        let forgotten = |monitor: &Monitor| vec![machine("web", 0, "running", monitor.number())];
        let known = vec![machine("web", 7, "running", first.number())];
        let (mut before, _) = select(known, &mut Vec::new());
        let (mut before, _) = select(forgotten(&first), &mut before);
        assert_eq!(lines(&before), "web=7\n");
        let (living, _) = select(forgotten(&other), &mut before);
        assert_eq!(lines(&living), "");
        first.end();
        other.end();
    }
}
