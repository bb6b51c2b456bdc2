//! The state of going through a trace: what is known of every tensor, and what parameters were seen to do.

use crate::axes::{Axes, Block, Plain};
use crate::cost::Products;
use crate::join::{Operand, join};
use crate::labels::{Label, Labels};
use crate::trace::{Trace, TracedParameter};
use crate::why::Why;
use briquette_core::Role;
use burn_ir::{TensorId, TensorIr};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Axes of parameters.
pub(crate) type Sources = BTreeSet<(usize, usize)>;

/// What is known of one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) axes: Axes,
    /// For a tensor that is made of parameters and constants only, which axes of parameters run along each of its axes.
    /// `None` for what depends on the model's input: an activation.
    pub(crate) sources: Option<Vec<Sources>>,
    /// Whether an entry is zero wherever its parameters are, so that zeroing them removes it from sums.
    pub(crate) zeroes: bool,
    /// A parameter of the layer whose sum of products this is, until something else is done with it: what the layer
    /// adds then is its bias.
    pub(crate) made_by: Option<usize>,
    /// Averages that it depends on and that no normalization's scale has followed yet.
    pub(crate) averages: BTreeSet<usize>,
}

impl Value {
    pub(crate) fn activation(axes: Axes) -> Self {
        Self { axes, sources: None, zeroes: false, made_by: None, averages: BTreeSet::new() }
    }

    pub(crate) fn constant(axes: Axes, zeroes: bool) -> Self {
        let sources = Some(vec![Sources::new(); axes.shape.len()]);
        Self { axes, sources, zeroes, made_by: None, averages: BTreeSet::new() }
    }

    /// The same entries under other axes; `lineage` tells for each of them the axes it came from.
    pub(crate) fn viewed(&self, axes: Axes, lineage: &[Vec<usize>]) -> Self {
        let of = |sources: &Vec<Sources>| {
            let union = |from: &Vec<usize>| from.iter().flat_map(|&a| sources[a].clone()).collect();
            lineage.iter().map(union).collect()
        };
        Self { axes, sources: self.sources.as_ref().map(of), ..self.clone() }
    }

    /// The axes of parameters that run along an axis.
    pub(crate) fn sources_along(&self, axis: usize) -> Option<&Sources> {
        self.sources.as_ref()?.get(axis).filter(|sources| !sources.is_empty())
    }
}

/// An average over an axis whose entries can be removed.
#[derive(Debug)]
pub(crate) struct Average {
    /// The entries.
    pub(crate) labels: Vec<Label>,
    /// A scale or bias, along the same axis, of the layer that averages.
    pub(crate) layer: Option<usize>,
    at: usize,
}

/// Goes through a trace.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) labels: Labels,
    /// First label of each axis of each parameter; `None` for axes of one entry.
    pub(crate) firsts: Vec<Vec<Option<u32>>>,
    /// What each axis of a parameter was seen to do.
    pub(crate) roles: BTreeMap<(usize, usize), BTreeSet<Role>>,
    /// Parameters that an operation read.
    pub(crate) used: BTreeSet<usize>,
    pub(crate) averages: Vec<Average>,
    /// Sums of products, in the order of the operations.
    pub(crate) products: Vec<Products>,
    /// Blocks of several axes that occurred, with the axes' sizes.
    pub(crate) grids: Vec<(Vec<usize>, Vec<Label>)>,
    /// Place of the operation that is being looked at.
    pub(crate) at: usize,
    values: HashMap<TensorId, Value>,
    parameters: HashMap<TensorId, usize>,
}

impl<'a> Walk<'a> {
    /// Goes through the whole trace.
    pub(crate) fn through(trace: &'a Trace) -> Self {
        let mut walk = Self {
            trace,
            labels: Labels::default(),
            firsts: Vec::new(),
            roles: BTreeMap::new(),
            used: BTreeSet::new(),
            averages: Vec::new(),
            products: Vec::new(),
            grids: Vec::new(),
            at: 0,
            values: HashMap::new(),
            parameters: HashMap::new(),
        };
        trace.parameters.iter().for_each(|p| walk.parameter(p));
        for (id, data) in &trace.recording.constants {
            let constant = Value::constant(Axes::fixed(&data.shape, Why::Data), false);
            walk.values.insert(*id, constant);
        }
        for (at, op) in trace.recording.ops.iter().enumerate() {
            walk.at = at;
            walk.apply(op);
        }
        for output in &trace.outputs {
            let value = walk.value(output);
            value.axes.freeze(Why::Output, &mut walk.labels);
            walk.unfollowed(&value.averages);
        }
        walk
    }

