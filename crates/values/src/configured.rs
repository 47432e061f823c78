//! Where the prefix, the names of machines and the gateway come from: option, file, credential, machine id.
//!
//! Decided in one place that every program shares, so that route, units and source addresses never disagree.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::config_file::{self, Setting};
use crate::endpoint::Endpoint;
use crate::invalid::{Invalid, is_nearly};
use crate::names::{self, GivenNames, Names};
use crate::prefix::{self, Prefix};
use crate::replace::replace;
use crate::unusable::Unusable;
use crate::via::{self, Via};

/// The system credentials with the prefix and the gateway, which a VMM can pass to its guest.
const PREFIX_CREDENTIAL: &str = "vsock-bridge.prefix";
const VIA_CREDENTIAL: &str = "vsock-bridge.via";
/// Where systemd keeps system credentials for root.
pub const SYSTEM_CREDENTIALS: &str = "/run/credentials/@system";
/// Far above any real file; a device or a wrong path must not fill the memory of a generator.
const MAX_BYTES: u64 = 1 << 20;

/// Begins the name of each variable.
const OURS: &str = "VSOCK_BRIDGE_";
/// What is read here, for all programs.
const READ: [&str; 3] = [prefix::VARIABLE, names::VARIABLE, via::VARIABLE];
/// Warnings of this process.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// A file that changes all the time does not fill the memory.
const TOLD_MAX: usize = 100;
/// A file that was not written to for so long is whole, though no newline ends it.
pub const SETTLED: Duration = Duration::from_secs(1);

/// Where a prefix was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The option `--prefix` or the environment.
    Option,
    /// The configuration file.
    File(PathBuf),
    /// The system credential.
    Credential(PathBuf),
    /// The machine id, because nothing was configured.
    MachineId(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Option => write!(f, "given by option or environment"),
            Origin::File(path) => write!(f, "from {}", path.display()),
            Origin::Credential(path) => write!(f, "from the credential {}", path.display()),
            Origin::MachineId(path) => write!(f, "derived from {}", path.display()),
        }
    }
}

/// What is not read from a file here. Each program has its own way: most ask libsystemd, which is too much for a module that
/// every process loads.
#[derive(Clone, Copy, Debug)]
pub struct System {
    /// Returns the folder with the credentials of the service (systemd.exec(5)), if it has one.
    pub credentials: fn() -> Option<PathBuf>,
    /// Hashes a machine id for an application, as sd_id128_get_machine_app_specific(3) does.
    pub app_specific: fn(machine: u128, application: u128) -> Result<u128, String>,
}

/// Finds the prefix of this machine: `given` (option or environment), configuration file, credential, machine id.
///
/// `root` is put before every absolute path; `/` but in tests. Errors name the file and what is wrong in it.
pub fn prefix(
    given: Option<Prefix>,
    root: &Path,
    system: &System,
) -> Result<(Prefix, Origin), Unusable> {
    if let Some(prefix) = given {
        return Ok((prefix, Origin::Option));
    }
    let path = below(root, config_file::PATH);
    if let Some(setting) = config_file::last(settings(&path)?, prefix::VARIABLE) {
        return value(&setting, &path).map(|prefix| (prefix, Origin::File(path)));
    }
    if let Some((setting, path)) = credential(PREFIX_CREDENTIAL, root, (system.credentials)())? {
        return value(&setting, &path).map(|prefix| (prefix, Origin::Credential(path)));
    }
    prefix_of_machine(below(root, "/etc/machine-id"), system)
}

/// Finds the gateway through which this machine reaches others: `given` (option or environment), configuration file,
/// credential; none if it reaches them as they are.
///
/// `root` and errors: as of [`prefix()`].
pub fn via(
    given: Option<Via>,
    root: &Path,
    system: &System,
) -> Result<Option<(Endpoint, Origin)>, Unusable> {
    let path = below(root, config_file::PATH);
    let (via, origin) = if let Some(via) = given {
        (via, Origin::Option)
    } else if let Some(setting) = config_file::last(settings(&path)?, via::VARIABLE) {
        (value(&setting, &path)?, Origin::File(path))
    } else if let Some((setting, path)) = credential(VIA_CREDENTIAL, root, (system.credentials)())?
    {
        (value(&setting, &path)?, Origin::Credential(path))
    } else {
        return Ok(None);
    };
    Ok(match via {
        Via::Nobody => None,
        Via::Gateway(endpoint) => Some((endpoint, origin)),
    })
}

