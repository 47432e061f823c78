//! Reads the command line; what is wrong with it is said in one line.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::error::Error;

/// The usage error of all our programs.
const USAGE: u8 = 2;

/// Parses the arguments of the program, or prints help, version or error and gives the exit status.
pub fn parse<A: Parser>() -> Result<A, ExitCode> {
    parse_or(|line| eprintln!("{line}"))
}

/// Parses as [`parse`] does; `complain` gets the line that says what is wrong.
pub fn parse_or<A: Parser>(complain: impl FnOnce(&str)) -> Result<A, ExitCode> {
    let complain = |problem: &str| complain(&format!("{}: {problem}", A::command().get_name()));
    A::try_parse().map_err(|error| match error.kind() {
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
            complain(&one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    })
}

/// Takes the first paragraph, which says what is wrong, without clap's `error:` and line breaks.
fn one_line(text: &str) -> String {
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    format!("{}; see --help", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line() {
        let text = "error: the following required arguments were not provided:\n  <HOST>\n\nUsage: x <HOST>\n";
        assert_eq!(
            one_line(text),
            "the following required arguments were not provided: <HOST>; see --help"
        );
    }
}
