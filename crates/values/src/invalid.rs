//! Why a text is not what it should be: the one error of everything that is read from text.

use std::error::Error;
use std::fmt;

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What the text was meant to be.
    pub what: &'static str,
    /// The text as it was given.
    pub text: String,
    /// The right form, or what is wrong.
    pub hint: String,
}

impl Invalid {
    /// Says that `text` is not a valid `what`.
    pub fn new(what: &'static str, text: &str, hint: impl Into<String>) -> Invalid {
        Invalid {
            what,
            text: text.to_owned(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invalid { what, text, hint } = self;
        write!(f, "{text:?} is not a valid {what}: {hint}")
    }
}

impl Error for Invalid {}
