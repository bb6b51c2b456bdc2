//! A judge of dependencies: what is removed must not have mattered where its consumers were zeroed.

#![allow(dead_code, reason = "each test file uses a part")]

use briquette_core::{Dependencies, DimensionGroup, KeptUnits, Measure, ModelView, Role};
use briquette_graph::{Tracing, fitted, trace};
use burn::backend::Flex;
use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::{Distribution, TensorData};

/// A model whose forward pass takes its sizes from its parameters.
pub(crate) trait Net<B: Backend>: Module<B> {
    type Input: Clone;
    fn new(device: &B::Device) -> Self;
    fn input(device: &B::Device) -> Self::Input;
    fn run(&self, input: Self::Input) -> Tensor<B, 2>;
    /// Tells the layer at `path` over which entries to average.
    fn average_over(&mut self, path: &str, _kept: Tensor<B, 1>) {
        panic!("`{path}` does not average");
    }
}

/// A [`Net`] on any backend.
pub(crate) trait Family {
    type On<B: Backend>: Net<B>;
}

/// States that `$family` is `$net` on any backend.
#[macro_export]
macro_rules! family {
    ($family:ident, $net:ident) => {
        struct $family;
        impl common::Family for $family {
            type On<B: burn::prelude::Backend> = $net<B>;
        }
    };
}

pub(crate) fn dependencies<F: Family>() -> Dependencies {
    let device = Default::default();
    let model = F::On::<Tracing>::new(&device);
    let input = F::On::<Tracing>::input(&device);
    trace(&model, &Default::default(), input, |m, input| m.run(input)).unwrap().dependencies()
}

/// `[entries of the first unit]` of each member, with its role, and the number of units.
pub(crate) fn shape_of(group: &DimensionGroup) -> (usize, Vec<(&str, usize, Role, usize)>) {
    let count = |units: &Vec<Vec<usize>>| units.iter().map(Vec::len).max().unwrap_or(0);
    let members = group.members.iter().map(|m| (m.name.as_str(), m.axis, m.role, count(&m.units)));
    (group.units, members.collect())
}

/// Names and sizes of groups.
pub(crate) fn names(dependencies: &Dependencies) -> Vec<(&str, usize)> {
    dependencies.groups.iter().map(|g| (g.name.as_str(), g.units)).collect()
}

/// For every group alone and all together, with units chosen by several seeds: zeroing the consumers gives what
/// removing all members gives.
pub(crate) fn judge<F: Family>() -> Dependencies {
    let dependencies = dependencies::<F>();
    let device = Default::default();
    let model = F::On::<Flex>::new(&device).map(&mut Fill { path: Vec::new(), seed: 7 });
    let input = F::On::<Flex>::input(&device);
    let count = dependencies.groups.len();
    let choices =
        (0..count).map(|g| vec![g]).chain([(0..count).collect()]).filter(|c: &Vec<_>| !c.is_empty());
    for (seed, groups) in choices.enumerate() {
        for round in 0..3 {
            let gone = |g: usize| {
                let dropped = choose(dependencies.groups[g].units, (seed * 31 + round * 7 + g) as u64);
                (&dependencies.groups[g], dropped)
            };
            let gone: Vec<_> = groups.iter().map(|&g| gone(g)).collect();
            let shrunk = compare::<F>(&model, &input, &gone);
            costs_what_was_predicted::<F>(&dependencies, &gone, &shrunk);
        }
    }
    dependencies
}

type Gone<'a> = (&'a DimensionGroup, Vec<usize>);

