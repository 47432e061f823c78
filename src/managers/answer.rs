//! What a manager answers: its machines; or one CID, or why it is none, in a line.

use nix::unistd::Pid;

use crate::tool::Said;
use crate::vsock::{Cid, decimal};

/// A machine that somebody manages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Managed {
    /// Its name there.
    pub(crate) name: String,
    /// Its CID; none without a vsock device, and before one is chosen for it.
    pub(crate) cid: Option<Cid>,
    /// `running`, or another word of the manager.
    pub(crate) state: String,
    /// The process that it is, or that leads it, while it runs, if the manager tells.
    pub(crate) process: Option<Pid>,
}

impl Managed {
    /// Makes one that runs, as all do that machined knows.
    pub(super) fn running(name: &str, cid: Option<Cid>, process: Option<Pid>) -> Managed {
        Managed {
            name: name.to_owned(),
            cid,
            state: "running".to_owned(),
            process,
        }
    }
}

/// Which machines a manager has.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Those that it told of.
    pub(crate) machines: Vec<Managed>,
    /// Why these may not be all.
    pub(crate) problems: Vec<String>,
    /// Why there is nobody to ask.
    pub(crate) absent: Option<String>,
}

/// What became of a question to whoever manages machines.
#[derive(Debug)]
pub(super) enum Asked<T> {
    /// That was the answer.
    Answered(T),
    /// There is nobody to ask, and why.
    Absent(String),
}

/// Takes the CID that was found; `text` is what stands for it in an answer of `who`.
pub(super) fn one_cid<'a>(
    who: &str,
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Cid, String> {
    let mut texts: Vec<&str> = texts.into_iter().collect();
    texts.dedup();
    match texts[..] {
        [] => Err("it has no vsock".to_owned()),
        [text] => decimal(text)
            .and_then(Cid::new)
            .ok_or_else(|| format!("{who} said \"{}\", which is no CID", shown(text))),
        _ => Err(format!("it has several CIDs: {}", shown(&texts.join(", ")))),
    }
}

/// Returns the complaint of a tool, for a line.
pub(super) fn problem(said: &Said, program: &str) -> String {
    // virsh has the reason in its second line.
    let lines = said.complaint.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    match shown(&lines.join("; ")) {
        none if none.is_empty() => format!("{program} said nothing"),
        complaint => format!("{program} said \"{complaint}\""),
    }
}

/// Makes what a tool said fit into a line.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    let line = text.trim().lines().next().unwrap_or_default();
    let line: String = line.chars().take(SHOWN_MAX).collect();
    line.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_taken_and_two_are_not() {
        assert_eq!(one_cid("x", ["7", "7"]), Ok(Cid::new(7).unwrap()));
        for texts in [
            &[][..],
            &["3", "4"],
            &[""],
            &["0"],
            &["4294967295"],
            &["3 "],
            &["3\n"],
            &["host"],
        ] {
            assert!(one_cid("x", texts.iter().copied()).is_err(), "{texts:?}");
        }
    }

    #[test]
    fn a_complaint_of_two_lines_is_one() {
        let said = Said {
            complaint: "error: failed to connect to the hypervisor\nerror: no such socket\n"
                .to_owned(),
            answer: String::new(),
        };
        assert_eq!(
            problem(&said, "virsh"),
            "virsh said \"error: failed to connect to the hypervisor; error: no such socket\""
        );
    }

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(shown("a\x1b[1mb\nc"), "a\\u{1b}[1mb");
        assert_eq!(shown(&"x".repeat(1000)).len(), 200);
    }
}
