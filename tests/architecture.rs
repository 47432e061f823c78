//! The shape of the source: no circle of modules, and no arrow against the table of layers at the head of a crate.
//!
//! An arrow goes from a file to the one that has what it names, through re-exports to where it is written. What only
//! tests name is no arrow.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use scan::Import;

#[path = "architecture/scan.rs"]
mod scan;

/// The crates of the workspace that have layers.
const CRATES: [&str; 2] = ["src", "crates/values/src"];

/// A module by its path below the crate, such as `relay::flow`; the root is empty.
type Name = String;

/// What one file says.
struct Module {
    children: BTreeSet<String>,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in the code, as written.
    paths: Vec<Vec<String>>,
}

/// All modules of a crate.
struct Source {
    folder: PathBuf,
    modules: BTreeMap<Name, Module>,
}

impl Source {
    fn read(folder: &str) -> Source {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut source = Source {
            modules: BTreeMap::new(),
            folder,
        };
        source.add(String::new(), &source.folder.join("lib.rs"));
        source
    }

    fn add(&mut self, name: Name, file: &Path) {
        let tokens = scan::without_tests(scan::tokens(&fs::read_to_string(file).unwrap()));
        let children = scan::children(&tokens);
        for child in &children {
            self.add(joined(&name, child), &file_of(file, child));
        }
        let (imports, rest) = scan::imports(&tokens);
        let module = Module {
            children,
            items: scan::items(&rest),
            imports,
            paths: scan::paths(&rest),
        };
        self.modules.insert(name, module);
    }

    /// Returns the module that has what a path names, seen from a module; none for what is not of this crate.
    fn owner(&self, from: &str, path: &[String]) -> Option<Name> {
        let (first, rest) = path.split_first()?;
        match &**first {
            "crate" => self.descend(String::new(), rest),
            "self" => self.descend(from.to_owned(), rest),
            "super" => self.owner_above(from, rest),
            child if self.modules[from].children.contains(child) => {
                self.descend(from.to_owned(), path)
            }
            _ => None,
        }
    }

    fn owner_above(&self, from: &str, rest: &[String]) -> Option<Name> {
        let above = from.rsplit_once("::").map_or("", |(above, _)| above);
        match rest.first().map(|first| &**first) {
            Some("super") => self.owner_above(above, &rest[1..]),
            _ => self.descend(above.to_owned(), rest),
        }
    }

    fn descend(&self, at: Name, path: &[String]) -> Option<Name> {
        let Some((first, rest)) = path.split_first() else {
            return Some(at);
        };
        let module = &self.modules[&at];
        if module.children.contains(first) {
            return self.descend(joined(&at, first), rest);
        }
        let exported = module.imports.iter().filter(|import| import.is_public);
        for import in exported {
            if import.name == *first {
                return self.owner(&at, &[&import.path[..], rest].concat());
            }
            let glob = (import.name == "*")
                .then(|| self.owner(&at, &import.path))
                .flatten();
            if let Some(owner) = glob.filter(|owner| self.modules[owner].items.contains(first)) {
                return Some(owner);
            }
        }
        Some(at)
    }

    /// Returns which modules each module names; what is only handed on is not among them.
    fn arrows(&self) -> BTreeMap<&str, BTreeSet<Name>> {
        let of = |(name, module): (&'_ Name, &'_ Module)| {
            let private = module.imports.iter().filter(|import| !import.is_public);
            let paths = private.map(|import| &import.path).chain(&module.paths);
            let owners = paths.filter_map(|path| self.owner(name, path));
            owners.filter(|owner| owner != name).collect()
        };
        let modules = self.modules.iter();
        modules.map(|entry| (&**entry.0, of(entry))).collect()
    }
}

fn joined(module: &str, child: &str) -> Name {
    match module {
        "" => child.to_owned(),
        _ => format!("{module}::{child}"),
    }
}

