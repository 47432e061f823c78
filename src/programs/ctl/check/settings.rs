//! What the bridges in use are told: a setting where systemd would take it from, and the addresses of their sockets.

use super::units::Unit;
use crate::config_file;
use crate::configured;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::programs::bridge::variables::FOLDER;

/// A setting, and where it was written: a file with its line, or the unit.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its value.
    pub text: String,
    /// Its place.
    pub place: String,
}

/// Returns the services of the sockets in use.
pub(crate) fn services(units: &[Unit]) -> impl Iterator<Item = &Unit> {
    let sockets = units
        .iter()
        .filter(|unit| unit.is_in_use())
        .filter_map(|unit| unit.id.strip_suffix(".socket"));
    sockets.filter_map(|name| {
        units
            .iter()
            .find(|unit| unit.id == format!("{name}.service"))
    })
}

/// Reads a setting as systemd would set it: Environment=, overruled by each file in turn. The command line overrules
/// all of them, and is not read: with `option` in it, nothing is known.
///
/// Errors: those of a file that cannot be read.
pub(crate) fn setting(
    service: &Unit,
    variable: &str,
    option: &str,
) -> Result<Option<Setting>, Error> {
    if service.command.contains(option) {
        return Ok(None);
    }
    let mut found = service
        .environment
        .iter()
        .filter_map(|assignment| assignment.split_once('='))
        .rfind(|(name, _)| *name == variable)
        .map(|(_, text)| Setting {
            text: text.to_owned(),
            place: service.id.clone(),
        });
    for path in &service.environment_files {
        let (settings, _) = config_file::parse(&configured::text(path)?);
        if let Some(setting) = settings.into_iter().rfind(|s| s.name == variable) {
            found = Some(Setting {
                text: setting.value,
                place: format!("{}:{}", path.display(), setting.line),
            });
        }
    }
    Ok(found)
}

/// Returns the file with the settings of an instance.
pub(crate) fn configuration(service: &Unit) -> String {
    let name = format!("{}.conf", service.id.trim_end_matches(".service"));
    // That of a user is elsewhere.
    let mut files = service.environment_files.iter();
    match files.find(|path| path.file_name().is_some_and(|file| *file == *name)) {
        Some(path) => path.display().to_string(),
        None => format!("{FOLDER}/{name}"),
    }
}

/// Returns the addresses that the socket of a service listens on.
pub(crate) fn sockets_of(service: &Unit, units: &[Unit]) -> Vec<Endpoint> {
    let name = service.id.trim_end_matches(".service");
    let socket = units
        .iter()
        .find(|unit| unit.id.strip_suffix(".socket") == Some(name));
    let addresses = socket.into_iter().flat_map(|socket| &socket.listen);
    addresses.filter_map(|text| text.parse().ok()).collect()
}
