//! What systemd says of our units, and which of them are in use.

use std::fmt;
use std::path::PathBuf;

use super::rights::Identity;
use super::sandbox::Sandbox;
use crate::clock::Moment;
use crate::config_file;
use crate::endpoint::Endpoint;
use crate::programs::exec::command;
use crate::tool::{self, ANSWER_TIME};

/// Ours, and sshd's of whoever brings them.
const PATTERNS: [&str; 3] = ["vsock-bridge*", "vsock-exec*", "sshd-vsock*"];
/// An instance that need not exist, to see what any instance would be.
pub(crate) const SSHD_INSTANCE: &str = "sshd-vsock@0.service";
/// Adds the route; looked at through the route.
pub(crate) const PREFIX_SERVICE: &str = "vsock-bridge-prefix.service";
/// What listens for all ports.
pub(super) const ANY: &str = "vsock-bridge-any.socket";
/// What brings it the connections, and keeps addresses honest.
pub(super) const RULES: &str = "vsock-bridge-rules.service";
/// Answers Prometheus; the socket unit of no bridge.
pub(crate) const METRICS: &str = "vsock-bridge-metrics";
/// Writes names that systemd-machined and libvirt tell; the unit of no bridge.
pub(crate) const NAMES_SERVICE: &str = "vsock-bridge-names.service";
const TOOL: &str = "systemctl";
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,Result,UnitFileState,Listen,NRestarts,Environment,\
    EnvironmentFiles,ExecStart,RuntimeDirectory,PrivateUsers,StatusText,\
    User,Group,SupplementaryGroups,ProtectHome,PrivateTmp,RestrictAddressFamilies,IPAddressAllow,IPAddressDeny,\
    BindPaths,BindReadOnlyPaths,FragmentPath,DropInPaths";

/// Whose units are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// The machine's.
    System,
    /// Those of the user who asks, `systemctl --user`.
    User,
}

/// One loaded unit, as `systemctl show` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its name.
    pub id: String,
    /// `loaded`, `not-found`, `bad-setting` …
    pub load: String,
    /// `active`, `inactive`, `failed` …
    pub active: String,
    /// `listening`, `auto-restart` …
    pub sub: String,
    /// Why it failed.
    pub result: String,
    /// `enabled`, `disabled`, `static`, `generated` …
    pub file_state: String,
    /// The addresses of a socket unit, as in ListenStream=.
    pub listen: Vec<String>,
    /// How often systemd started it again since it was last started by hand or by a client.
    pub restarts: u32,
    /// Environment=.
    pub environment: Vec<String>,
    /// EnvironmentFile=.
    pub environment_files: Vec<PathBuf>,
    /// ExecStart=.
    pub command: String,
    /// What it says of itself, see STATUS= in sd_notify(3).
    pub status: String,
    /// As whom it runs.
    pub identity: Identity,
    /// What keeps it from targets.
    pub sandbox: Sandbox,
    /// The unit and its drop-ins.
    pub files: Vec<PathBuf>,
    /// RuntimeDirectory=.
    pub runtime_directory: String,
    /// PrivateUsers= is not off.
    pub has_private_users: bool,
}

impl Unit {
    /// Returns whether it runs, should run, or failed to.
    pub(crate) fn is_in_use(&self) -> bool {
        self.load != "not-found" && (self.is_enabled() || self.active != "inactive")
    }

    /// Returns whether it is up.
    pub(crate) fn is_active(&self) -> bool {
        ["active", "reloading", "refreshing"].contains(&&*self.active)
    }

    /// Returns whether it is started at boot.
    pub(crate) fn is_enabled(&self) -> bool {
        self.file_state.starts_with("enabled")
    }

    /// Returns whether its administrator keeps it from starting.
    pub(crate) fn is_masked(&self) -> bool {
        self.load == "masked"
    }

    /// A service without start limit is never failed for long; it is started again and again.
    pub(crate) fn keeps_failing(&self) -> bool {
        self.active == "activating" && (self.sub.starts_with("auto-restart") || self.restarts > 0)
    }

