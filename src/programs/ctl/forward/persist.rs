//! Has systemd forward, at every boot: looks at the units, writes the files and starts the socket, or takes them away again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::unistd::{User, geteuid};

use super::plan::{self, Forwarded, MARK, Place, Wish, Written};
use crate::endpoint::{Endpoint, UnixName};
use crate::error::{Error, Result};
use crate::listen;
use crate::programs::ctl::check::rights::{self, Access};
use crate::programs::ctl::check::units::{self, Manager, Unit};
use crate::programs::ctl::text_file;

/// The first line of a script.
const ENDS_AT_ERRORS: &str = "set -e\n";

/// Forwards from now on, also after a boot; or returns a script that does so.
///
/// Errors: what is there already, not from here or for other addresses; a port that is taken, or not for this user; a target
/// that nobody but root may write to; systemd that refuses. Then all is as it was before.
pub(super) fn add(manager: Manager, wish: &Wish<'_>, is_dry: bool) -> Result<String> {
    let unit = plan::unit(manager, wish.listen)?;
    expect_rights(manager, "--persistent", is_dry)?;
    expect_lines(wish)?;
    let (place, service) = place(manager, &unit)?;
    let files = plan::files(&place, &unit, wish, &needs(&place, &service, wish.target)?);
    for path in plan::places(&place, &unit) {
        if is_there(&path)? == Some(false) {
            let path = path.display();
            return Err(Error::Usage(format!(
                "{path} is there already, and not by `vsockctl forward`: change it by hand, or remove it"
            )));
        }
    }
    match forwarded(&place, &unit)? {
        // Two addresses of one name, such as a vsock and a TCP port of a user.
        Some(other) if !other.is_from(wish.listen) => {
            return Err(Error::Usage(other.explain(&place)));
        }
        Some(_) => {}
        None => {
            expect_unused(&place, &unit)?;
            expect_free(manager, wish.listen)?;
        }
    }
    let commands = [
        vec!["daemon-reload".to_owned()],
        vec!["enable".to_owned(), format!("{unit}.socket")],
        // What runs has other settings.
        vec!["stop".to_owned(), format!("{unit}.service")],
        vec!["restart".to_owned(), format!("{unit}.socket")],
    ];
    if is_dry {
        let is_wanted = |path: &PathBuf| files.iter().any(|(wanted, _)| wanted == path);
        let mut former = ours(&place, &unit)?;
        former.retain(|path| !is_wanted(path));
        let (removed, added) = (removal(&former), script(&place, &files, &commands));
        return Ok(format!("{ENDS_AT_ERRORS}{removed}{added}"));
    }
    let before = written(&place, &unit)?;
    let apply = |files| write(&place, &unit, files).and_then(|()| run_all(&place, &commands));
    if let Err(error) = apply(&files) {
        let taken_back = match before.is_empty() {
            true => take_away(&place, &unit),
            false => apply(&before),
        };
        if let Err(problem) = taken_back {
            log::warn!("{unit} is left half done: {}", problem.report());
        }
        return Err(error);
    }
    let option = place.option();
    log::info!("{unit}.socket forwards; `vsockctl list {option}{unit}` shows its connections");
    Ok(String::new())
}

/// Forwards no more; or returns a script that does so.
///
/// Errors: one that was not added here.
pub(super) fn remove(manager: Manager, listen: &[Endpoint], is_dry: bool) -> Result<String> {
    let unit = plan::unit(manager, listen)?;
    expect_rights(manager, "--remove", is_dry)?;
    let place = match manager {
        Manager::System => Place::of_machine(),
        Manager::User => place(manager, &unit)?.0,
    };
    let ours = ours(&place, &unit)?;
    let forwarded = forwarded(&place, &unit)?;
    let is_from_there = |found: &Forwarded| found.is_from(listen);
    if !forwarded.as_ref().is_some_and(is_from_there) {
        let first = listen.first().map(Endpoint::to_string);
        let other = forwarded.map(|other| format!("; {}", other.explain(&place)));
        return Err(Error::Usage(format!(
            "nothing from {} is forwarded by `vsockctl forward {}--persistent`{}",
            first.unwrap_or_default(),
            place.option(),
            other.unwrap_or_default()
        )));
    }
    let before = [
        vec![
            "disable".to_owned(),
            "--now".to_owned(),
            format!("{unit}.socket"),
        ],
        vec!["stop".to_owned(), format!("{unit}.service")],
    ];
    let after = [vec!["daemon-reload".to_owned()]];
    if is_dry {
        let removed = removal(&ours);
        let (before, after) = (script(&place, &[], &before), script(&place, &[], &after));
        return Ok(format!("{ENDS_AT_ERRORS}{before}{removed}{after}"));
    }
    run_all(&place, &before)?;
    remove_files(&place, &unit)?;
    run_all(&place, &after)?;
    Ok(String::new())
}

