//! The rules: each takes one file as text and returns what it finds, so that tests need no files.

mod code;
mod functions;
mod layers;
mod results;
mod sources;
mod words;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl Violation {
    /// `line` counts from 1.
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 5] = ["target", ".git", ".carry", "__pycache__", "node_modules"];

/// Checks every text file under `root`; returns how many there are, and the violations in order.
///
/// # Errors
/// When a folder or a file cannot be read.
pub(crate) fn repository(root: &Path) -> io::Result<(usize, Vec<Violation>)> {
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    let mut violations = Vec::new();
    let mut lengths = functions::Lengths::default();
    let mut files = 0;
    for path in &paths {
        let Ok(text) = String::from_utf8(fs::read(path)?) else { continue };
        let name = relative(root, path);
        files += 1;
        violations.extend(one_file(&name, &text, &mut lengths));
    }
    violations.extend(lengths.violations());
    violations.sort();
    Ok((files, violations))
}

/// All rules that apply to a file of this name.
fn one_file(name: &str, text: &str, lengths: &mut functions::Lengths) -> Vec<Violation> {
    let mut found = words::check(name, text);
    if name.ends_with(".rs") {
        let code = code::only(text);
        found.extend(sources::check(name, text, &code));
        found.extend(lengths.add(name, &code));
    }
    if name.ends_with("Cargo.toml") {
        found.extend(layers::check(name, text));
    }
    if name.starts_with("docs/results/") && name.ends_with(".json") {
        found.extend(results::check(name, text));
    }
    found
}

/// Path below the root with forward slashes.
fn relative(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Every file below `folder`, links left out: they may lead anywhere.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED.contains(&entry.file_name().to_string_lossy().as_ref()) {
            collect(&entry.path(), paths)?;
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_follow_the_file_name() {
        let mut lengths = functions::Lengths::default();
        assert!(one_file("docs/book.md", "unsafe { println!() }", &mut lengths).is_empty());
        assert_eq!(one_file("docs/results/a.json", "{}", &mut lengths).len(), 5);
        let found = one_file("crates/core/src/a.rs", "fn f() { println!() }\n", &mut lengths);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_violation_reads_as_a_place() {
        let text = Violation::new("crates/a.rs", 7, "too long").to_string();
        assert_eq!(text, "crates/a.rs:7: too long");
    }
}
