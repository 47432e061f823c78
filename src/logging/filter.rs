//! The filter of VSOCK_BRIDGE_LOG: what of it says something, and what is wrong with the rest.
//!
//! env_logger takes every other word for the name of a module, and so a misspelt level for a module that nobody has.

use log::LevelFilter;

/// Levels, for whoever has another word.
const LEVELS: &str = "off, error, warn, info, debug or trace";
/// An example of a module.
const MODULE: &str = "vsock_bridge::relay";
/// The library.
const LIBRARY: &str = "vsock_bridge::";
/// Crates of ours.
const CRATES: [&str; 5] = [
    "vsock_bridge",
    "vsock_bridge_generator",
    "vsock_bridge_values",
    "vsock_connect",
    "vsockctl",
];
/// Modules of the library.
const MODULES: [&str; 33] = [
    "accounting",
    "activation",
    "clock",
    "connect",
    "descriptors",
    "error",
    "fdpass",
    "folder_watch",
    "fuzzing",
    "gate",
    "gateway",
    "handover",
    "listen",
    "logging",
    "managers",
    "mux",
    "notify",
    "packets",
    "peer",
    "programs",
    "proxy_protocol",
    "registry_watch",
    "relay",
    "route",
    "serve",
    "stream",
    "sys",
    "testing",
    "this_machine",
    "tool",
    "tunnel",
    "unix_path",
    "waker",
];

/// Returns the filter for env_logger, and a line for each part that is wrong.
pub(super) fn read(text: &str) -> (String, Vec<String>) {
    // Behind a slash stands a text that the lines must have.
    let (list, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (mut parts, mut problems) = (Vec::new(), Vec::new());
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match problem(part) {
            Some(problem) => problems.push(problem),
            None => parts.push(part),
        }
    }
    (parts.join(",") + rest, problems)
}

fn problem(part: &str) -> Option<String> {
    let (module, level) = match part.split_once('=') {
        Some((module, level)) => (module, level),
        None if is_level(part) || is_module(part) => return None,
        None => {
            let hint = format!("neither a level ({LEVELS}) nor a module such as {MODULE}");
            return Some(format!("{part:?} is {hint}"));
        }
    };
    if !is_module(module) {
        return Some(format!(
            "{module:?} is not a module of ours, such as {MODULE}"
        ));
    }
    (!is_level(level)).then(|| format!("{level:?} is not a level: expected {LEVELS}"))
}

fn is_level(text: &str) -> bool {
    text.parse::<LevelFilter>().is_ok()
}

/// Returns whether a module has the name, or one that begins so, which is what env_logger compares.
fn is_module(name: &str) -> bool {
    let fits = |known: &str, name: &str| {
        let below = name.strip_prefix(known);
        known.starts_with(name) || below.is_some_and(|rest| rest.starts_with("::"))
    };
    match name.strip_prefix(LIBRARY) {
        Some(inside) => MODULES.iter().any(|known| fits(known, inside)),
        None => !name.is_empty() && CRATES.iter().any(|known| fits(known, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_are_those_of_the_library() {
        let source = include_str!("../lib.rs");
        let names = source.lines().filter_map(|line| {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            line.strip_prefix("mod ")?.strip_suffix(';')
        });
        assert!(MODULES.iter().copied().eq(names));
    }

    #[test]
    fn what_says_something_is_kept_as_it_is() {
        for text in [
            "",
            "debug",
            "OFF",
            "vsock_bridge::relay=trace",
            "vsock_bridge::relay::session=debug,warn",
            "vsock_bridge",
            "vsock_bridge::rel",
            "vsockctl=debug",
            "vsock_bridge_values::configured=error",
            "debug/vsock:3",
        ] {
            assert_eq!(read(text), (text.to_owned(), Vec::new()), "{text}");
        }
        assert_eq!(read(" debug , ,").0, "debug");
    }

    #[test]
    fn what_is_no_level_and_no_module_is_told_and_left_out() {
        for (text, kept, words) in [
            ("foo", "", "\"foo\" is neither a level"),
            ("debgu", "", "\"debgu\" is neither a level"),
            ("warn,foo", "warn", "\"foo\" is neither"),
            ("foo=debug", "", "\"foo\" is not a module of ours"),
            (
                "vsock_bridge::rely=trace",
                "",
                "\"vsock_bridge::rely\" is not a module",
            ),
            ("vsock_bridge::relay=trce", "", "\"trce\" is not a level"),
            ("vsock_bridge::relay=", "", "\"\" is not a level"),
            ("=debug", "", "\"\" is not a module"),
        ] {
            let (filter, problems) = read(text);
            assert_eq!(filter, kept, "{text}");
            assert!(
                problems.len() == 1 && problems[0].contains(words),
                "{problems:?}"
            );
        }
    }
}
