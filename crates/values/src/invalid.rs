//! Why a text is not what it should be: the one error of everything that is read from text.

use std::error::Error;
use std::fmt;

/// A text that is longer is cut: it may be a whole file that somebody took for a line.
const SHOWN_BYTES: usize = 300;

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What the text was meant to be.
    pub what: &'static str,
    /// The text as it was given, or its beginning.
    pub text: String,
    /// The right form, or what is wrong.
    pub hint: String,
}

impl Invalid {
    /// Says that `text` is not a valid `what`.
    pub fn new(what: &'static str, text: &str, hint: impl Into<String>) -> Invalid {
        Invalid {
            what,
            text: shown(text),
            hint: hint.into(),
        }
    }
}

/// Cuts a text to what fits into a line.
fn shown(text: &str) -> String {
    if text.len() <= SHOWN_BYTES {
        return text.to_owned();
    }
    let ends = (0..=SHOWN_BYTES).rev();
    let begin = ends.filter_map(|end| text.get(..end)).next();
    format!("{}…", begin.unwrap_or_default())
}

/// Returns whether two words differ in the middle alone, by one or two letters, or in hyphens and capital letters.
pub(crate) fn is_nearly(word: &str, meant: &str) -> bool {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let (word, meant) = (plain(word), plain(meant));
    let same = |(one, other): &(u8, u8)| one == other;
    let begin = word.bytes().zip(meant.bytes()).take_while(same).count();
    let end = (word.bytes().rev().zip(meant.bytes().rev()))
        .take_while(same)
        .count();
    begin + end + 2 >= word.len().max(meant.len())
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invalid { what, text, hint } = self;
        write!(f, "{text:?} is not a valid {what}: {hint}")
    }
}

impl Error for Invalid {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_line_is_cut_between_two_letters() {
        let told = Invalid::new("name", &"ü".repeat(1 << 20), "expected one").to_string();
        assert!(
            told.len() < SHOWN_BYTES + 100 && told.contains("ü…"),
            "{told}"
        );
        let short = Invalid::new("name", "a b", "expected one").to_string();
        assert_eq!(short, "\"a b\" is not a valid name: expected one");
    }
}