    /// Returns whether its name begins and ends so.
    pub(crate) fn is(&self, prefix: &str, suffix: &str) -> bool {
        self.id.starts_with(prefix) && self.id.ends_with(suffix)
    }
}

/// Why the units cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// There are none: this is Alpine, a container, an initramfs.
    NoSystemd,
    /// What went wrong.
    Failed(String),
}

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unasked::NoSystemd => write!(f, "systemd is not running"),
            Unasked::Failed(problem) => problem.fmt(f),
        }
    }
}

/// What the units in use need of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Vsock, in any way.
    pub vsock: bool,
    /// A way to the host; known of the targets, not of the units alone.
    pub to_host: bool,
    /// An address that the generator writes into the units.
    pub generated: bool,
    /// A prefix, sooner or later.
    pub prefix: bool,
    /// IPv6 on lo: for the prefix, or for the usual target.
    pub ipv6: bool,
    /// The route of the prefix, now.
    pub route: bool,
    /// An sshd that serves one connection.
    pub sshd: bool,
    /// systemd is there to be told what to do.
    pub systemd: bool,
}

impl Use {
    /// Reads it off the units.
    pub(crate) fn of(units: &[Unit]) -> Use {
        let used = |prefix, suffix| {
            units
                .iter()
                .any(|unit| unit.is(prefix, suffix) && unit.is_in_use())
        };
        let active = |prefix, suffix| {
            units
                .iter()
                .any(|unit| unit.is(prefix, suffix) && unit.is_active())
        };
        let ipv6 = used("vsock-bridge-ipv6@", ".socket");
        let any = used("vsock-bridge-any", ".socket");
        let bridge = used("vsock-bridge@", ".socket");
        let sshd = used("sshd-vsock.socket", "");
        Use {
            vsock: ipv6 || any || bridge || sshd || used(command::UNIT, ".socket"),
            to_host: false,
            generated: ipv6,
            prefix: ipv6 || any || bridge,
            ipv6: ipv6 || any || bridge || used("vsock-bridge-mux@", ".socket"),
            // The service of a vsock port starts the one of the prefix with its first connection.
            route: used(PREFIX_SERVICE, "")
                || active("vsock-bridge-ipv6@", ".socket")
                || active("vsock-bridge-any", ".socket")
                || active("vsock-bridge@", ".service"),
            sshd,
            systemd: true,
        }
    }
}

/// Returns whether systemd has booted this machine.
pub(crate) fn has_systemd() -> bool {
    libsystemd::daemon::booted()
}

/// Asks systemd for all our loaded units.
pub(crate) fn gather(manager: Manager) -> Result<Vec<Unit>, Unasked> {
    let mut units = show(manager, &[&PATTERNS[..], &[SSHD_INSTANCE]].concat())?;
    let ports: Vec<(String, PathBuf)> = units.iter().filter_map(port_of_commands).collect();
    if !ports.is_empty() {
        let names: Vec<&str> = ports.iter().map(|(name, _)| &**name).collect();
        let mut services = show(manager, &names)?;
        for service in &mut services {
            let own = ports.iter().find(|(name, _)| *name == service.id);
            let own = own.map(|(_, file)| file.clone());
            // The program reads them itself.
            let files = [config_file::PATH.into()].into_iter().chain(own);
            service.environment_files.extend(files);
        }
        units.extend(services);
    }
    Ok(units)
}

/// Returns what stands for the services of a socket of vsock-exec@, each of which serves one connection and has another
/// name, and the file that they read.
fn port_of_commands(socket: &Unit) -> Option<(String, PathBuf)> {
    let name = socket.id.strip_suffix(".socket")?;
    let instance = name.strip_prefix(command::UNIT)?;
    let mut addresses = socket.listen.iter().filter_map(|text| text.parse().ok());
    let port = addresses.find_map(|address: Endpoint| address.named_port());
    let port = port.or_else(|| instance.parse().ok())?;
    Some((format!("{name}.service"), command::file(port)))
}

