//! Rust files: a module doc first, 600 lines at most, printing and `unsafe` only where they belong.

use super::Violation;
use super::code::is_word;

const LONGEST_FILE: usize = 600;
/// Programs print; libraries return values or errors.
const MAY_PRINT: [&str; 4] = ["crates/cli/", "crates/kernels/benches/", "xtask/", "examples/"];
const MAY_BE_UNSAFE: &str = "crates/kernels/";

/// `code` is `text` without comments and literals, with the same lines.
pub(super) fn check(path: &str, text: &str, code: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    if !text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!")) {
        found.push(Violation::new(path, 1, "the file does not start with a `//!` module doc"));
    }
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        let message = format!("{lines} lines, at most {LONGEST_FILE}: split the file by idea");
        found.push(Violation::new(path, LONGEST_FILE + 1, message));
    }
    for (index, line) in code.lines().enumerate() {
        found.extend(line_problems(path, line).map(|message| Violation::new(path, index + 1, message)));
    }
    found
}

/// What one line of code does that its file may not.
fn line_problems<'a>(path: &'a str, line: &'a str) -> impl Iterator<Item = String> + 'a {
    let prints = MAY_PRINT.iter().any(|folder| path.starts_with(folder)) || path.ends_with("build.rs");
    let printing = ["println", "print", "dbg"].into_iter().filter(move |name| !prints && calls(line, name));
    let is_unsafe = !path.starts_with(MAY_BE_UNSAFE) && contains_word(line, "unsafe");
    printing
        .map(|name| format!("`{name}!` in a library: return a value, or use `tracing`"))
        .chain(is_unsafe.then(|| format!("`unsafe` outside {MAY_BE_UNSAFE}")))
}

/// Whether the macro `name` is called on this line.
fn calls(line: &str, name: &str) -> bool {
    line.match_indices(name)
        .any(|(at, _)| is_word(line, at, name) && line[at + name.len()..].trim_start().starts_with('!'))
}

fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| is_word(line, at, word))
}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        check(path, text, &code::only(text)).into_iter().map(|v| (v.line, v.message)).collect()
    }

    #[test]
    fn a_plain_library_file_passes() {
        let text = "//! Doc.\n\n// println!(unsafe)\nfn f() { eprintln!(\"unsafe println!\") }\n";
        assert_eq!(found("crates/core/src/a.rs", text), []);
    }

    #[test]
    fn the_module_doc_comes_first() {
        assert_eq!(found("crates/core/src/a.rs", "use a;\n//! Late.\n")[0].0, 1);
        assert_eq!(found("crates/core/src/a.rs", "")[0].0, 1);
        assert_eq!(found("crates/core/src/a.rs", "\n//! Doc.\n"), []);
    }

    #[test]
    fn long_files_are_named_at_the_first_line_too_many() {
        let text = format!("//! Doc.\n{}", "\n".repeat(600));
        assert_eq!(found("crates/core/src/a.rs", &text)[0].0, 601);
        let text = format!("//! Doc.\n{}", "\n".repeat(599));
        assert_eq!(found("crates/core/src/a.rs", &text), []);
    }

    #[test]
    fn printing_is_for_programs() {
        let text = "//! Doc.\nfn f() { println !(\"a\"); dbg!(1); }\n";
        assert_eq!(found("crates/core/src/a.rs", text).len(), 2);
        assert_eq!(found("tests/tests/a.rs", text).len(), 2);
        assert_eq!(found("crates/cli/src/a.rs", text), []);
        assert_eq!(found("examples/quickstart/src/main.rs", text), []);
        assert_eq!(found("crates/nn/build.rs", text), []);
    }

    #[test]
    fn unsafe_is_for_kernels() {
        let text = "//! Doc.\n#![deny(unsafe_code)]\nfn f() { unsafe { g() } }\n";
        assert_eq!(found("crates/nn/src/a.rs", text).into_iter().map(|f| f.0).collect::<Vec<_>>(), [3]);
        assert_eq!(found("crates/kernels/src/a.rs", text), []);
    }
}
