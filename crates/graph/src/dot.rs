//! Groups as a drawing.

use crate::names::layers;
use briquette_core::{Dependencies, Role};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The groups as a graph in Graphviz' language: `dot -Tsvg` draws it.
///
/// Layers are boxes and groups ellipses with their number of units. An arrow into a group comes from what makes its
/// values, one out of it goes to what consumes them; a dotted line leads to normalizations.
pub fn dot(dependencies: &Dependencies) -> String {
    let mut text = String::from("digraph dependencies {\n  rankdir=LR;\n  node [shape=box];\n");
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut edges = String::new();
    for (number, group) in dependencies.groups.iter().enumerate() {
        let label = quoted(&format!("{} units", group.units));
        _ = writeln!(text, "  g{number} [shape=ellipse, label={label}];");
        let mut layer = |name: &str| {
            let next = numbers.len();
            *numbers.entry(name.to_string()).or_insert(next)
        };
        for name in layers(group, Role::Produces) {
            _ = writeln!(edges, "  l{} -> g{number};", layer(name));
        }
        for name in layers(group, Role::Consumes) {
            _ = writeln!(edges, "  g{number} -> l{};", layer(name));
        }
        for name in layers(group, Role::Follows) {
            _ = writeln!(edges, "  g{number} -> l{} [style=dotted, dir=none];", layer(name));
        }
    }
    let mut names: Vec<(&String, &usize)> = numbers.iter().collect();
    names.sort_by_key(|(_, number)| **number);
    for (name, number) in names {
        _ = writeln!(text, "  l{number} [label={}];", quoted(name));
    }
    text + &edges + "}\n"
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