/// Writes the files, and no others of that bridge.
fn write(place: &Place, unit: &str, files: &[Written]) -> Result<()> {
    remove_files(place, unit)?;
    for (path, text) in files {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        text_file::put(path, &[], text.as_bytes())?;
    }
    Ok(())
}

/// Returns the files from here as they are.
fn written(place: &Place, unit: &str) -> Result<Vec<Written>> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        Ok((path, text))
    };
    ours(place, unit)?.into_iter().map(read).collect()
}

/// Takes away what has been done of a bridge that cannot be started.
fn take_away(place: &Place, unit: &str) -> Result<()> {
    let words = |verb: &[&str]| {
        let socket = format!("{unit}.socket");
        let verb = verb.iter().map(|&word| word.to_owned());
        verb.chain([socket]).collect::<Vec<_>>()
    };
    let disabled = run_all(place, &[words(&["disable", "--now"])]);
    remove_files(place, unit)?;
    let reloaded = run_all(place, &[vec!["daemon-reload".to_owned()]]);
    // It is none that failed any more, if it was one.
    let _ = run_all(place, &[words(&["reset-failed"])]);
    disabled.and(reloaded)
}

/// Errors: a port that another program has, or that is not for whose systemd it is.
fn expect_free(manager: Manager, listen: &[Endpoint]) -> Result<()> {
    let is_root = geteuid().is_root();
    listen.iter().try_for_each(|address| {
        match listen::expect_free(address) {
            // The script is for root.
            Err(Error::Listen {
                source: Errno::EACCES,
                ..
            }) if manager == Manager::System && !is_root => Ok(()),
            free => free,
        }
    })
}

/// Errors: what cannot stand in a line of a unit, and an owner of what has none.
fn expect_lines(wish: &Wish<'_>) -> Result<()> {
    let target = wish.target.to_string();
    if target.contains(char::is_control) {
        let problem =
            format!("{target:?} has letters that no file of settings takes: give it another name");
        return Err(Error::Usage(problem));
    }
    let Some(owner) = wish.owner else {
        return Ok(());
    };
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if owner.is_empty() || !owner.chars().all(is_name) {
        return Err(Error::Usage(format!(
            "--owner {owner:?} is no name of a user"
        )));
    }
    if !matches!(wish.listen.first(), Some(Endpoint::Unix(_))) {
        return Err(Error::Usage(
            "--owner is for a unix socket: every user of this machine may connect to a port"
                .to_owned(),
        ));
    }
    match User::from_name(owner) {
        Ok(None) => Err(Error::Usage(format!(
            "--owner {owner}: this machine has no user of that name"
        ))),
        // What cannot be looked up systemd may know.
        _ => Ok(()),
    }
}

/// Errors: another user than root, for what is the machine's.
fn expect_rights(manager: Manager, option: &str, is_dry: bool) -> Result<()> {
    match is_dry || manager == Manager::User || geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "`{option}` changes units of this machine: run it as root, or for your own with `--user`"
        ))),
    }
}

/// Asks systemd what the service is without anything from here, what another instance would be, and so where its files are.
fn place(manager: Manager, unit: &str) -> Result<(Place, Unit)> {
    let service = service(manager, unit)?;
    if manager == Manager::System {
        return Ok((Place::of_machine(), service));
    }
    // ~/.config, as the user's systemd has it.
    let files = service.environment_files.iter();
    let settings = files.filter_map(|path| path.parent()).next();
    let both = settings.and_then(|settings| Some((settings, settings.parent()?)));
    let (settings, configuration) = both.ok_or_else(|| {
        Error::Usage(format!(
            "{} reads no files below ~/.config: `systemctl --user revert` it",
            service.id
        ))
    })?;
    let place = Place {
        manager,
        settings: settings.to_owned(),
        units: configuration.join("systemd/user"),
    };
    Ok((place, service))
}

fn service(manager: Manager, unit: &str) -> Result<Unit> {
    let template = unit.split_once('@').map_or(unit, |(template, _)| template);
    let name = format!("{template}@vsockctl-forward");
    let [asked, _] = units::with_socket(manager, &name).map_err(|problem| {
        Error::Usage(format!(
            "`--persistent` is for systemd, and {problem}; without it, start vsock-bridge --listen by your own init"
        ))
    })?;
    let is_loaded = |service: &Unit| service.load == "loaded";
    asked.filter(is_loaded).ok_or_else(|| {
        Error::Usage(format!(
            "systemd has no {name}.service; are the units of vsock-bridge installed?"
        ))
    })
}

