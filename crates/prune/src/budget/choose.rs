//! Which units stay within a budget.

use crate::selection::kept_count;
use briquette_core::{Cost, CostTerm, DimensionGroup, Measure};
use std::collections::BTreeMap;

/// A group whose units compete with those of others.
#[derive(Debug, Clone)]
pub struct Competing {
    /// Place of the group in [`Cost::groups`].
    pub group: usize,
    /// What units are worth. Those go first that are worth least for what they cost.
    pub worth: Worth,
    /// What is lost with the first unit that goes, the second and each further one, where that was measured. Units then go
    /// in ascending order of their worth alone, as they did when it was measured.
    pub losses: Option<Vec<f64>>,
    /// So many go at a time, after the number that is left is a multiple of it.
    pub step: usize,
    /// Parts that are not to become too small: which units lie in them, and how many of those stay at least.
    pub floors: Vec<(Vec<bool>, usize)>,
}

/// What the units of a group are worth.
#[derive(Debug, Clone)]
pub enum Worth {
    /// What is lost with each, comparable with units of other groups.
    Loss(Vec<f64>),
    /// Shares of importance.
    Layers {
        /// The importance of each in every layer that ranks the group, at least 0, on a scale of the layer's own.
        layers: Vec<Vec<f64>>,
        /// How many layers read the units: what all units together are worth.
        readers: usize,
    },
}

impl Worth {
    /// What is lost with each unit if it goes alone.
    fn at_first(&self, units: usize) -> Vec<f64> {
        match self {
            Self::Loss(losses) => losses.clone(),
            Self::Layers { layers, readers } => {
                let sums: Vec<f64> = layers.iter().map(|layer| layer.iter().sum()).collect();
                (0..units).map(|unit| *readers as f64 * share(layers, &sums, unit)).collect()
            }
        }
    }

    /// What is lost with each unit where they go in this order: in each layer the share of what is left by then.
    fn in_turn(&self, order: &[usize]) -> Vec<f64> {
        match self {
            Self::Loss(losses) => order.iter().map(|unit| losses[*unit]).collect(),
            Self::Layers { layers, readers } => {
                // Summed from the end, so that rounding cannot leave less than is to come.
                let mut left = vec![0.0; layers.len()];
                let mut losses = vec![0.0; order.len()];
                for (at, unit) in order.iter().enumerate().rev() {
                    left.iter_mut().zip(layers).for_each(|(left, layer)| *left += layer[*unit]);
                    losses[at] = *readers as f64 * share(layers, &left, *unit);
                }
                losses
            }
        }
    }
}

/// The mean over layers of a unit's share of these sums.
fn share(layers: &[Vec<f64>], sums: &[f64], unit: usize) -> f64 {
    let share = |(layer, sum): (&Vec<f64>, &f64)| if *sum > 0.0 { layer[unit] / sum } else { 0.0 };
    layers.iter().zip(sums).map(share).sum::<f64>() / layers.len().max(1) as f64
}

