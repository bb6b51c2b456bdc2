//! Groups as text.

use crate::names::{folded, layers};
use briquette_core::{Dependencies, DimensionGroup, Role};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The groups for people to read, and what stays and why; layers that differ in one number are told in one line.
pub fn describe(dependencies: &Dependencies) -> String {
    let mut text = String::new();
    for group in &dependencies.groups {
        describe_group(&mut text, group);
    }
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for fixed in &dependencies.fixed {
        reasons.entry(&fixed.why).or_default().push(format!("{} axis {}", fixed.name, fixed.axis));
    }
    if !reasons.is_empty() {
        text.push_str("stays, at least in part\n");
    }
    for (why, names) in reasons {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        _ = writeln!(text, "  {}\n    because {why}", folded(&names).join("\n  "));
    }
    text
}

fn describe_group(text: &mut String, group: &DimensionGroup) {
    let entries = group.members.iter().flat_map(|m| &m.units).map(Vec::len).max().unwrap_or(0);
    let each = if entries > 1 { format!(" of up to {entries} entries") } else { String::new() };
    _ = writeln!(text, "{}: {} units{each}", group.name, group.units);
    let parts =
        [("made by", Role::Produces), ("followed by", Role::Follows), ("consumed by", Role::Consumes)];
    for (label, role) in parts {
        line(text, label, &layers(group, role));
    }
    line(text, "averaged by", &group.averaged_by.iter().map(String::as_str).collect::<Vec<_>>());
}

fn line(text: &mut String, label: &str, names: &[&str]) {
    if !names.is_empty() {
        _ = writeln!(text, "  {label:<11} {}", folded(names).join(", "));
    }
}
