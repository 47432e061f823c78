//! What is written so that systemd forwards: an instance of a shipped bridge, its settings, and what its units need besides.
//! Pure: the caller knows the sandbox and the rights.

use std::path::{Path, PathBuf};

use crate::config_file;
use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::programs::bridge::variables::FOLDER;
use crate::programs::ctl::check::units::Manager;
use crate::unix_path::{HOMES, is_below};

/// The first line of each file, by which it is known again.
pub(super) const MARK: &str = "# By vsockctl forward, which also removes it.";
/// Comes after the drop-ins of the generator, which name addresses as well.
const DROP_IN: &str = "70-forward.conf";

/// What is to be forwarded.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    /// Where it listens.
    pub(super) listen: &'a [Endpoint],
    /// Where connections go.
    pub(super) target: &'a Endpoint,
    /// The machines that may connect over vsock.
    pub(super) allowed: &'a str,
    /// Whose the socket is that it listens on, if it is a file.
    pub(super) owner: Option<&'a str>,
}

/// Whose units forward, and where their files are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The service manager.
    pub(super) manager: Manager,
    /// Of the settings.
    pub(super) settings: PathBuf,
    /// Of the drop-ins.
    pub(super) units: PathBuf,
}

impl Place {
    /// That of the machine.
    pub(super) fn of_machine() -> Place {
        Place {
            manager: Manager::System,
            settings: FOLDER.into(),
            units: "/etc/systemd/system".into(),
        }
    }

    /// Returns the beginning of each command.
    pub(super) fn systemctl(&self) -> &'static [&'static str] {
        match self.manager {
            Manager::System => &["systemctl"],
            Manager::User => &["systemctl", "--user"],
        }
    }

    /// Returns the words for it on a command line of `vsockctl forward`.
    pub(super) fn option(&self) -> &'static str {
        match self.manager {
            Manager::System => "",
            Manager::User => "--user ",
        }
    }
}

/// A file with its text.
pub(super) type Written = (PathBuf, String);

/// Returns the name of the bridge that listens there, without suffix.
///
/// Errors: an address that no unit can be named by.
pub(super) fn unit(manager: Manager, listen: &[Endpoint]) -> Result<String> {
    match listen.first() {
        Some(Endpoint::Vsock(addr)) => Ok(format!("vsock-bridge@{}", addr.port)),
        // Users have no other template for ports.
        Some(Endpoint::Tcp(addr)) if manager == Manager::User => {
            Ok(format!("vsock-bridge@{}", addr.port()))
        }
        Some(Endpoint::Tcp(addr)) => Ok(format!("vsock-bridge-ipv6@{}", addr.port())),
        Some(Endpoint::Unix(UnixName::Path(path))) => Ok(format!(
            "vsock-bridge-mux@{}",
            plain(&path.to_string_lossy())
        )),
        _ => Err(Error::Usage(
            "`--persistent` listens on a vsock port, a TCP port or the path of a unix socket"
                .to_owned(),
        )),
    }
}

/// Names a path without an escape of systemd's, such as `\x2d`: 257 was seen to start no bridge of such a name ("Failed to
/// deserialize").
fn plain(path: &str) -> String {
    let letter = |letter: char| match letter {
        '/' => "-".to_owned(),
        '-' => "__".to_owned(),
        '.' | '_' => letter.to_string(),
        _ if letter.is_ascii_alphanumeric() => letter.to_string(),
        _ => "_".to_owned(),
    };
    path.trim_matches('/').chars().map(letter).collect()
}

/// Returns the files that a bridge of that name may have from here.
pub(super) fn places(place: &Place, unit: &str) -> [PathBuf; 3] {
    let drop_in = |suffix: &str| place.units.join(format!("{unit}.{suffix}.d/{DROP_IN}"));
    let settings = place.settings.join(format!("{unit}.conf"));
    [settings, drop_in("socket"), drop_in("service")]
}

