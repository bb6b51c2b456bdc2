//! Words that may not stand in any file: notes left undone, paths of one machine, hosts.

use super::Violation;

/// Forbidden text and why. Written in two halves, so that this file passes its own rule.
const FORBIDDEN: [(&str, &str); 8] = [
    (concat!("TO", "DO"), "finish it, or leave it out"),
    (concat!("FIX", "ME"), "fix it, or leave it out"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("crates", ".io"), "a package host"),
    (concat!("pypi", ".org"), "a package host"),
    (concat!("pythonhosted", ".org"), "a package host"),
    (concat!("artifact", "ory"), "a package host"),
];
/// Written by tools or by others, not by us.
const EXEMPT: [&str; 3] = ["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"];

/// Every forbidden word of a file.
pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    if EXEMPT.contains(&path) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (word, why) in FORBIDDEN {
            if contains(line, word) {
                found.push(Violation::new(path, index + 1, format!("`{word}`: {why}")));
            }
        }
    }
    found
}

/// Whether `word` is in `line` with nothing of a longer word around it.
fn contains(line: &str, word: &str) -> bool {
    let joins = |c: Option<char>, edge: Option<char>| {
        edge.is_some_and(char::is_alphanumeric) && c.is_some_and(|c| c.is_alphanumeric() || c == '_')
    };
    line.match_indices(word).any(|(at, _)| {
        let before = joins(line[..at].chars().next_back(), word.chars().next());
        let after = joins(line[at + word.len()..].chars().next(), word.chars().next_back());
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_and_paths_are_found_with_their_line() {
        let text = format!("fine\n// {} later\nsee {}x\n", FORBIDDEN[0].0, FORBIDDEN[2].0);
        let found: Vec<usize> = check("a.rs", &text).into_iter().map(|v| v.line).collect();
        assert_eq!(found, [2, 3]);
    }

    #[test]
    fn parts_of_longer_words_pass() {
        let text = format!("mastodon MY{}X home{}", FORBIDDEN[0].0, "/working");
        assert_eq!(check("a.rs", &text), []);
    }

    #[test]
    fn lock_file_and_licences_are_exempt() {
        assert_eq!(check("Cargo.lock", FORBIDDEN[4].0), []);
        assert_eq!(check("README.md", FORBIDDEN[4].0).len(), 1);
    }
}
