//! Which crate may see which: the layers of the workspace, read from the `Cargo.toml`s.

use super::Violation;

/// Folder under `crates/`, what it may depend on, and what its tests may use besides.
const LAYERS: [(&str, &[&str], &[&str]); 15] = [
    ("core", &[], &[]),
    ("kernels", &[], &[]),
    ("nn/derive", &[], &[]),
    ("nn", &["core", "kernels", "nn-derive"], &[]),
    ("checkpoint", &["core"], &["nn"]),
    ("quant", &["core", "kernels", "nn"], &[]),
    ("distill", &["core", "kernels", "nn"], &[]),
    ("graph", &["core"], &[]),
    ("layer-reduce", &["core", "kernels", "nn"], &[]),
    ("prune", &["core", "kernels", "nn"], &[]),
    ("composer", &["checkpoint", "core", "distill", "kernels", "layer-reduce", "nn", "prune", "quant"], &[]),
    ("train", &["composer", "core", "distill", "kernels", "nn", "quant"], &[]),
    ("models", &["checkpoint", "core", "kernels", "nn"], &["layer-reduce"]),
    ("bench", &["composer", "core", "kernels", "models", "nn", "train"], &[]),
    (
        "cli",
        &[
            "checkpoint",
            "composer",
            "core",
            "distill",
            "graph",
            "kernels",
            "layer-reduce",
            "models",
            "nn",
            "train",
        ],
        &[],
    ),
];
const PREFIX: &str = "briquette-";

/// Edges to our own crates that the table above does not have.
pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    let Some(folder) = path.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml")) else {
        return Vec::new();
    };
    let Some((_, uses, tests)) = LAYERS.iter().find(|(name, ..)| *name == folder) else {
        let message = format!("crates/{folder} has no row in LAYERS of xtask/src/check/layers.rs");
        return vec![Violation::new(path, 1, message)];
    };
    let allowed = |edge: &Edge| uses.contains(&edge.to) || (edge.tests && tests.contains(&edge.to));
    let message = |edge: &Edge| format!("crates/{folder} may not depend on {PREFIX}{}", edge.to);
    let wrong = edges(text).into_iter().filter(|edge| !allowed(edge));
    wrong.map(|edge| Violation::new(path, edge.line, message(&edge))).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Edge<'a> {
    to: &'a str,
    line: usize,
    tests: bool,
}

/// Dependencies on our own crates: `name = ..` and `name.workspace = ..` lines of a dependency
/// section, and sections of their own such as `[dependencies.name]`.
fn edges(text: &str) -> Vec<Edge<'_>> {
    let mut found = Vec::new();
    let (mut inside, mut tests) = (false, false);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let mut name = None;
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            tests = section.contains("dev-dependencies");
            inside = section.ends_with("dependencies");
            name = section.split_once("dependencies.").map(|(_, name)| name);
        } else if inside {
            name = line.split(['=', '.', ' ']).next();
        }
        let name = name.map(|name| name.trim_matches('"'));
        let ours = name.and_then(|name| name.strip_prefix(PREFIX));
        found.extend(ours.map(|to| Edge { to, line: index + 1, tests }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(path, text).into_iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn allowed_edges_pass() {
        let text = "[dependencies]\nbriquette-core = { workspace = true }\nburn.workspace = true\n";
        assert_eq!(lines("crates/quant/Cargo.toml", text), NONE);
        assert_eq!(lines("tests/Cargo.toml", "[dependencies]\nbriquette-cli = \"1\"\n"), NONE);
    }

    #[test]
    fn core_and_kernels_see_no_crate_of_ours() {
        let text = "[package]\nname = \"briquette-core\"\n[dependencies]\nbriquette-nn.workspace = true\n";
        assert_eq!(lines("crates/core/Cargo.toml", text), [4]);
        let text = "[dependencies.briquette-core]\nworkspace = true\n";
        assert_eq!(lines("crates/kernels/Cargo.toml", text), [1]);
        let text = "[target.'cfg(unix)'.dependencies]\nbriquette-core = \"0.1\"\n";
        assert_eq!(lines("crates/kernels/Cargo.toml", text), [2]);
    }

    #[test]
    fn tests_may_use_more() {
        let text = "[dev-dependencies]\nbriquette-nn = { workspace = true }\n";
        assert_eq!(lines("crates/checkpoint/Cargo.toml", text), NONE);
        let text = "[dependencies]\nbriquette-nn = { workspace = true }\n";
        assert_eq!(lines("crates/checkpoint/Cargo.toml", text), [2]);
    }

    #[test]
    fn a_new_crate_needs_a_row() {
        assert_eq!(lines("crates/unheard-of/Cargo.toml", ""), [1]);
    }

    #[test]
    fn features_and_packages_are_not_edges() {
        let text = "[features]\nwgpu = [\"briquette-kernels/wgpu\"]\n[package]\nbriquette-x = 1\n";
        assert_eq!(edges(text), []);
    }
}
