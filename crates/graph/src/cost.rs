//! What a traced model costs: its sums of products and its parameters, by the units that their axes hold.

use crate::axes::Axes;
use crate::labels::Label;
use crate::walk::Walk;
use briquette_core::{Cost, CostGroup, CostTerm, DimensionGroup, Length, LengthPart};
use std::collections::BTreeMap;

/// A sum of products that an operation computes.
#[derive(Debug)]
pub(crate) struct Products {
    /// Place of the operation.
    pub(crate) at: usize,
    /// A parameter of the layer that computes it, if one does.
    pub(crate) layer: Option<usize>,
    /// The axes of the result and the one that is summed over: as many multiplications as these have entries, ...
    pub(crate) axes: Axes,
    /// ... times this.
    pub(crate) repeats: usize,
}

/// Which unit of which group a class of labels is.
pub(crate) type UnitOf = BTreeMap<u32, (usize, usize)>;

/// The cost of the trace that was walked through, with `groups` whose units are the classes of `units`.
pub(crate) fn cost(walk: &mut Walk<'_>, groups: &[DimensionGroup], units: &UnitOf) -> Cost {
    let named = groups.iter().map(|g| CostGroup { name: g.name.clone(), units: g.units }).collect();
    let products = std::mem::take(&mut walk.products);
    let multiplications = products.iter().map(|products| term(walk, products, groups, units)).collect();
    let parameters = (0..walk.firsts.len()).map(|number| parameter(walk, number, groups, units)).collect();
    Cost { groups: named, examples: 1, multiplications, parameters }
}

fn term(walk: &mut Walk<'_>, products: &Products, groups: &[DimensionGroup], units: &UnitOf) -> CostTerm {
    let Products { at, layer, axes, repeats } = products;
    let plain = (0..axes.shape.len()).filter(|axis| axes.block_at(*axis).is_none());
    let mut factor = plain.map(|axis| axes.shape[axis]).product::<usize>() as u64 * *repeats as u64;
    let mut lengths = Vec::new();
    for block in &axes.blocks {
        let length = length(walk, &block.labels, groups, units);
        match length.parts.is_empty() {
            true => factor *= length.fixed,
            false => lengths.push(length),
        }
    }
    let name = match layer {
        Some(number) => walk.trace.parameters[*number].places.first().map(|place| {
            let name = &walk.trace.view.parameters[*place].name;
            name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer).to_string()
        }),
        None => None,
    };
    CostTerm { name: name.unwrap_or_else(|| walk.trace.operation(*at)), factor, lengths }
}

fn parameter(walk: &mut Walk<'_>, number: usize, groups: &[DimensionGroup], units: &UnitOf) -> CostTerm {
    let parameter = &walk.trace.parameters[number];
    let name = parameter.places.first().map(|place| walk.trace.view.parameters[*place].name.clone());
    let (mut factor, mut lengths) = (1, Vec::new());
    for (axis, size) in parameter.shape.iter().enumerate() {
        let Some(first) = walk.firsts[number][axis] else { continue };
        let labels: Vec<Label> = (first..first + *size as u32).map(Label::Of).collect();
        let length = length(walk, &labels, groups, units);
        match length.parts.is_empty() {
            true => factor *= length.fixed,
            false => lengths.push(length),
        }
    }
    CostTerm { name: name.unwrap_or_default(), factor, lengths }
}

/// How many entries with these labels there are, by the units that they go with.
fn length(walk: &mut Walk<'_>, labels: &[Label], groups: &[DimensionGroup], units: &UnitOf) -> Length {
    let (mut fixed, mut parts) = (0, BTreeMap::new());
    for label in labels {
        let unit = match label {
            Label::Of(id) => units.get(&walk.labels.class(*id)),
            Label::Free | Label::Fixed(_) => None,
        };
        match unit {
            Some(&(group, unit)) => {
                parts.entry(group).or_insert_with(|| vec![0; groups[group].units])[unit] += 1;
            }
            None => fixed += 1,
        }
    }
    Length { fixed, parts: parts.into_iter().map(|(group, entries)| LengthPart { group, entries }).collect() }
}
