//! Reads Rust as far as modules and paths go: words and signs, without comments, texts and what is only for tests.

use std::collections::BTreeSet;

/// Words after which the name of an item comes.
const ITEMS: [&str; 9] = [
    "fn", "struct", "enum", "union", "trait", "type", "const", "static", "mod",
];
const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// One name that a `use` brings in, `*` for all of a module.
pub struct Import {
    /// Others may take it from here.
    pub is_public: bool,
    /// How it is called here.
    pub name: String,
    /// Where it comes from.
    pub path: Vec<String>,
}

/// Splits a file into words and signs; `::` is one sign.
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").unwrap() + 2,
            '"' => end_of_text(rest),
            'r' if rest.starts_with("r\"") || rest.starts_with("r#") => end_of_raw_text(rest),
            '\'' => end_of_character(rest),
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                tokens.push(rest[..length].to_owned());
                length
            }
            ':' if rest.starts_with("::") => {
                tokens.push("::".to_owned());
                2
            }
            c => {
                tokens.extend((!c.is_whitespace()).then(|| c.to_string()));
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

fn end_of_text(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.unwrap() + 2
}

fn end_of_raw_text(text: &str) -> usize {
    let signs = text[1..].find(|c| c != '#').unwrap();
    let end = format!("\"{}", "#".repeat(signs));
    let begin = signs + 2;
    match text[begin - 1..].starts_with('"') {
        true => begin + text[begin..].find(&end).unwrap() + end.len(),
        // A word such as r#type.
        false => 2,
    }
}

/// A character, or only the sign of a lifetime.
fn end_of_character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((at, c))) => {
            let behind = at + c.len_utf8();
            behind + text[behind..].find('\'').unwrap() + 1
        }
        (_, Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Takes away every item that is compiled for tests alone.
pub fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = &tokens[..];
    while let Some(first) = rest.first() {
        let length = match rest.starts_with(&TEST.map(str::to_owned)) {
            true => TEST.len() + length_of_item(&rest[TEST.len()..]),
            false => {
                kept.push(first.clone());
                1
            }
        };
        rest = &rest[length..];
    }
    kept
}

/// Counts up to the `;` of an item, the end of its block, or the `,` of a field.
fn length_of_item(tokens: &[String]) -> usize {
    let mut depth = 0;
    let is_item = |token: &String| ITEMS.contains(&&**token) || token == "use" || token == "impl";
    let is_field = !tokens.iter().take(5).any(is_item);
    let end = tokens.iter().position(|token| {
        match &**token {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        let is_end = matches!(&**token, ";" | "}") || token == "," && is_field;
        is_end && depth <= 0
    });
    end.map_or(tokens.len(), |end| end + 1)
}

/// Returns the modules that have a file of their own.
pub fn children(tokens: &[String]) -> BTreeSet<String> {
    let declared = tokens
        .windows(3)
        .filter(|of| of[0] == "mod" && of[2] == ";");
    declared.map(|of| of[1].clone()).collect()
}

/// Returns the names of all items, wherever they stand.
pub fn items(tokens: &[String]) -> BTreeSet<String> {
    let is_name = |of: &&[String]| ITEMS.contains(&&*of[0]) && !ITEMS.contains(&&*of[1]);
    let named = tokens.windows(2).filter(is_name);
    named.map(|of| of[1].clone()).collect()
}

/// Returns every path of at least two words.
pub fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut is_joined = false;
    for token in tokens {
        match &**token {
            "::" => is_joined = true,
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                if !is_joined {
                    paths.push(std::mem::take(&mut path));
                }
                path.push(token.clone());
                is_joined = false;
            }
            _ => {
                paths.push(std::mem::take(&mut path));
                is_joined = false;
            }
        }
    }
    paths.push(path);
    paths.retain(|path| path.len() > 1);
    paths
}

/// Returns what is imported, and the code without it.
pub fn imports(tokens: &[String]) -> (Vec<Import>, Vec<String>) {
    let (mut imports, mut code) = (Vec::new(), Vec::new());
    let mut rest = tokens.iter();
    while let Some(token) = rest.next() {
        if token != "use" {
            code.push(token.clone());
            continue;
        }
        let before: Vec<_> = code.iter().rev().take(4).map(|token| &**token).collect();
        let is_public = matches!(before[..], ["pub", ..] | [")", _, "(", "pub"]);
        let mut statement = rest.by_ref().take_while(|token| *token != ";");
        tree(&mut statement, &[], is_public, &mut imports);
    }
    (imports, code)
}

/// Reads one tree of a `use` up to its `,` or `}`; says whether the group that it is in goes on.
fn tree<'a>(
    tokens: &mut impl Iterator<Item = &'a String>,
    before: &[String],
    is_public: bool,
    imports: &mut Vec<Import>,
) -> bool {
    let mut path = before.to_vec();
    let mut name = None;
    let mut goes_on = false;
    while let Some(token) = tokens.next() {
        match &**token {
            "::" => {}
            "self" if !before.is_empty() => name = path.last().cloned(),
            "as" => name = tokens.next().cloned(),
            "{" => {
                while tree(&mut *tokens, &path, is_public, imports) {}
                path.clear();
            }
            "," | "}" => {
                goes_on = token == ",";
                break;
            }
            "*" => name = Some("*".to_owned()),
            word => path.push(word.to_owned()),
        }
    }
    // Nothing is left of a group, nor behind a last comma.
    let last = || path.get(before.len()..)?.last().cloned();
    if let Some(name) = name.or_else(last) {
        imports.push(Import {
            is_public,
            name,
            path,
        });
    }
    goes_on
}
