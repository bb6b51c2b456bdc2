//! What a plan says of the model's cost.

use super::Plan;
use briquette_core::{Cost, Measure};
use burn::prelude::*;
use serde_json::{Value, json};
use std::fmt;

impl<B: Backend> Plan<B> {
    /// What the model costs before anything is removed, where it was traced.
    pub fn cost(&self) -> Option<&Cost> {
        self.model.dependencies.as_ref()?.cost.as_ref()
    }
}

pub(super) fn to_json(cost: &Cost) -> Value {
    let groups = cost.groups.iter().enumerate().map(|(at, group)| {
        json!({"group": group.name, "units": group.units, "flops": cost.accounted(Measure::Flops, at),
               "parameters": cost.accounted(Measure::Parameters, at)})
    });
    json!({"flops": cost.whole(Measure::Flops), "parameters": cost.whole(Measure::Parameters),
           "groups": groups.collect::<Vec<_>>()})
}

/// A line for the model and one for each group.
pub(super) fn write(f: &mut fmt::Formatter<'_>, cost: &Cost) -> fmt::Result {
    let [flops, parameters] = [Measure::Flops, Measure::Parameters].map(|m| cost.whole(m));
    writeln!(
        f,
        "{} FLOPs an example, {} parameters; of them with units of",
        short(flops),
        short(parameters)
    )?;
    let width = cost.groups.iter().map(|g| g.name.len()).max().unwrap_or(0);
    for (at, group) in cost.groups.iter().enumerate() {
        let share = |measure, whole: f64| 100.0 * cost.accounted(measure, at) / whole.max(1.0);
        let [flops, parameters] = [share(Measure::Flops, flops), share(Measure::Parameters, parameters)]
            .map(|s| format!("{s:.1} %"));
        writeln!(f, "  {:width$}  {:>5} units  {flops:>7}  {parameters:>7}", group.name, group.units)?;
    }
    Ok(())
}

/// `40.6 M` for 40551040.
fn short(number: f64) -> String {
    let steps = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    let step = steps.iter().find(|(size, _)| number >= *size);
    step.map_or_else(|| format!("{number:.0}"), |(size, word)| format!("{:.1}{word}", number / size))
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_are_short() {
        assert_eq!([81_102_080.0, 999.0, 1500.0, 2.5e9].map(short), ["81.1 M", "999", "1.5 k", "2.5 G"]);
    }
}