/// Derives the prefix that belongs to a machine id: stable, random-looking, not reversible.
fn prefix_of_machine(path: PathBuf, system: &System) -> Result<(Prefix, Origin), Unusable> {
    let text = fs::read_to_string(&path).map_err(Unusable::file("read", &path))?;
    let text = text.trim_end();
    let fail = |problem: String| Unusable::Line {
        path: path.clone(),
        line: 1,
        problem: format!(
            "{problem}; set {} in {}",
            prefix::VARIABLE,
            config_file::PATH
        ),
    };
    let is_plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let machine = u128::from_str_radix(text, 16).ok().filter(|_| is_plain);
    let invalid = || Invalid::new("machine id", text, "expected 32 hexadecimal digits").to_string();
    let machine = machine.ok_or_else(|| fail(invalid()))?;
    let digest = (system.app_specific)(machine, prefix::APPLICATION).map_err(fail)?;
    let [a, b, c, d, e, ..] = digest.to_be_bytes();
    let prefix = Prefix::from_random([a, b, c, d, e]);
    Ok((prefix, Origin::MachineId(path)))
}

/// Reads a credential from the service's own directory, else from the system's.
fn credential(
    name: &str,
    root: &Path,
    own: Option<PathBuf>,
) -> Result<Option<(Setting, PathBuf)>, Unusable> {
    for directory in own.into_iter().chain([below(root, SYSTEM_CREDENTIALS)]) {
        let path = directory.join(name);
        match read(&path, MAX_BYTES) {
            Ok(None) => {}
            // The units set an empty one for machines that were given none.
            Ok(Some(text)) if text.trim_end().is_empty() => {}
            Ok(Some(text)) => {
                let setting = Setting {
                    line: 1,
                    name: name.to_owned(),
                    value: text.trim_end().to_owned(),
                };
                return Ok(Some((setting, path)));
            }
            // The system's directory is closed to everyone but root; services get theirs by LoadCredential=.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(Unusable::file("read the credential", &path)(error)),
        }
    }
    Ok(None)
}

impl Names {
    /// Reads the names from the configuration file.
    ///
    /// Errors: [`Unusable::Line`] with the line that says nothing valid; those of [`settings`].
    pub fn read() -> Result<Names, Unusable> {
        Names::read_with_line().map(|(names, _)| names)
    }

    /// Reads the names from the configuration file, and returns the line that gives them, from 1; 0 if there is none.
    ///
    /// Errors: those of [`Names::read`].
    pub fn read_with_line() -> Result<(Names, usize), Unusable> {
        let path = Path::new(config_file::PATH);
        match config_file::last(settings(path)?, names::VARIABLE) {
            Some(setting) => value(&setting, path).map(|names| (names, setting.line)),
            None => Ok((Names::default(), 0)),
        }
    }
}

impl GivenNames {
    /// Returns the names.
    ///
    /// Errors: [`Unusable::Names`].
    pub fn names(&self) -> Result<&Names, Unusable> {
        let fail = |problem: &Invalid| Unusable::Names {
            problem: problem.clone(),
        };
        self.parsed().map_err(fail)
    }
}

/// Reads all assignments in order, and warns of lines that are none, and of names that are nearly those which are read here; a
/// file that does not exist has none.
///
/// Errors: those of [`text`].
pub fn settings(path: &Path) -> Result<Vec<Setting>, Unusable> {
    let (settings, problems) = config_file::parse(&text(path)?);
    for (line, problem) in problems {
        warn_once(format!(
            "{}:{line}: {problem}; the line is skipped",
            path.display()
        ));
    }
    for Setting { line, name, .. } in &settings {
        if let Some(meant) = meant(name) {
            let place = path.display();
            warn_once(format!(
                "{place}:{line}: {name} is not a setting of vsock-bridge, did you mean {meant}?"
            ));
        }
    }
    Ok(settings)
}