/// Returns the files with their texts. `needs`: lines for the service, which open its sandbox.
pub(super) fn files(place: &Place, unit: &str, wish: &Wish<'_>, needs: &[String]) -> Vec<Written> {
    let [settings, socket, service] = places(place, unit);
    let mut files = vec![(settings, settings_of(wish))];
    files.extend(socket_of(wish).map(|text| (socket, text)));
    if !needs.is_empty() {
        files.push((
            service,
            format!("{MARK}\n[Service]\n{}\n", needs.join("\n")),
        ));
    }
    files
}

/// What is forwarded already by files from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forwarded {
    /// The bridge, without suffix.
    unit: String,
    /// Where it listens.
    listen: Vec<String>,
    /// Where connections go; empty where somebody has taken that out.
    target: String,
}

impl Forwarded {
    /// Reads it off the files: the settings, and the drop-in of the socket if there is one.
    pub(super) fn read(unit: &str, settings: &str, socket: &str) -> Forwarded {
        let addresses = socket
            .lines()
            .filter_map(|line| line.strip_prefix("ListenStream="));
        let mut listen: Vec<String> = addresses.map(|text| text.replace("%%", "%")).collect();
        listen.retain(|text| !text.is_empty());
        if listen.is_empty() {
            // What the unit has by itself.
            let port = unit.split_once('@').map_or("", |(_, port)| port);
            listen.push(format!("vsock::{port}"));
        }
        let (settings, _) = config_file::parse(settings);
        let target = config_file::last(settings, "VSOCK_BRIDGE_TO");
        Forwarded {
            unit: unit.to_owned(),
            listen,
            target: target.map_or_else(String::new, |setting| setting.value),
        }
    }

    /// Returns whether it listens there, and nowhere else.
    pub(super) fn is_from(&self, listen: &[Endpoint]) -> bool {
        let asked: Vec<String> = listen.iter().map(Endpoint::to_string).collect();
        self.listen == asked
    }

    /// Says what is forwarded, and how that is ended.
    pub(super) fn explain(&self, place: &Place) -> String {
        let (unit, option) = (&self.unit, place.option());
        let target = match &*self.target {
            "" => String::new(),
            target => format!(" to {target}"),
        };
        let address = match &self.listen[..] {
            // As a port alone is written.
            [first, second] if second.starts_with("127.0.0.1:") => first.rsplit(':').next(),
            all => all.first().map(String::as_str),
        };
        let address = in_shell(address.unwrap_or_default());
        format!(
            "{unit}.socket forwards {}{target}: `vsockctl forward {option}--remove {address}` ends that",
            self.listen.join(" and ")
        )
    }
}

/// Quotes what a shell would change.
fn in_shell(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._:-".contains(letter);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn settings_of(wish: &Wish<'_>) -> String {
    // As systemd reads it (systemd.exec(5), EnvironmentFile=).
    let target = wish.target.to_string();
    let target = target.replace('\\', "\\\\").replace('"', "\\\"");
    let mut text = format!("{MARK}\nVSOCK_BRIDGE_TO=\"{target}\"\n");
    if matches!(wish.listen.first(), Some(Endpoint::Vsock(_))) {
        text += &format!("VSOCK_BRIDGE_ALLOW_CID={}\n", wish.allowed);
    }
    text
}

/// A vsock port of any CID is what the unit has by itself.
fn socket_of(wish: &Wish<'_>) -> Option<String> {
    let first = wish.listen.first()?;
    if matches!(first, Endpoint::Vsock(addr) if addr.cid.is_none()) {
        return None;
    }
    let mut lines = vec!["ListenStream=".to_owned()];
    let listened = wish.listen.iter().map(Endpoint::to_string);
    lines.extend(listened.map(|address| format!("ListenStream={}", of_unit(&address))));
    if let Endpoint::Unix(_) = first {
        lines.push("SocketMode=0600".to_owned());
        lines.extend(wish.owner.map(|owner| format!("SocketUser={owner}")));
    }
    // Who comes from outside does not come by lo.
    if matches!(first, Endpoint::Tcp(addr) if !addr.ip().is_loopback()) {
        lines.push("BindToDevice=".to_owned());
    }
    let description = of_unit(&format!("Forward {first} to {}", wish.target));
    let lines = lines.join("\n");
    Some(format!(
        "{MARK}\n[Unit]\nDescription={description}\n\n[Socket]\n{lines}\n"
    ))
}

