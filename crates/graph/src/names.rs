//! Names of layers, many of them at once.

use briquette_core::{DimensionGroup, Member, Role};

/// A parameter's layer: its name without its last part.
pub(crate) fn layer(member: &Member) -> &str {
    member.name.rsplit_once('.').map_or(member.name.as_str(), |(layer, _)| layer)
}

/// Layers that have a parameter with this role, each once, in order.
pub(crate) fn layers(group: &DimensionGroup, role: Role) -> Vec<&str> {
    let mut list: Vec<&str> = Vec::new();
    for name in group.with_role(role).map(layer) {
        if !list.contains(&name) {
            list.push(name);
        }
    }
    list
}

/// Names that differ in one number only as one: `layer.0-5.dense`, `layer.0,2.dense`.
pub(crate) fn folded(names: &[&str]) -> Vec<String> {
    let mut patterns: Vec<(Vec<&str>, usize, Vec<usize>)> = Vec::new();
    for name in names {
        let parts: Vec<&str> = name.split('.').collect();
        let number = parts.iter().position(|p| p.parse::<usize>().is_ok());
        let value = number.and_then(|at| parts[at].parse().ok());
        let alike = |(other, at, _): &&mut (Vec<&str>, usize, Vec<usize>)| {
            Some(*at) == number
                && other.len() == parts.len()
                && (0..parts.len()).all(|i| i == *at || other[i] == parts[i])
        };
        match (patterns.iter_mut().find(alike), value) {
            (Some((.., numbers)), Some(value)) => numbers.push(value),
            (_, value) => {
                let at = number.unwrap_or(parts.len());
                patterns.push((parts, at, value.into_iter().collect()));
            }
        }
    }
    let text = |(parts, at, numbers): &(Vec<&str>, usize, Vec<usize>)| {
        let part = |(i, part): (usize, &&str)| if i == *at { ranges(numbers) } else { part.to_string() };
        parts.iter().enumerate().map(part).collect::<Vec<_>>().join(".")
    };
    patterns.iter().map(text).collect()
}

/// `0-2,5` for 0, 1, 2, 5.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == number => *end = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |&(start, end): &(usize, usize)| {
        if start == end { start.to_string() } else { format!("{start}-{end}") }
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_one_number_are_folded() {
        let names = ["a.0.b", "a.0.c", "a.1.b", "a.2.b", "a.4.b", "d", "a.1.c.0"];
        assert_eq!(folded(&names), ["a.0-2,4.b", "a.0.c", "d", "a.1.c.0"]);
    }
}