fn compare<F: Family>(
    model: &F::On<Flex>,
    input: &<F::On<Flex> as Net<Flex>>::Input,
    gone: &[Gone<'_>],
) -> F::On<Flex> {
    let mut masked = apply::<F>(model, gone, false);
    for (group, _) in gone {
        for path in &group.averaged_by {
            masked.average_over(path, kept_entries(gone, path, group));
        }
    }
    let smaller = apply::<F>(model, gone, true);
    let (masked, shrunk) = (masked.run(input.clone()), smaller.run(input.clone()));
    let whole = model.run(input.clone());
    let names: Vec<_> = gone.iter().map(|(g, units)| (&g.name, units)).collect();
    let largest: f32 = whole.clone().abs().max().into_scalar();
    assert!(distance(&masked, &shrunk) < 1e-5 * largest.max(1.0), "{names:?}: {masked} {shrunk}");
    assert!(distance(&masked, &whole) > 1e-5, "{names:?} does not matter");
    smaller
}

/// A trace of the smaller model counts what the trace of the whole one says of these units.
fn costs_what_was_predicted<F: Family>(whole: &Dependencies, gone: &[Gone<'_>], smaller: &F::On<Flex>) {
    let device = Default::default();
    let model = fitted(F::On::<Tracing>::new(&device), &ModelView::of(smaller)).unwrap();
    let input = F::On::<Tracing>::input(&device);
    let now = trace(&model, &Default::default(), input, |m, input| m.run(input)).unwrap().dependencies();
    let (cost, now) = (whole.cost.as_ref().unwrap(), now.cost.unwrap());
    let kept = |(group, out): &Gone<'_>| KeptUnits {
        group: group.name.clone(),
        of: group.units,
        units: (0..group.units).filter(|unit| !out.contains(unit)).collect(),
    };
    let kept: Vec<KeptUnits> = gone.iter().map(kept).collect();
    for measure in [Measure::Flops, Measure::Parameters] {
        assert_eq!(cost.left(measure, &kept), now.whole(measure), "{measure} of {kept:?}");
    }
}

/// 1 for entries of the layer's scale that stay, 0 for those that go.
fn kept_entries(all: &[Gone<'_>], path: &str, group: &DimensionGroup) -> Tensor<Flex, 1> {
    let scale = |g: &DimensionGroup| {
        g.members.iter().position(|m| m.path.rsplit_once('.').is_some_and(|(layer, _)| layer == path))
    };
    let member = &group.members[scale(group).unwrap()];
    let len = member.units.iter().flatten().max().unwrap() + 1;
    let mut kept = vec![1.0f32; len];
    for (group, units) in all {
        let Some(at) = scale(group) else { continue };
        units.iter().flat_map(|&u| &group.members[at].units[u]).for_each(|&i| kept[i] = 0.0);
    }
    Tensor::from_floats(kept.as_slice(), &Default::default())
}

pub(crate) fn distance<const D: usize>(a: &Tensor<Flex, D>, b: &Tensor<Flex, D>) -> f32 {
    (a.clone() - b.clone()).abs().max().into_scalar()
}

fn choose(units: usize, seed: u64) -> Vec<usize> {
    let mut state = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let many = 1 + next() % (units - 1).max(1);
    let mut list: Vec<usize> = (0..units).collect();
    (0..units).for_each(|i| list.swap(i, next() % units));
    list.truncate(many.min(units - 1));
    list.sort_unstable();
    list
}

/// The model without the units (`shrink`), or with their consumers zeroed.
fn apply<F: Family>(model: &F::On<Flex>, gone: &[Gone<'_>], shrink: bool) -> F::On<Flex> {
    // Clones share running statistics; records do not.
    let copy = F::On::<Flex>::new(&Default::default()).load_record(model.clone().into_record());
    copy.map(&mut Remove { path: Vec::new(), gone, shrink })
}

struct Remove<'a> {
    path: Vec<String>,
    gone: &'a [Gone<'a>],
    shrink: bool,
}

impl<B: Backend> ModuleMapper<B> for Remove<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let path = self.path.join(".");
        let (id, mut tensor) = (param.id, param.val());
        for axis in 0..D {
            let members = self.gone.iter().flat_map(|(g, units)| g.members.iter().map(move |m| (m, units)));
            let mine = members.filter(|(m, _)| m.path == path && m.axis == axis);
            let mine = mine.filter(|(m, _)| self.shrink || m.role == Role::Consumes);
            let out: Vec<usize> =
                mine.flat_map(|(m, units)| units.iter().flat_map(|&u| m.units[u].clone())).collect();
            let size = tensor.dims()[axis];
            let device = tensor.device();
            if self.shrink {
                let kept: Vec<i64> = (0..size).filter(|i| !out.contains(i)).map(|i| i as i64).collect();
                let len = kept.len();
                let kept = Tensor::<B, 1, Int>::from_data(TensorData::new(kept, [len]), &device);
                tensor = tensor.select(axis, kept);
            } else {
                let mask: Vec<f32> = (0..size).map(|i| if out.contains(&i) { 0.0 } else { 1.0 }).collect();
                let mut shape = [1; D];
                shape[axis] = size;
                let mask = Tensor::<B, 1>::from_floats(mask.as_slice(), &device);
                tensor = tensor * mask.reshape(shape);
            }
        }
        Param::initialized(id, tensor)
    }
}

/// Random parameters; variances are positive.
pub(crate) struct Fill {
    pub path: Vec<String>,
    pub seed: u64,
}

impl<B: Backend> ModuleMapper<B> for Fill {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor) = (param.id, param.val());
        let variance = self.path.last().is_some_and(|name| name == "running_var");
        let range = if variance { Distribution::Uniform(0.5, 2.0) } else { Distribution::Normal(0.1, 0.4) };
        self.seed += 1;
        B::seed(&tensor.device(), self.seed);
        Param::initialized(id, tensor.random_like(range))
    }
}