impl Competing {
    /// The floors of a group of which every axis of every parameter keeps a share of `1 - max_sparsity`, and something.
    /// A layer of a residual stream may hold some of the group's units only.
    pub fn floors(group: &DimensionGroup, max_sparsity: f64) -> Vec<(Vec<bool>, usize)> {
        let mut parts = vec![vec![true; group.units]];
        for member in &group.members {
            let part: Vec<bool> = member.units.iter().map(|unit| !unit.is_empty()).collect();
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        let floor = |part: Vec<bool>| {
            let there = part.iter().filter(|there| **there).count();
            (part, kept_count(1.0 - max_sparsity, there).max(1))
        };
        parts.into_iter().map(floor).collect()
    }
}

/// Units that go at once.
#[derive(Debug)]
struct Bundle {
    units: Vec<usize>,
    ratio: f64,
}

/// For each of `groups` which units stay, so that the model costs no more than `most`, or as little as the floors
/// allow. Groups of `cost` that are not among them stay whole.
///
/// In each group units go in ascending order of worth by what the whole model saves without them, of equal ones the later
/// first. Of the groups the one goes on that loses least for what it saves, of equal ones the last. What went last comes back, as far as the budget has room for it.
pub fn within(cost: &Cost, measure: Measure, groups: &[Competing], most: f64) -> Vec<Vec<bool>> {
    let mut tally = Tally::new(cost, measure);
    let bundles: Vec<Vec<Bundle>> = groups.iter().map(|group| bundles(group, &tally)).collect();
    let mut choice = Choice::new(cost, groups);
    let mut next = vec![0; groups.len()];
    let mut gone: Vec<(usize, usize)> = Vec::new();
    while tally.cost() > most {
        let open = (0..groups.len()).filter(|g| next[*g] < bundles[*g].len());
        let ratio = |g: &usize| bundles[*g][next[*g]].ratio;
        // `min_by` takes the first of equals; the last group is to lose first.
        let Some(g) = open.rev().min_by(|a, b| ratio(a).total_cmp(&ratio(b))) else { break };
        let bundle = &bundles[g][next[g]];
        if choice.allows(g, &bundle.units) {
            choice.set(g, &bundle.units, false);
            tally.remove(groups[g].group, &bundle.units);
            gone.push((g, next[g]));
            next[g] += 1;
        } else if groups[g].step == 1 {
            next[g] += 1;
        } else {
            next[g] = bundles[g].len();
        }
    }
    let mut closed = vec![false; groups.len()];
    for (g, at) in gone.into_iter().rev() {
        let units = &bundles[g][at].units;
        // Bundles of one group come back in the reverse order.
        if closed[g] || !tally.restore(groups[g].group, units, most) {
            closed[g] = true;
        } else {
            choice.set(g, units, true);
        }
    }
    choice.kept
}

/// The least that the model can cost, whatever the units are worth: those that save little go first, so that the floors
/// are reached with as much left as can be.
pub fn lowest(cost: &Cost, measure: Measure, groups: &[Competing]) -> f64 {
    let tally = Tally::new(cost, measure);
    let dear = |group: &Competing| {
        let squared = |unit| (tally.saving(group.group, &[unit]) as f64).powi(2);
        let worth = Worth::Loss((0..cost.groups[group.group].units).map(squared).collect());
        Competing { worth, losses: None, ..group.clone() }
    };
    let groups: Vec<Competing> = groups.iter().map(dear).collect();
    let kept = within(cost, measure, &groups, 0.0);
    let at = |group: usize| groups.iter().position(|g| g.group == group);
    cost.with(measure, &|group, unit| at(group).is_none_or(|g| kept[g][unit]))
}

/// The units of a group in the order in which they go.
fn bundles(group: &Competing, tally: &Tally<'_>) -> Vec<Bundle> {
    let units = tally.uses[group.group].len();
    let saving: Vec<f64> = (0..units).map(|unit| tally.saving(group.group, &[unit]) as f64).collect();
    let worth = group.worth.at_first(units);
    let ratio = |unit: &usize| match &group.losses {
        Some(_) => worth[*unit],
        None => worth[*unit] / saving[*unit],
    };
    // What saves nothing has no reason to go.
    let mut order: Vec<usize> = (0..saving.len()).filter(|unit| saving[*unit] > 0.0).collect();
    order.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)).then(b.cmp(a)));
    let losses = group.losses.clone().unwrap_or_else(|| group.worth.in_turn(&order));
    let first = match order.len() % group.step.max(1) {
        0 => group.step.max(1),
        rest => rest,
    };
    let mut bundles = Vec::new();
    let mut from = 0;
    while from < order.len() {
        let to = if from == 0 { first } else { from + group.step.max(1) }.min(order.len());
        let units = order[from..to].to_vec();
        let lost: f64 = losses[from..to].iter().sum();
        let saved: f64 = units.iter().map(|unit| saving[*unit]).sum();
        bundles.push(Bundle { units, ratio: lost / saved });
        from = to;
    }
    bundles
}

/// What stays so far.
struct Choice<'a> {
    groups: &'a [Competing],
    kept: Vec<Vec<bool>>,
    /// Units that are left of each part with a floor.
    left: Vec<Vec<usize>>,
}

impl<'a> Choice<'a> {
    fn new(cost: &Cost, groups: &'a [Competing]) -> Self {
        let there = |part: &(Vec<bool>, usize)| part.0.iter().filter(|there| **there).count();
        Self {
            groups,
            kept: groups.iter().map(|group| vec![true; cost.groups[group.group].units]).collect(),
            left: groups.iter().map(|group| group.floors.iter().map(there).collect()).collect(),
        }
    }

    /// Whether every part keeps enough without these units.
    fn allows(&self, g: usize, units: &[usize]) -> bool {
        let parts = self.groups[g].floors.iter().zip(&self.left[g]);
        parts.into_iter().all(|((part, least), left)| {
            let goes = units.iter().filter(|unit| part[**unit]).count();
            goes == 0 || left.saturating_sub(goes) >= *least
        })
    }