/// Writes a text so that it stands for itself in a unit (systemd.unit(5), SPECIFIERS).
fn of_unit(text: &str) -> String {
    text.replace('%', "%%")
}

/// Returns the lines that open a sandbox as far as a target needs, and no further. `lacks`: what it needs in the words of
/// `vsockctl check`.
pub(super) fn opened(lacks: Vec<String>, target: &Endpoint) -> Vec<String> {
    let folder = match target {
        Endpoint::Unix(UnixName::Path(path))
        | Endpoint::Mux {
            path: UnixName::Path(path),
            ..
        } => path.parent(),
        _ => None,
    };
    let open = |line: String| match (&*line, folder) {
        // The folder alone, and not all of what everybody has there.
        ("ProtectHome=no", Some(folder)) if is_one(folder) => vec![
            "ProtectHome=tmpfs".to_owned(),
            format!("BindReadOnlyPaths=-{}", of_unit(&quoted(folder))),
        ],
        _ => vec![line],
    };
    lacks.into_iter().flat_map(open).collect()
}

/// Returns whether a folder is below the homes, and none of these itself.
fn is_one(folder: &Path) -> bool {
    is_below(folder, &HOMES) && !HOMES.iter().any(|home| folder == Path::new(home))
}

/// A colon would end the path, a space the list, and a quote would begin a word.
fn quoted(folder: &Path) -> String {
    let text = folder.to_string_lossy();
    text.replace('\\', "\\\\")
        .replace(':', "\\:")
        .replace(' ', "\\x20")
        .replace('"', "\\x22")
        .replace('\'', "\\x27")
}

#[cfg(test)]
mod tests {
    use super::super::places::Listen;
    use super::*;

    fn texts(listen: &str, target: &str, allowed: &str, needs: &[&str]) -> Vec<(String, String)> {
        let Listen(listen) = listen.parse().unwrap();
        let wish = Wish {
            listen: &listen,
            target: &target.parse().unwrap(),
            allowed,
            owner: Some("me"),
        };
        let needs: Vec<String> = needs.iter().map(|&line| line.to_owned()).collect();
        let unit = unit(Manager::System, &listen).unwrap();
        let files = files(&Place::of_machine(), &unit, &wish, &needs);
        let text = |(path, text): Written| {
            let text = text.strip_prefix(&format!("{MARK}\n")).unwrap().to_owned();
            (path.display().to_string(), text)
        };
        files.into_iter().map(text).collect()
    }

    fn file(path: &str, text: &str) -> (String, String) {
        (path.to_owned(), text.to_owned())
    }

    #[test]
    fn a_vsock_port_needs_settings_alone_and_what_opens_the_sandbox() {
        let found = texts(
            "vsock::7000",
            "/run/app.sock",
            "3",
            &["SupplementaryGroups=app"],
        );
        let settings = "VSOCK_BRIDGE_TO=\"/run/app.sock\"\nVSOCK_BRIDGE_ALLOW_CID=3\n";
        let folder = "/etc/systemd/system/vsock-bridge@7000";
        assert_eq!(
            found,
            [
                file("/etc/vsock-bridge/vsock-bridge@7000.conf", settings),
                file(
                    &format!("{folder}.service.d/70-forward.conf"),
                    "[Service]\nSupplementaryGroups=app\n"
                ),
            ]
        );
    }