/// Asks systemd for a service and the socket of its name, which it loads for that; what does not exist is `not-found`.
pub(crate) fn with_socket(manager: Manager, name: &str) -> Result<[Option<Unit>; 2], Unasked> {
    let ids = ["service", "socket"].map(|kind| format!("{name}.{kind}"));
    let mut units = show(manager, &[&ids[0], &ids[1]])?;
    // One that has another name besides is told by that, but its kind stays.
    Ok(["service", "socket"].map(|kind| {
        let place = units.iter().position(|unit| unit.is("", kind));
        place.map(|place| units.remove(place))
    }))
}

/// Asks systemd for units by name or pattern.
pub(super) fn show(manager: Manager, units: &[&str]) -> Result<Vec<Unit>, Unasked> {
    if !has_systemd() {
        return Err(Unasked::NoSystemd);
    }
    let whose: &[&str] = match manager {
        Manager::System => &[],
        Manager::User => &["--user"],
    };
    let question = [
        "show",
        "--all",
        "--no-pager",
        "--property",
        PROPERTIES,
        "--",
    ];
    let deadline = Moment::now() + ANSWER_TIME;
    let said = match tool::ask(TOOL, &[whose, &question, units].concat(), deadline) {
        Ok(Some(said)) => said,
        Ok(None) => return Err(Unasked::Failed(format!("{TOOL} is not there"))),
        Err(problem) => return Err(Unasked::Failed(problem)),
    };
    // Each unit that is asked for by name has an answer, even one that does not exist.
    match said.answer.trim().is_empty() {
        true => Err(Unasked::Failed(format!(
            "{TOOL} failed: {}",
            said.complaint.trim()
        ))),
        false => Ok(parse(&said.answer)),
    }
}

/// Reads blocks of `NAME=VALUE` with an empty line between them.
pub(super) fn parse(text: &str) -> Vec<Unit> {
    let mut units: Vec<Unit> = text.split("\n\n").map(unit).collect();
    units.retain(|unit| !unit.id.is_empty());
    units.sort_by(|a, b| a.id.cmp(&b.id));
    // The one instance is named and may match a pattern as well.
    units.dedup_by(|a, b| a.id == b.id);
    units
}

fn unit(block: &str) -> Unit {
    let mut unit = Unit::default();
    for (name, value) in block.lines().filter_map(|line| line.split_once('=')) {
        let text = value.to_owned();
        // `ADDRESS (Stream)`, `PATH (ignore_errors=yes)`
        let first = || {
            value
                .rsplit_once(" (")
                .map_or(value, |(first, _)| first)
                .to_owned()
        };
        match name {
            "Id" => unit.id = text,
            "LoadState" => unit.load = text,
            "ActiveState" => unit.active = text,
            "SubState" => unit.sub = text,
            "Result" => unit.result = text,
            "UnitFileState" => unit.file_state = text,
            "NRestarts" => unit.restarts = value.parse().unwrap_or(0),
            "ExecStart" => unit.command = text,
            "StatusText" => unit.status = text,
            "RuntimeDirectory" => unit.runtime_directory = text,
            "User" => unit.identity.user = text,
            "Group" => unit.identity.group = text,
            "SupplementaryGroups" => unit.identity.groups = text,
            "PrivateUsers" => unit.has_private_users = value == "yes",
            "Environment" => unit.environment = words(value),
            "Listen" => unit.listen.push(first()),
            "FragmentPath" | "DropInPaths" => {
                unit.files
                    .extend(words(value).into_iter().map(PathBuf::from));
            }
            "EnvironmentFiles" => unit.environment_files.push(first().into()),
            other => unit.sandbox.set(other, value),
        }
    }
    unit
}