/// Returns the variable that is meant by a name that is none, of those that are read here.
pub fn meant(name: &str) -> Option<&'static str> {
    let is_it = |known: &&str| {
        let rest = known.strip_prefix(OURS);
        is_nearly(name, known) || rest.is_some_and(|rest| rest.eq_ignore_ascii_case(name))
    };
    let meant = READ.into_iter().find(is_it);
    meant.filter(|_| !READ.contains(&name))
}

/// Warns of what a program may read many times.
fn warn_once(text: String) {
    // A program without a log, such as one with the NSS module, has no part in the lock.
    if !log::log_enabled!(log::Level::Warn) {
        return;
    }
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < TOLD_MAX && told.insert(text.clone()) {
        log::warn!("{text}");
    }
}

/// Reads the text of a file; one that does not exist has none.
///
/// Errors: [`Unusable::File`] when it cannot be read, or is no regular file of at most 1 MiB.
pub fn text(path: &Path) -> Result<String, Unusable> {
    let text = read(path, MAX_BYTES).map_err(Unusable::file("read", path))?;
    Ok(text.unwrap_or_default())
}

/// Sets a variable in the file, in the place of its last assignment or at the end; all other lines stay.
///
/// The file is replaced in one step, so that no reader finds half of it. Errors: [`Unusable::File`].
pub fn set(path: &Path, name: &str, value: &str) -> Result<(), Unusable> {
    let write = || {
        let text = read(path, MAX_BYTES)?.unwrap_or_default();
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        replace(
            path,
            config_file::with_setting(&text, name, value).as_bytes(),
        )
    };
    write().map_err(Unusable::file("write", path))
}

/// Reads a whole file; one that does not exist has no text.
///
/// Never blocks, whatever the path names. Errors: what the kernel said, or that it is no regular file of at most that size.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("not a regular file")),
        Ok(metadata) if metadata.len() > bytes_max => {
            let most = bytes_max >> 10;
            return Err(io::Error::other(format!("larger than {most} KiB")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Returns whether a file that was read before was whole. One from the future is as old as it will ever be.
pub fn is_settled(path: &Path) -> bool {
    let written = fs::metadata(path).and_then(|file| file.modified());
    let age = written.map(|written| SystemTime::now().duration_since(written));
    !matches!(age, Ok(Ok(age)) if age < SETTLED)
}

/// Reads the value of a setting; what is wrong with it is told with its line.
fn value<T: FromStr<Err = Invalid>>(setting: &Setting, path: &Path) -> Result<T, Unusable> {
    setting
        .value
        .parse()
        .map_err(|error: Invalid| Unusable::Line {
            path: path.to_owned(),
            line: setting.line,
            problem: error.to_string(),
        })
}

fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_refused() {
        assert!(settings(Path::new("/")).is_err());
    }

    #[test]
    fn a_slip_in_the_name_of_what_is_read_here_is_known() {
        for (name, known) in [
            ("VSOCK_BRIDGE_NAME", Some("NAMES")),
            ("VSOCK_BRIDGE_NMAES", Some("NAMES")),
            ("vsock_bridge_names", Some("NAMES")),
            ("VSOCKBRIDGE_NAMES", Some("NAMES")),
            ("NAMES", Some("NAMES")),
            ("VSOCK_BRIDGE_PREFX", Some("PREFIX")),
            ("VSOCK_BRIDGE_VAI", Some("VIA")),
            ("VSOCK_BRIDGE_VIA", None),
            ("VSOCK_BRIDGE_NAMES", None),
            ("VSOCK_BRIDGE_ALOW_CID", None),
            ("PATH", None),
        ] {
            let known = known.map(|known| format!("{OURS}{known}"));
            assert_eq!(meant(name), known.as_deref(), "{name}");
        }
    }

    #[test]
    fn a_missing_file_has_no_settings() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            settings(&directory.path().join("vsock-bridge.conf")).unwrap(),
            []
        );
    }
}