    #[test]
    fn a_path_or_a_tcp_port_is_an_address_of_the_socket() {
        let name = "vsock-bridge-mux@run-a__b.sock";
        assert_eq!(
            texts("/run/a-b.sock", "vsock:2:7000", "any", &[]),
            [
                file(
                    &format!("/etc/vsock-bridge/{name}.conf"),
                    "VSOCK_BRIDGE_TO=\"vsock:2:7000\"\n"
                ),
                file(
                    &format!("/etc/systemd/system/{name}.socket.d/70-forward.conf"),
                    "[Unit]\nDescription=Forward /run/a-b.sock to vsock:2:7000\n\n[Socket]\nListenStream=\n\
                     ListenStream=/run/a-b.sock\nSocketMode=0600\nSocketUser=me\n"
                ),
            ]
        );
        let port = &texts("8080", "vsock:2:80", "any", &[])[1].1;
        assert!(
            port.ends_with("ListenStream=[::1]:8080\nListenStream=127.0.0.1:8080\n"),
            "{port}"
        );
        let open = &texts("[::]:8080", "vsock:2:80", "any", &[])[1].1;
        assert!(
            open.ends_with("ListenStream=[::]:8080\nBindToDevice=\n"),
            "{open}"
        );
        let own = &texts("vsock:3:80", "[::1]:80", "any", &[])[1].1;
        assert!(
            own.ends_with("ListenStream=\nListenStream=vsock:3:80\n"),
            "{own}"
        );
        let Listen(name) = "@name".parse().unwrap();
        assert!(unit(Manager::System, &name).is_err());
    }

    /// Each form is read as it was written.
    #[test]
    fn what_is_forwarded_is_known_again_and_how_it_ends() {
        for (listen, command) in [
            ("vsock::7000", "--remove vsock::7000"),
            ("vsock:3:7000", "--remove vsock:3:7000"),
            ("7000", "--remove 7000"),
            ("[::1]:7000", "--remove '[::1]:7000'"),
            ("/run/a%b'.sock", r"--remove '/run/a%b'\''.sock'"),
        ] {
            let files = texts(listen, "vsock:3:80", "any", &[]);
            let socket = files.iter().find(|(path, _)| path.contains(".socket.d/"));
            let socket = socket.map_or("", |(_, text)| text);
            let unit = "vsock-bridge@7000";
            let found = Forwarded::read(unit, &files[0].1, socket);
            let Listen(asked) = listen.parse().unwrap();
            assert!(found.is_from(&asked), "{found:?}");
            for other in ["vsock::7000", "[::1]:7000", "7000", "/run/a_b"] {
                let Listen(other) = other.parse().unwrap();
                assert_eq!(found.is_from(&other), other == asked, "{found:?}");
            }
            let line = found.explain(&Place::of_machine());
            let end = format!(" to vsock:3:80: `vsockctl forward {command}` ends that");
            assert!(line.ends_with(&end), "{line}");
        }
    }

    #[test]
    fn a_target_is_read_as_it_was_meant_whatever_is_in_its_name() {
        let target = r#"/run/a"b\c"#;
        let files = texts("vsock::7000", target, "any", &[]);
        let found = Forwarded::read("vsock-bridge@7000", &files[0].1, "");
        assert_eq!(found.target, target);
    }

    #[test]
    fn a_home_is_opened_by_one_folder() {
        let opened =
            |target: &str| opened(vec!["ProtectHome=no".to_owned()], &target.parse().unwrap());
        assert_eq!(
            opened("/run/user/1000/gnupg/S"),
            [
                "ProtectHome=tmpfs",
                "BindReadOnlyPaths=-/run/user/1000/gnupg"
            ]
        );
        assert_eq!(
            opened("vsock-mux:/home/a b:c/%vm:22")[1],
            r"BindReadOnlyPaths=-/home/a\x20b\:c"
        );
        assert_eq!(
            opened("/home/it's \"a\"/s")[1],
            r"BindReadOnlyPaths=-/home/it\x27s\x20\x22a\x22"
        );
        assert_eq!(opened("/home/x"), ["ProtectHome=no"]);
    }
}
