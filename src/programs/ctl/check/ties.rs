//! Whether a bridge fails with another unit, by a setting that no unit of ours has. Its socket, whose connection still waits,
//! would start it again at once, over and over: a full processor, and nothing in the journal that says why.

use std::fs;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Level};
use super::settings::services;
use super::units::{Manager, Unit, show};

/// What ties a unit to others (systemd.unit(5)); Wants= and Upholds= start them as well, and no more.
const SETTINGS: [&str; 3] = ["Requires", "Requisite", "BindsTo"];

/// A line of a unit with such a setting.
#[derive(Debug, PartialEq, Eq)]
struct Tie {
    service: String,
    file: PathBuf,
    line: usize,
    setting: String,
    others: Vec<String>,
}

/// Returns a line for each tie of a bridge in use; a failure while one of the others is down.
pub(super) fn check(units: &[Unit]) -> Vec<Finding> {
    // A service that has one connection is not started again for it.
    let bridges = services(units).filter(|unit| unit.id.starts_with("vsock-bridge"));
    let ties: Vec<Tie> = bridges.flat_map(ties).collect();
    let names: Vec<&str> = (ties.iter().flat_map(|tie| &tie.others))
        .map(|name| &**name)
        .collect();
    let others = match names.is_empty() {
        true => Vec::new(),
        false => show(Manager::System, &names).unwrap_or_default(),
    };
    ties.iter().map(|tie| look(tie, &others)).collect()
}

fn ties(service: &Unit) -> Vec<Tie> {
    let of_file = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap_or_default();
        read(&service.id, file, &text)
    };
    service.files.iter().flat_map(of_file).collect()
}

fn read(id: &str, file: &Path, text: &str) -> Vec<Tie> {
    let instance = id
        .split_once('@')
        .and_then(|(_, rest)| rest.rsplit_once('.'));
    let instance = instance.map_or("", |(instance, _)| instance);
    let tie = |(index, line): (usize, &str)| {
        let (setting, value) = line.split_once('=')?;
        let setting = setting.trim();
        SETTINGS.contains(&setting).then(|| Tie {
            service: id.to_owned(),
            file: file.to_owned(),
            line: index + 1,
            setting: setting.to_owned(),
            others: (value.split_whitespace())
                .map(|name| name.replace("%i", instance))
                .collect(),
        })
    };
    text.lines().enumerate().filter_map(tie).collect()
}

fn look(tie: &Tie, others: &[Unit]) -> Finding {
    let is_down = |name: &&String| {
        let is_it = |unit: &&Unit| unit.id == **name;
        (others.iter().find(is_it))
            .is_some_and(|unit| unit.load != "loaded" || unit.active == "failed")
    };
    let down = tie.others.iter().find(is_down);
    let now = down.map_or(String::new(), |name| format!(", as {name} does now"));
    let (file, setting) = (tie.file.display(), &tie.setting);
    let text = format!(
        "fails whenever {} does{now}, and its socket starts it again at once, over and over: {setting}= in {file}:{} is to \
         be Wants= or Upholds=",
        tie.others.join(" or "),
        tie.line
    );
    let level = Level::of_fault(down.is_some());
    Finding::new(level, &tie.service, text)
        .run(format!("sed -i 's/^ *{setting} *=/Wants=/' '{file}'"))
        .run("systemctl daemon-reload")
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::active;
    use super::*;

    const FILE: &str = "/etc/systemd/system/vsock-bridge@80.service.d/vm.conf";
    const TEXT: &str = "[Unit]\n#Requires=no.service\nAfter=vm.service\n Requires = vm.service vm-%i.service\n\
        Wants=x.service\n[Service]\nEnvironment=Requires=y\n";

    fn tie() -> Tie {
        let mut ties = read("vsock-bridge@80.service", Path::new(FILE), TEXT);
        assert_eq!(ties.len(), 1, "{ties:#?}");
        ties.remove(0)
    }

    #[test]
    fn a_tie_is_a_warning_with_its_place_and_the_command_that_makes_it_a_wish() {
        let found = look(&tie(), &[active("vm.service"), active("vm-80.service")]);
        assert_eq!(
            (found.level, &*found.subject),
            (Level::Warn, "vsock-bridge@80.service")
        );
        let begin = "fails whenever vm.service or vm-80.service does, and its socket starts it again at once, over and \
             over: Requires= in /etc/systemd/system/vsock-bridge@80.service.d/vm.conf:4 is";
        assert!(found.text.starts_with(begin), "{}", found.text);
        let sed = format!("sed -i 's/^ *Requires *=/Wants=/' '{FILE}'");
        assert_eq!(found.commands, [sed, "systemctl daemon-reload".to_owned()]);
    }

    #[test]
    fn it_is_a_failure_while_the_other_unit_has_failed_or_is_not_there() {
        for (load, state) in [("loaded", "failed"), ("not-found", "inactive")] {
            let other = Unit {
                load: load.into(),
                active: state.into(),
                ..active("vm-80.service")
            };
            let found = look(&tie(), &[active("vm.service"), other]);
            assert_eq!(found.level, Level::Fail);
            assert!(
                found.text.contains(", as vm-80.service does now, "),
                "{}",
                found.text
            );
        }
    }
}