/// Returns the file of a module that is declared in another file.
fn file_of(declared_in: &Path, child: &str) -> PathBuf {
    let folder = match declared_in.file_stem().unwrap().to_str().unwrap() {
        "lib" | "mod" => declared_in.parent().unwrap().to_owned(),
        _ => declared_in.with_extension(""),
    };
    let file = folder.join(format!("{child}.rs"));
    match file.exists() {
        true => file,
        false => folder.join(child).join("mod.rs"),
    }
}

/// Returns circles, each as the way around: modules are taken away whose arrows lead to none that is left.
fn circles(arrows: &BTreeMap<&str, BTreeSet<Name>>) -> Vec<String> {
    let mut left: BTreeMap<&str, BTreeSet<&str>> = arrows
        .iter()
        .map(|(&from, to)| (from, to.iter().map(|to| &**to).collect()))
        .collect();
    let mut circles = Vec::new();
    loop {
        let ends = |to: &BTreeSet<&str>| to.is_empty();
        while let Some(end) = left.iter().find(|(_, to)| ends(to)).map(|(&from, _)| from) {
            left.remove(end);
            for to in left.values_mut() {
                to.remove(end);
            }
        }
        let Some((&start, _)) = left.first_key_value() else {
            return circles;
        };
        let mut way = vec![start];
        let circle = loop {
            let next = left[way[way.len() - 1]].first().unwrap();
            way.push(next);
            if let Some(place) = way[..way.len() - 1]
                .iter()
                .position(|module| module == next)
            {
                break way.split_off(place);
            }
        };
        circles.push(circle.join(" → "));
        left.get_mut(circle[0]).unwrap().remove(circle[1]);
    }
}

/// Reads the table at the head of lib.rs: each module with its row.
fn rows(source: &Source) -> BTreeMap<String, usize> {
    let text = fs::read_to_string(source.folder.join("lib.rs")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    let first_cells = lines.filter_map(|line| line.split_once(" | ").map(|(cell, _)| cell));
    let mut rows = BTreeMap::new();
    for (row, cell) in first_cells.enumerate() {
        for name in cell
            .split("[`")
            .skip(1)
            .filter_map(|rest| rest.split_once("`]"))
        {
            assert_eq!(
                rows.insert(name.0.to_owned(), row),
                None,
                "{} twice",
                name.0
            );
        }
    }
    rows
}

#[test]
fn modules_make_no_circle() {
    for folder in CRATES {
        let source = Source::read(folder);
        let circles = circles(&source.arrows());
        assert!(circles.is_empty(), "{folder}:\n{}", circles.join("\n"));
    }
}

#[test]
fn every_module_has_a_row_and_uses_only_rows_below() {
    for folder in CRATES {
        let source = Source::read(folder);
        let rows = rows(&source);
        let children = &source.modules[""].children;
        let without: Vec<_> = children
            .iter()
            .filter(|child| !rows.contains_key(*child))
            .collect();
        assert!(without.is_empty(), "{folder}: without a row: {without:?}");
        let mut wrong = BTreeSet::new();
        for (from, to) in source.arrows() {
            for to in to {
                let (from, to) = (top(from), top(&to));
                if from != to && !from.is_empty() && !to.is_empty() && rows[to] <= rows[from] {
                    wrong.insert(format!(
                        "{from} (row {}) → {to} (row {})",
                        rows[from], rows[to]
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{folder}: {wrong:#?}");
    }
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

#[test]
fn what_circles_finds() {
    let arrows = |text: &'static str| {
        let mut arrows: BTreeMap<&str, BTreeSet<Name>> = BTreeMap::new();
        for (from, to) in text.split(' ').filter_map(|arrow| arrow.split_once('>')) {
            arrows.entry(from).or_default().insert(to.to_owned());
            arrows.entry(to).or_default();
        }
        circles(&arrows)
    };
    assert_eq!(arrows("a>b b>c a>c c>d"), [""; 0]);
    assert_eq!(arrows("a>b b>c c>b"), ["b → c → b"]);
    assert_eq!(arrows("a>b b>a c>d d>c"), ["a → b → a", "c → d → c"]);
}
