//! The names of machines as a block of /etc/hosts, which every program resolves names from.
//!
//! What stands around the block is the administrator's: not one byte of it changes.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use clap::Args;

use super::records;
use super::text_file::{put, read};
use crate::error::{Error, Result};
use crate::names::Names;
use crate::prefix::Prefix;
use crate::unusable::Unusable;

/// The file.
pub(crate) const PATH: &str = "/etc/hosts";
/// Is there while the block should be, so that it is missed when somebody else writes the file anew.
const MARK: &str = "/etc/vsock-bridge/hosts-written";
const MARK_TEXT: &str = "# Made by `vsockctl hosts --write`, for `vsockctl check`; `vsockctl hosts --remove` removes it.\n";
pub(crate) const BEGIN: &str = "# BEGIN vsock-bridge";
pub(crate) const END: &str = "# END vsock-bridge";

/// What is done with the names.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Write the names to /etc/hosts.
    ///
    /// They take the place of those that were written before, and nothing is printed.
    #[arg(long, conflicts_with = "remove")]
    write: bool,
    /// Remove the names from /etc/hosts.
    ///
    /// What else is in the file stays.
    #[arg(long)]
    remove: bool,
    /// Use records of systemd-resolved instead.
    ///
    /// Prints, writes or removes static records of systemd-resolved, which 261 and newer read, instead of lines of
    /// /etc/hosts.
    #[arg(long)]
    resolved: bool,
}

/// Returns the names, writes or removes them; `machines` is asked only if they are needed.
pub(crate) fn run(
    arguments: &Arguments,
    machines: impl FnOnce() -> Result<(Prefix, Names)>,
) -> Result<String> {
    if arguments.remove {
        match arguments.resolved {
            true => records::remove()?,
            false => {
                edit("")?;
                remember(false);
            }
        }
        return Ok(String::new());
    }
    let (prefix, names) = machines()?;
    let text = match arguments.resolved {
        true => records::text(prefix, &names),
        false => block(prefix, &names),
    };
    match (arguments.write, arguments.resolved) {
        (false, _) => return Ok(text),
        (true, true) => records::write(&text)?,
        (true, false) => {
            edit(&text)?;
            remember(true);
        }
    }
    Ok(String::new())
}

