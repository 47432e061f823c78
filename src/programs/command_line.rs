//! Reads the command line; what is wrong with it is said in one line.

use std::error::Error as _;
use std::ffi::OsStr;
use std::io;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser};

use crate::error::Error;
use crate::logging;

/// The usage error of all our programs.
const USAGE: u8 = 2;
/// Begins a line in which clap says what may be meant.
const TIP: &str = "  tip: ";

/// Parses the arguments of the program, or prints help, version or error and gives the exit status.
pub fn parse<A: Parser>() -> Result<A, ExitCode> {
    parse_or(A::command(), logging::say)
}

/// Parses the arguments of `command`, which has those of `A`; `complain` gets the line that says what is wrong.
pub fn parse_or<A: Parser>(command: Command, complain: impl FnOnce(&str)) -> Result<A, ExitCode> {
    let name = command.get_name().to_owned();
    let mut command = match std::env::args_os().any(|word| is_short_help(&word)) {
        true => without_variables(command),
        false => command,
    };
    let complain = |problem: &str| complain(&format!("{name}: {problem}"));
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|mut matches| A::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
                let error = Error::Output { source };
                complain(&error.report());
                error.exit_code()
            }
            // Who does not read to the end has seen enough.
            _ => ExitCode::SUCCESS,
        },
        _ => {
            complain(&format!("{}; see --help", problem(&error)));
            ExitCode::from(USAGE)
        }
    })
}

/// Returns whether the word may ask for the short help, alone or with other letters.
fn is_short_help(word: &OsStr) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.starts_with(b"-") && !bytes.starts_with(b"--") && bytes.contains(&b'h')
}

/// Leaves the variables out of the help, where an option has one line.
fn without_variables(command: Command) -> Command {
    command
        .mut_args(|argument| argument.hide_env(true))
        .mut_subcommands(without_variables)
}

/// Says what is wrong in a line.
fn problem(error: &clap::Error) -> String {
    wrong_value(error).unwrap_or_else(|| one_line(&error.to_string()))
}

/// Our own words on a value, if they name it, since clap names it once more.
fn wrong_value(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let cause = error.source()?.to_string();
    let (value, argument) = (
        text(ContextKind::InvalidValue)?,
        text(ContextKind::InvalidArg)?,
    );
    // Such as `--to <TARGET>`, `--watch[=<TIME>]`, `[UNIT]...`.
    let name = argument
        .trim_start_matches(['<', '['])
        .split([' ', '<', '>', '[', ']'])
        .next()?;
    cause
        .contains(&format!("{value:?}"))
        .then(|| format!("{name}: {cause}"))
}

/// Takes the first paragraph, which says what is wrong, and clap's tips, without headings and line breaks.
fn one_line(text: &str) -> String {
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    let tips = text.lines().filter_map(|line| line.strip_prefix(TIP));
    let parts = [words.join(" ")].into_iter().chain(tips.map(str::to_owned));
    parts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn an_error_is_one_line() {
        let text = "error: the following required arguments were not provided:\n  <HOST>\n\nUsage: x <HOST>\n";
        assert_eq!(
            one_line(text),
            "the following required arguments were not provided: <HOST>"
        );
    }

    #[derive(Debug, Parser)]
    struct Arguments {
        #[arg(long, env = "SOME_VARIABLE")]
        prefix: Option<crate::prefix::Prefix>,
        #[arg(long)]
        size: Option<u8>,
        #[arg(long, num_args = 0..=1, require_equals = true)]
        #[arg(value_parser = crate::programs::options::parse_time)]
        watch: Option<std::time::Duration>,
        #[arg(value_parser = crate::programs::options::parse_time)]
        time: Option<std::time::Duration>,
        #[arg(value_parser = crate::programs::options::parse_time)]
        more: Vec<std::time::Duration>,
    }

    #[test]
    fn what_is_meant_is_told_and_a_value_is_told_once() {
        for (words, said) in [
            (
                &["--prefx", "x"][..],
                "unexpected argument '--prefx' found; a similar argument exists: '--prefix'",
            ),
            (
                &["--prefix", "x"],
                "--prefix: \"x\" is not a valid prefix: expected an IPv6 /64 such as fd00:abcd:ef12::/64",
            ),
            (
                &["5x"],
                "TIME: \"5x\" is not a valid time: expected e.g. 500ms, 5s, 10min, 1h 30min or infinity",
            ),
            (
                &["--watch=5x"],
                "--watch: \"5x\" is not a valid time: expected e.g. 500ms, 5s, 10min, 1h 30min or infinity",
            ),
            (
                &["5", "5x"],
                "MORE: \"5x\" is not a valid time: expected e.g. 500ms, 5s, 10min, 1h 30min or infinity",
            ),
            (
                &["--size", "x"],
                "invalid value 'x' for '--size <SIZE>': invalid digit found in string",
            ),
            (
                &["--size"],
                "a value is required for '--size <SIZE>' but none was supplied",
            ),
        ] {
            let words = [""].iter().chain(words);
            let error = Arguments::try_parse_from(words).unwrap_err();
            assert_eq!(problem(&error), said);
        }
    }

    #[test]
    fn only_the_short_help_is_without_variables() {
        let mut short = without_variables(Arguments::command());
        assert!(!short.render_help().to_string().contains("SOME_VARIABLE"));
        let mut long = Arguments::command();
        assert!(
            long.render_long_help()
                .to_string()
                .contains("SOME_VARIABLE")
        );
        for (word, is_it) in [("-h", true), ("-vh", true), ("--help", false), ("h", false)] {
            assert_eq!(is_short_help(OsStr::new(word)), is_it, "{word}");
        }
    }
}