    fn set(&mut self, g: usize, units: &[usize], stay: bool) {
        units.iter().for_each(|unit| self.kept[g][*unit] = stay);
        for ((part, _), left) in self.groups[g].floors.iter().zip(&mut self.left[g]) {
            let count = units.iter().filter(|unit| part[**unit]).count();
            *left = if stay { *left + count } else { *left - count };
        }
    }
}

/// Where a unit adds to a length.
#[derive(Debug, Clone, Copy)]
struct Use {
    term: usize,
    length: usize,
    entries: u64,
}

/// A cost that is followed while units go and come back.
struct Tally<'a> {
    terms: &'a [CostTerm],
    factor: f64,
    /// Of each term the lengths of now.
    lengths: Vec<Vec<u64>>,
    sum: u64,
    /// By group and unit.
    uses: Vec<Vec<Vec<Use>>>,
}

impl<'a> Tally<'a> {
    fn new(cost: &'a Cost, measure: Measure) -> Self {
        let (terms, factor) = cost.terms(measure);
        let mut uses: Vec<Vec<Vec<Use>>> = cost.groups.iter().map(|g| vec![Vec::new(); g.units]).collect();
        let parts = terms.iter().enumerate().flat_map(|(at, term)| {
            let lengths = term.lengths.iter().enumerate();
            lengths.flat_map(move |(length, l)| l.parts.iter().map(move |part| (at, length, part)))
        });
        for (term, length, part) in parts {
            for (unit, &entries) in part.entries.iter().enumerate().filter(|(_, n)| **n > 0) {
                uses[part.group][unit].push(Use { term, length, entries });
            }
        }
        let all = |term: &CostTerm| term.lengths.iter().map(|length| length.of(&|_, _| true)).collect();
        let lengths: Vec<Vec<u64>> = terms.iter().map(all).collect();
        let sum = terms.iter().zip(&lengths).map(|(t, l)| product(t, l)).sum();
        Self { terms, factor, lengths, sum, uses }
    }

    fn cost(&self) -> f64 {
        self.sum as f64 * self.factor
    }

    /// What each term that has to do with these units loses of its lengths.
    fn changes(&self, group: usize, units: &[usize]) -> BTreeMap<usize, Vec<Use>> {
        let mut changes: BTreeMap<usize, Vec<Use>> = BTreeMap::new();
        for one in units.iter().flat_map(|unit| &self.uses[group][*unit]) {
            changes.entry(one.term).or_default().push(*one);
        }
        changes
    }

    /// What goes with these units.
    fn saving(&self, group: usize, units: &[usize]) -> u64 {
        let changes = self.changes(group, units);
        changes.iter().map(|(term, uses)| self.product(*term) - self.changed(*term, uses, true)).sum()
    }

    fn product(&self, term: usize) -> u64 {
        product(&self.terms[term], &self.lengths[term])
    }

    /// A term's product once these units are gone, or back.
    fn changed(&self, term: usize, uses: &[Use], gone: bool) -> u64 {
        let mut lengths = self.lengths[term].clone();
        change(&mut lengths, uses, gone);
        product(&self.terms[term], &lengths)
    }

    fn remove(&mut self, group: usize, units: &[usize]) {
        for (term, uses) in self.changes(group, units) {
            self.sum -= self.product(term) - self.changed(term, &uses, true);
            change(&mut self.lengths[term], &uses, true);
        }
    }

    /// Lets units come back where the cost stays within `most`; whether it does.
    fn restore(&mut self, group: usize, units: &[usize], most: f64) -> bool {
        let changes = self.changes(group, units);
        let more = |(term, uses): (&usize, &Vec<Use>)| self.changed(*term, uses, false) - self.product(*term);
        let sum = self.sum + changes.iter().map(more).sum::<u64>();
        let fits = sum as f64 * self.factor <= most;
        if fits {
            changes.iter().for_each(|(term, uses)| change(&mut self.lengths[*term], uses, false));
            self.sum = sum;
        }
        fits
    }
}

fn product(term: &CostTerm, lengths: &[u64]) -> u64 {
    lengths.iter().fold(term.factor, |product, length| product.saturating_mul(*length))
}

fn change(lengths: &mut [u64], uses: &[Use], gone: bool) {
    for one in uses {
        let length = &mut lengths[one.length];
        *length = if gone { *length - one.entries } else { *length + one.entries };
    }
}
