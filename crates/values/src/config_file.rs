//! The flat `NAME=value` file that systemd reads with EnvironmentFile= and our programs read themselves.
//!
//! Only the plain part of systemd.exec(5)'s syntax: comments, blank lines, one pair of quotes.
//! A line that says nothing valid is reported and skipped, so that one slip does not take the rest along. Text only:
//! what is read and written is in [`crate::configured`].

/// The file that all programs read.
pub const PATH: &str = "/etc/vsock-bridge/vsock-bridge.conf";

/// One assignment with the line it stands on, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The line.
    pub line: usize,
    /// The variable.
    pub name: String,
    /// The value, without quotes.
    pub value: String,
}

/// Sets a variable in the place of its last assignment, or at the end; all other lines stay.
pub fn with_setting(text: &str, name: &str, value: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let assignment = format!("{name}={value}");
    match parse(text)
        .0
        .iter()
        .rev()
        .find(|setting| setting.name == name)
    {
        Some(setting) => lines[setting.line - 1] = assignment,
        None => lines.push(assignment),
    }
    lines.join("\n") + "\n"
}

/// Returns the last assignment of a variable, which is the one that holds.
pub fn last(settings: Vec<Setting>, name: &str) -> Option<Setting> {
    settings.into_iter().rfind(|setting| setting.name == name)
}

/// Splits a text into its assignments and the lines that are none, with the reason.
pub fn parse(text: &str) -> (Vec<Setting>, Vec<(usize, String)>) {
    let mut settings = Vec::new();
    let mut problems = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        match assignment(line) {
            Ok((name, value)) => settings.push(Setting {
                line: index + 1,
                name,
                value,
            }),
            Err(problem) => problems.push((index + 1, problem)),
        }
    }
    (settings, problems)
}

fn assignment(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once('=').ok_or("expected NAME=value")?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.ends_with([' ', '\t']) {
        let name = name.trim_end();
        return Err(format!("no space may stand between {name} and `=`"));
    }
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!(
            "{name:?} is not the name of a variable, which has letters, digits and `_` only"
        ));
    }
    if value.contains('\0') {
        return Err(format!("the value of {name} contains a NUL byte"));
    }
    Ok((name.to_owned(), unquote(value.trim())))
}

fn unquote(value: &str) -> String {
    let within = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    match (within('"'), within('\'')) {
        (Some(text), _) => unescape(text),
        (None, text) => text.unwrap_or(value).to_owned(),
    }
}

/// Between double quotes a backslash stands before what would mean something there, and is itself before all else.
fn unescape(text: &str) -> String {
    let mut letters = text.chars().peekable();
    let mut value = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        let escaped = letters.next_if(|next| letter == '\\' && "\"\\`$".contains(*next));
        value.push(escaped.unwrap_or(letter));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(String, String)> {
        parse(text)
            .0
            .into_iter()
            .map(|s| (s.name, s.value))
            .collect()
    }

    /// As systemd reads them (systemd.exec(5), EnvironmentFile=).
    #[test]
    fn a_backslash_between_double_quotes_stands_before_what_means_something_there() {
        for (text, value) in [
            (r#""a\"b""#, r#"a"b"#),
            (r#""a\\b""#, r"a\b"),
            (r#""\`\$\x""#, r"`$\x"),
            (r"'a\\b'", r"a\\b"),
        ] {
            assert_eq!(values(&format!("A={text}\n"))[0].1, value, "{text}");
        }
    }

    #[test]
    fn quotes_comments_crlf_and_bom_are_understood() {
        let text = "\u{feff}# c\r\n; d\r\n\r\nA=1\r\n B = \"x y\"\nC='z'\nD=\n";
        let (settings, problems) = parse(text);
        assert_eq!(
            settings[0],
            Setting {
                line: 4,
                name: "A".into(),
                value: "1".into()
            }
        );
        // systemd takes no space before `=` either.
        assert_eq!(problems.iter().map(|p| p.0).collect::<Vec<_>>(), [5]);
        assert_eq!(
            values("C='z'\nD=\n"),
            [("C".into(), "z".into()), ("D".into(), "".into())]
        );
    }

    #[test]
    fn bad_lines_are_named_and_the_others_kept() {
        let (settings, problems) = parse("nonsense\nA=1\n=2\nB\0=3\nC=4\0\nD=5");
        assert_eq!(settings.len(), 2);
        assert_eq!(
            problems.iter().map(|p| p.0).collect::<Vec<_>>(),
            [1, 3, 4, 5]
        );
    }

    #[test]
    fn setting_a_variable_leaves_all_other_lines() {
        assert_eq!(with_setting("", "A", "1"), "A=1\n");
        assert_eq!(with_setting("# c\nA=1\nB=2\n", "A", "3"), "# c\nA=3\nB=2\n");
        assert_eq!(with_setting("B=2", "A", "3"), "B=2\nA=3\n");
    }
}