/// Returns the lines that the service needs for its target.
fn needs(place: &Place, service: &Unit, target: &Endpoint) -> Result<Vec<String>> {
    let mut lines = plan::opened(service.sandbox.lacks(target), target);
    if place.manager == Manager::User {
        // It reaches what the user does.
        return Ok(lines);
    }
    let socket = match target {
        Endpoint::Unix(UnixName::Path(path))
        | Endpoint::Mux {
            path: UnixName::Path(path),
            ..
        } => path,
        _ => return Ok(lines),
    };
    if !geteuid().is_root() {
        log::warn!("only root can look who may write to {}", socket.display());
        return Ok(lines);
    }
    match rights::access(&service.identity, socket) {
        None => {}
        Some(Access::Groups(groups)) => {
            lines.push(format!("SupplementaryGroups={}", groups.join(" ")))
        }
        Some(Access::Owner(owner)) => lines.push(format!("User={owner}")),
        Some(Access::Nobody(obstacle)) => {
            return Err(Error::Usage(format!(
                "no user but root may {obstacle}: give it to a group, as a server's SocketGroup= and SocketMode=0660 do"
            )));
        }
    }
    Ok(lines)
}

/// Returns whether a file is there, and is from here.
fn is_there(path: &Path) -> Result<Option<bool>> {
    let text = text_file::read(path).map_err(Error::file("read", path))?;
    let is_ours = text.starts_with(MARK.as_bytes());
    Ok((is_ours || path.symlink_metadata().is_ok()).then_some(is_ours))
}

fn ours(place: &Place, unit: &str) -> Result<Vec<PathBuf>> {
    let mut ours = Vec::new();
    for path in plan::places(place, unit) {
        if is_there(&path)? == Some(true) {
            ours.push(path);
        }
    }
    Ok(ours)
}

/// Returns what the files from here have forwarded; none without any.
fn forwarded(place: &Place, unit: &str) -> Result<Option<Forwarded>> {
    if ours(place, unit)?.is_empty() {
        return Ok(None);
    }
    let text = |path: &PathBuf| {
        let bytes = text_file::read(path).map_err(Error::file("read", path))?;
        Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let [settings, socket, _] = plan::places(place, unit);
    Ok(Some(Forwarded::read(
        unit,
        &text(&settings)?,
        &text(&socket)?,
    )))
}

/// Errors: a bridge of that name that somebody else has started or enabled, which would have another target from now on.
fn expect_unused(place: &Place, unit: &str) -> Result<()> {
    let asked = units::with_socket(place.manager, unit);
    let [_, socket] = asked.map_err(|problem| Error::Usage(problem.to_string()))?;
    let is_used = |socket: &Unit| socket.is_enabled() || socket.is_active();
    let Some(socket) = socket.filter(is_used) else {
        return Ok(());
    };
    Err(Error::Usage(format!(
        "{unit}.socket is in use for {}, and not by `vsockctl forward`: `{} disable --now {unit}.socket` ends that",
        socket.listen.join(" and "),
        place.systemctl().join(" ")
    )))
}

fn remove_files(place: &Place, unit: &str) -> Result<()> {
    for path in ours(place, unit)? {
        fs::remove_file(&path).map_err(Error::file("remove", &path))?;
    }
    for path in plan::places(place, unit) {
        if let Some(folder) = own_folder(&path) {
            // Another drop-in keeps it.
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(())
}

/// Returns the folder of a drop-in, which goes with the last one.
fn own_folder(path: &Path) -> Option<&Path> {
    let is_of_drop_ins = |folder: &&Path| folder.extension().is_some_and(|end| end == "d");
    path.parent().filter(is_of_drop_ins)
}

fn run_all(place: &Place, commands: &[Vec<String>]) -> Result<()> {
    let systemctl = place.systemctl();
    commands.iter().try_for_each(|arguments| {
        let output = Command::new(systemctl[0])
            .args(&systemctl[1..])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(Error::file("run", Path::new("systemctl")))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::Systemctl {
                arguments: arguments.join(" "),
                said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            }),
        }
    })
}

/// Returns the lines of a script that remove files, and their folders where nothing else is in them.
fn removal(files: &[PathBuf]) -> String {
    let removed = files
        .iter()
        .map(|path| format!("rm '{}'\n", path.display()));
    let emptied = files.iter().filter_map(|path| own_folder(path));
    let emptied = emptied.map(|folder| {
        let folder = folder.display();
        format!("rmdir --ignore-fail-on-non-empty '{folder}'\n")
    });
    removed.chain(emptied).collect()
}

/// Returns what does the same in a shell.
fn script(place: &Place, files: &[Written], commands: &[Vec<String>]) -> String {
    let systemctl = place.systemctl().join(" ");
    let write = |(path, text): &Written| {
        format!(
            "install -D -m 644 /dev/stdin '{}' <<'END'\n{text}END\n",
            path.display()
        )
    };
    let run = |arguments: &Vec<String>| format!("{systemctl} {}\n", arguments.join(" "));
    files
        .iter()
        .map(write)
        .chain(commands.iter().map(run))
        .collect()
}