    fn parameter(&mut self, parameter: &TracedParameter) {
        let number = self.firsts.len();
        let shape = &parameter.shape;
        let mut first = |&size: &usize| (size > 1).then(|| self.labels.fresh(size));
        let ids: Vec<_> = shape.iter().map(&mut first).collect();
        self.firsts.push(ids.iter().map(|ids| ids.as_ref().map(|ids| ids.start)).collect());
        let line = |ids: &Option<std::ops::Range<u32>>| Some(ids.clone()?.map(Label::Of).collect());
        let value = Value {
            axes: Axes::labelled(shape, ids.iter().map(line).collect()),
            sources: Some((0..shape.len()).map(|axis| Sources::from([(number, axis)])).collect()),
            zeroes: true,
            made_by: None,
            averages: BTreeSet::new(),
        };
        for &id in &parameter.tensors {
            self.values.insert(id, value.clone());
            self.parameters.insert(id, number);
        }
    }

    /// What is known of a tensor. What was there before the pass, and is no parameter, is an input.
    pub(crate) fn value(&mut self, tensor: &TensorIr) -> Value {
        self.used.extend(self.parameters.get(&tensor.id));
        let input = || Value::activation(Axes::fixed(&tensor.shape, Why::Data));
        self.values.get(&tensor.id).cloned().unwrap_or_else(input)
    }

    /// States what is known of an operation's result.
    pub(crate) fn put(&mut self, tensor: &TensorIr, mut value: Value) {
        value.axes.tidy(&mut self.labels);
        debug_assert_eq!(value.axes.shape, tensor.shape.to_vec());
        for block in value.axes.blocks.iter().filter(|b| b.axes.len() > 1) {
            self.grids.push((value.axes.sizes(block), block.labels.clone()));
        }
        self.values.insert(tensor.id, value);
    }

    /// The entries of a constant of whole numbers that came from the host.
    pub(crate) fn known_indices(&self, tensor: &TensorIr) -> Option<Vec<usize>> {
        let data = self.trace.recording.constants.get(&tensor.id)?;
        data.iter::<i64>().map(|i| usize::try_from(i).ok()).collect()
    }

    /// States what axes of parameters do.
    pub(crate) fn role(&mut self, sources: &Sources, role: Role) {
        for &source in sources {
            self.roles.entry(source).or_default().insert(role);
        }
    }

    /// The axes of what combines these entry by entry; ranks may differ, as long as the last axes fit.
    pub(crate) fn combine(&mut self, shape: &[usize], values: &[Value]) -> Axes {
        let operand = |value: &Value| {
            let more = shape.len().saturating_sub(value.axes.shape.len());
            let to = (0..value.axes.shape.len()).map(|axis| Some(axis + more)).collect();
            Operand { axes: value.axes.clone(), to }
        };
        let operands = values.iter().map(operand).collect();
        join(&mut self.labels, shape, operands, Why::Broadcast(self.at))
    }

    /// A new average over these entries.
    pub(crate) fn average(&mut self, labels: &[Label]) -> usize {
        self.averages.push(Average { labels: labels.to_vec(), layer: None, at: self.at });
        self.averages.len() - 1
    }

    /// States that a parameter is applied along an axis with these labels; averages over the same are its layer's.
    pub(crate) fn followed(&mut self, averages: &mut BTreeSet<usize>, labels: &[Label], parameter: usize) {
        let along = self.classes(labels);
        for number in averages.clone() {
            let over = self.averages[number].labels.clone();
            if self.classes(&over) == along {
                self.averages[number].layer.get_or_insert(parameter);
                averages.remove(&number);
            }
        }
    }

    /// States that no normalization's scale followed these averages.
    pub(crate) fn unfollowed(&mut self, averages: &BTreeSet<usize>) {
        for &number in averages {
            let Average { labels, at, .. } = &self.averages[number];
            labels.iter().for_each(|&label| self.labels.freeze(label, Why::Average(*at)));
        }
    }

    /// The classes that these labels belong to.
    pub(crate) fn classes(&mut self, labels: &[Label]) -> BTreeSet<u32> {
        let class = |label: &Label| match label {
            Label::Of(id) => Some(self.labels.class(*id)),
            _ => None,
        };
        labels.iter().filter_map(class).collect()
    }

    /// Joins labels until every block of several axes loses whole slices along one of them whatever class goes: the
    /// outermost, where what was seen leaves it open.
    pub(crate) fn square(&mut self) {
        loop {
            let mut changed = false;
            for (sizes, labels) in self.grids.clone() {
                changed |= self.square_one(&sizes, labels);
            }
            if !changed {
                return;
            }
        }
    }

    fn square_one(&mut self, sizes: &[usize], labels: Vec<Label>) -> bool {
        let mut axes =
            Axes { shape: sizes.to_vec(), plain: vec![Plain::Free; sizes.len()], blocks: Vec::new() };
        // Entries that stay are alike, whatever the reason.
        let held = |label| match label {
            Label::Of(id) if self.labels.frozen(id).is_some() => Label::Fixed(Why::Inner),
            other => other,
        };
        let labels = labels.into_iter().map(held).collect();
        axes.blocks.push(Block { axes: (0..sizes.len()).collect(), labels });
        axes.tidy(&mut self.labels);
        let Some(block) = axes.blocks.first().cloned().filter(|b| b.axes.len() > 1) else { return false };
        for &axis in &block.axes[1..] {
            axes.collapse(axis, Why::Inner, &mut self.labels);
        }
        true
    }
}
