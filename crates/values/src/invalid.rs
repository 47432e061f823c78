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