/// Returns a line for the host and one for each machine with a name, between the lines that mark them as ours.
fn block(prefix: Prefix, names: &Names) -> String {
    let mut text = format!("{BEGIN}\n# Written by `vsockctl hosts`; changes are lost.\n");
    for machine in names.machines() {
        let (address, names) = (prefix.address(machine), names.of(machine).join(" "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{address}\t{names}");
    }
    text + END + "\n"
}

/// Remembers whether the block is wanted. Without that it is written all the same.
fn remember(is_wanted: bool) {
    let mark = Path::new(MARK);
    let done = match is_wanted {
        true => fs::create_dir_all(mark.parent().unwrap_or(mark))
            .and_then(|()| fs::write(mark, MARK_TEXT)),
        false => fs::remove_file(mark),
    };
    if let Err(error) = done {
        log::debug!("cannot change {MARK}: {error}");
    }
}

/// What has become of the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// There is none, and there need not be.
    Unused,
    /// It is as it would be written now.
    Right,
    /// It was written and is gone.
    Gone,
    /// It says something else than would be written now.
    Stale,
    /// The file cannot be read, or has half a block.
    Broken(String),
}

/// Compares the block in /etc/hosts with what it should be.
pub(crate) fn state(prefix: Prefix, names: &Names) -> State {
    match read(Path::new(PATH)) {
        Ok(text) => state_of(&text, &block(prefix, names), Path::new(MARK).exists()),
        Err(error) => State::Broken(error.to_string()),
    }
}

fn state_of(text: &[u8], block: &str, is_wanted: bool) -> State {
    let has_block = text
        .split(|&byte| byte == b'\n')
        .any(|line| line.trim_ascii() == BEGIN.as_bytes());
    match with_block(text, block) {
        Err((line, problem)) => State::Broken(format!("line {line}: {problem}")),
        Ok(_) if !has_block && is_wanted => State::Gone,
        Ok(_) if !has_block => State::Unused,
        Ok(new) if new == text => State::Right,
        Ok(_) => State::Stale,
    }
}

/// Makes the block the one in /etc/hosts; an empty one removes it.
fn edit(block: &str) -> Result<()> {
    let path = Path::new(PATH);
    let old = read(path).map_err(Error::file("read", path))?;
    let new = with_block(&old, block).map_err(|(line, problem)| Unusable::Line {
        path: path.to_owned(),
        line,
        problem: problem.to_owned(),
    })?;
    put(path, &old, &new)
}

/// Puts the block where the first one is, or at the end, and removes all others; else gives the line that is wrong.
pub(crate) fn with_block(text: &[u8], block: &str) -> Result<Vec<u8>, (usize, &'static str)> {
    let mut new = Vec::new();
    let mut is_placed = false;
    let mut begin = None;
    for (line, number) in text.split_inclusive(|&byte| byte == b'\n').zip(1..) {
        // Whatever line ends an editor has left there.
        let mark = line.trim_ascii();
        if mark == BEGIN.as_bytes() {
            if begin.replace(number).is_some() {
                break;
            }
            if !is_placed {
                new.extend(block.bytes());
                is_placed = true;
            }
        } else if mark == END.as_bytes() {
            if begin.take().is_none() {
                return Err((
                    number,
                    "`# END vsock-bridge` ends nothing; remove that line",
                ));
            }
        } else if begin.is_none() {
            new.extend(line);
        }
    }
    if let Some(number) = begin {
        return Err((
            number,
            "`# BEGIN vsock-bridge` has no `# END vsock-bridge`; remove what is ours there",
        ));
    }
    if !is_placed && !block.is_empty() {
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        new.extend(block.bytes());
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "# BEGIN vsock-bridge\nfd00::2\thost.vsock\n# END vsock-bridge\n";
    const OLD: &str = "# BEGIN vsock-bridge\nfd00:9::2\thost.vsock\n# END vsock-bridge\n";

    fn edited(text: &str, block: &str) -> String {
        String::from_utf8(with_block(text.as_bytes(), block).unwrap()).unwrap()
    }

    #[test]
    fn each_machine_has_its_line_with_all_names() {
        let names = "web=3 db=1024 www=3 hyper=host".parse().unwrap();
        let text = block("fd00:1::/64".parse().unwrap(), &names);
        let expected = "# BEGIN vsock-bridge\n# Written by `vsockctl hosts`; changes are lost.\n\
             fd00:1::2\thyper.vsock host.vsock 2.vsock\nfd00:1::3\tweb.vsock www.vsock 3.vsock\n\
             fd00:1::400\tdb.vsock 1024.vsock\n# END vsock-bridge\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn exactly_one_block_is_left_and_all_else_stays() {
        for (before, after) in [
            (String::new(), BLOCK.to_owned()),
            ("::1 a\n".to_owned(), format!("::1 a\n{BLOCK}")),
            ("::1 a".to_owned(), format!("::1 a\n{BLOCK}")),
            ("\n\n".to_owned(), format!("\n\n{BLOCK}")),
            (format!("::1 a\n{OLD}::2 b"), format!("::1 a\n{BLOCK}::2 b")),
            (
                format!("{OLD}\n# c\n{OLD}::2 b\n{OLD}"),
                format!("{BLOCK}\n# c\n::2 b\n"),
            ),
            (
                format!("::1 a\r\n{}", OLD.replace('\n', "\r\n")),
                format!("::1 a\r\n{BLOCK}"),
            ),
            (OLD.trim_end().to_owned(), BLOCK.to_owned()),
        ] {
            assert_eq!(edited(&before, BLOCK), after, "{before:?}");
            assert_eq!(edited(&after, BLOCK), after, "a second time");
        }
    }

    #[test]
    fn removing_gives_back_what_was_there_before() {
        for text in ["", "::1 a\n", "\r\n\t::1 a # c\n\n"] {
            assert_eq!(edited(&edited(text, BLOCK), ""), text);
            assert_eq!(edited(text, ""), text);
        }
        assert_eq!(edited(&format!("{OLD}x\n{OLD}{OLD}"), ""), "x\n");
    }

    #[test]
    fn a_block_is_missed_when_it_was_written_and_found_stale_when_it_differs() {
        for (text, is_wanted, expected) in [
            ("::1 a\n", false, State::Unused),
            ("::1 a\n", true, State::Gone),
            ("", true, State::Gone),
            (&format!("::1 a\n{BLOCK}"), true, State::Right),
            (BLOCK, false, State::Right),
            (OLD, false, State::Stale),
        ] {
            assert_eq!(
                state_of(text.as_bytes(), BLOCK, is_wanted),
                expected,
                "{text:?}"
            );
        }
        let half = state_of(b"# BEGIN vsock-bridge\n", BLOCK, true);
        assert!(matches!(half, State::Broken(_)), "{half:?}");
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let text = b"::1 \xff\xfe\0\n";
        let new = with_block(text, BLOCK).unwrap();
        assert_eq!(new, [text, BLOCK.as_bytes()].concat());
    }

    #[test]
    fn half_a_block_is_refused_and_its_line_named() {
        for (text, line) in [
            ("a\n# BEGIN vsock-bridge\nb\n", 2),
            (
                "# BEGIN vsock-bridge\n# BEGIN vsock-bridge\n# END vsock-bridge\n",
                2,
            ),
            ("a\nb\n# END vsock-bridge\n", 3),
        ] {
            let (number, _) = with_block(text.as_bytes(), BLOCK).unwrap_err();
            assert_eq!(number, line, "{text:?}");
        }
    }
}
