//! Standard output of vsockctl: results, coloured only where somebody sees it, and what is wrong with it.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;
use terminal_size::{Height, Width};

use crate::error::{Error, Result};

/// Prints a text that may have colours; tells whether there still is a reader.
///
/// Errors: [`Error::Output`].
pub fn print(text: &str) -> Result<bool> {
    write(&suited(text))
}

/// Prints a text as it is; tells whether there still is a reader.
///
/// Errors: [`Error::Output`].
pub(crate) fn write(text: &str) -> Result<bool> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(Error::Output { source }),
    }
}

/// Leaves colours out where nobody sees them, and where NO_COLOR is set.
pub(crate) fn suited(text: &str) -> Cow<'_, str> {
    match AutoStream::choice(&std::io::stdout()) {
        ColorChoice::Never => anstream::adapter::strip_str(text).to_string().into(),
        _ => text.into(),
    }
}

/// Returns width and height of the terminal; none if it is none, or one that cannot move its cursor.
pub(crate) fn terminal() -> Option<(usize, usize)> {
    let stdout = std::io::stdout();
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
    if !stdout.is_terminal() || is_dumb {
        return None;
    }
    let (Width(width), Height(height)) = terminal_size::terminal_size_of(&stdout)?;
    Some((width.into(), height.into()))
}

/// Writes it as JSON, with line breaks for people at a terminal.
pub(crate) fn json(what: &impl Serialize) -> Result<String> {
    let json = match terminal() {
        Some(_) => serde_json::to_string_pretty(what),
        None => serde_json::to_string(what),
    };
    let fail = |error: serde_json::Error| Error::Output {
        source: error.into(),
    };
    Ok(json.map_err(fail)? + "\n")
}