/// Splits words that are quoted where they contain special characters.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => is_quoted = !is_quoted,
            '\\' => word.extend(characters.next()),
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Use {
        /// No unit is in use.
        pub(crate) const NOTHING: Use = Use {
            vsock: false,
            to_host: false,
            generated: false,
            prefix: false,
            ipv6: false,
            route: false,
            sshd: false,
            systemd: true,
        };
    }

    /// A unit that is up.
    pub(crate) fn active(id: &str) -> Unit {
        let is_socket = id.ends_with(".socket");
        Unit {
            id: id.to_owned(),
            load: "loaded".into(),
            active: "active".into(),
            sub: if is_socket { "listening" } else { "running" }.into(),
            result: "success".into(),
            file_state: if is_socket { "enabled" } else { "static" }.into(),
            ..Unit::default()
        }
    }

    /// A unit that is not.
    pub(crate) fn inactive(id: &str) -> Unit {
        Unit {
            active: "inactive".into(),
            sub: "dead".into(),
            ..active(id)
        }
    }

    #[test]
    fn blocks_of_systemctl_show_are_read() {
        let text = "Result=success\nNRestarts=2\nExecStart={ path=/x ; argv[]=/x }\n\
            Environment=\"VSOCK_BRIDGE_TO=[::1]:446\" VSOCK_BRIDGE_EXIT_IDLE_TIME=10min\n\
            EnvironmentFiles=/etc/a.conf (ignore_errors=yes)\nEnvironmentFiles=/etc/b.conf (ignore_errors=no)\n\
            RuntimeDirectory=\nId=vsock-bridge@446.service\nLoadState=loaded\nActiveState=activating\n\
            SubState=start\nUnitFileState=static\n\n\
            Listen=[fd00::2]:445 (Stream)\nId=vsock-bridge-ipv6@445.socket\nLoadState=loaded\n\
            ActiveState=active\nSubState=listening\nUnitFileState=enabled\n";
        let units = parse(text);
        let [socket, service] = &units[..] else {
            panic!("{units:#?}")
        };
        assert_eq!(socket.listen, ["[fd00::2]:445"]);
        assert_eq!(
            service.environment,
            [
                "VSOCK_BRIDGE_TO=[::1]:446",
                "VSOCK_BRIDGE_EXIT_IDLE_TIME=10min"
            ]
        );
        assert_eq!(
            service.environment_files,
            [PathBuf::from("/etc/a.conf"), "/etc/b.conf".into()]
        );
        assert_eq!(service.restarts, 2);
    }

    #[test]
    fn the_socket_of_a_command_tells_which_file_is_read() {
        let socket = |id: &str, listen: &str| {
            let found = port_of_commands(&Unit {
                listen: vec![listen.to_owned()],
                ..active(id)
            });
            found.map(|(name, file)| format!("{name} {}", file.display()))
        };
        let of = |id: &str, port: &str| {
            Some(format!(
                "{id}.service /etc/vsock-bridge/vsock-exec@{port}.conf"
            ))
        };
        for (id, listen, expected) in [
            ("vsock-exec@22", "vsock::22", of("vsock-exec@22", "22")),
            ("vsock-exec@a", "/run/vm_23", of("vsock-exec@a", "23")),
            ("vsock-exec@24", "/run/x", of("vsock-exec@24", "24")),
            ("vsock-exec@a", "/run/x", None),
            ("vsock-bridge@22", "vsock::22", None),
        ] {
            assert_eq!(socket(&format!("{id}.socket"), listen), expected, "{id}");
        }
    }

    #[test]
    fn quoted_words_are_split_and_unquoted() {
        assert_eq!(
            words(r#"A=1 "B=x y" "C=\"q\"""#),
            ["A=1", "B=x y", "C=\"q\""]
        );
        assert_eq!(words(""), [""; 0]);
    }

    #[test]
    fn the_units_in_use_tell_what_is_needed() {
        let ipv6 = Use::of(&[active("vsock-bridge-ipv6@445.socket")]);
        assert!(ipv6.vsock && ipv6.generated && ipv6.prefix && ipv6.route);
        let waiting = Use::of(&[active("vsock-bridge@445.socket")]);
        assert!(waiting.vsock && waiting.prefix && !waiting.route && !waiting.generated);
        let serving = Use::of(&[active("vsock-bridge@445.service")]);
        assert!(serving.route);
        let sshd = Use::of(&[active("sshd-vsock.socket")]);
        assert!(sshd.sshd && sshd.vsock && !sshd.prefix);
    }
}
