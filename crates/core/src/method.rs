//! What a compression technique provides.

use crate::dependencies::Member;
use crate::diagnostics::Problem;
use crate::input::{InputObserver, InputQuantization};
use crate::joint::Joint;
use crate::model_view::{ModelView, Site};
use crate::plan::{PlanBuilder, Step};
use crate::schedule::{Clock, Schedule};
use crate::state::{SessionState, SharedKeys, StateBuilder};
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Where a method stands in the legal order on one layer: prune, then transform, then quantize.
/// At most one method of kind `Quantize` may act on a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Removes or masks parts of the weight.
    Prune,
    /// Changes values but neither removes nor quantizes.
    Transform,
    /// Represents the weight by few bits.
    Quantize,
    /// Adds to the quantized weight what quantization took away.
    Compensate,
    /// Acts on the layer's input, not on its weight.
    Input,
}

/// A compression technique with its settings, as one entry of a recipe gives them.
///
/// The registry holds trait objects, so a crate outside this library adds a technique without
/// touching it. One value is generic over every backend it is implemented for.
///
/// An implementation must:
/// - keep [`plan`](Self::plan) pure: names and shapes only, the same input gives the same plan;
/// - report every problem it can see in `plan`, so that nothing fails after compute is spent;
/// - keep all that changes during a session in [`SessionState`], so that resuming is exact.
///
/// One that removes rows, heads or channels finds the [group](crate::DimensionGroup) that goes together in the view's
/// dependencies and plans [`PlanBuilder::step_in`] for every weight that consumes the group's values. Its stages
/// multiply the columns of removed units by zero, its [`joint`](Self::joint) part says which units stay, and the session
/// removes the others in the end.
pub trait CompressionMethod<B: Backend>: fmt::Debug + Send + Sync {
    /// The JSON key that names this technique.
    fn name(&self) -> &'static str;

    /// Its place in the order of methods on one layer.
    fn kind(&self) -> StageKind;

    /// Whether a pattern for "every layer" takes this layer. Default: all of them.
    fn fits(&self, _site: &Site) -> bool {
        true
    }

    /// Resolves the entry for this model: a step for each layer it acts on, a problem for each
    /// mistake. `selected` are the layers that the entry's selector picked, in model order.
    fn plan(&self, model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>);

    /// Makes the run-time part of one planned step.
    fn attach(&self, step: &Step, state: &mut StateBuilder<'_, B>) -> Attached<B>;

    /// What speaks against removing units from a weight on which this method goes on acting, such as blocks that would be
    /// cut through. `member` is the part that the weight of `site` has in their group.
    fn removal_problem(&self, _site: &Site, _member: &Member) -> Option<Problem> {
        None
    }

    /// Makes the part that looks at all layers at once, where the method has one, after it was attached to all of
    /// them. `steps` are all steps of one recipe entry, in model order; `keys` are what its layers share.
    fn joint(&self, _steps: &[&Step], _keys: &SharedKeys) -> Option<Box<dyn Joint<B>>> {
        None
    }
}

/// The run-time part of one step.
pub enum Attached<B: Backend> {
    /// Transforms the weight.
    Weight(Box<dyn Stage<B>>),
    /// Corrects what the quantization before it did to the weight.
    Compensation(Box<dyn Compensation<B>>),
    /// Quantizes the layer's input; needs a drop-in layer.
    Input {
        /// How.
        quantization: InputQuantization,
        /// Fixes the range where it is to be calibrated.
        observer: Option<Arc<dyn InputObserver>>,
        /// When inputs begin to be quantized.
        schedule: Schedule,
    },
}

/// One method at work on one weight.
///
/// It holds settings and indices into the state, never tensors, and takes `&self` in every call:
/// all that changes is the state and the clock.
pub trait Stage<B: Backend>: Send {
    /// The transformed weight, `[out, in]` in and out; differentiable with respect to `weight` and
    /// to the learned entries of `state`. A function of its arguments alone.
    fn apply(&self, state: &SessionState<B>, clock: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2>;

    /// Called between backward and the optimizer's step; `clock` counts this step too. Both
    /// tensors are off the graph.
    fn after_backward(
        &self,
        _state: &mut SessionState<B>,
        _clock: Clock,
        _weight: Tensor<B, 2>,
        _gradient: Option<Tensor<B, 2>>,
    ) {
    }

    /// Whether [`after_backward`](Self::after_backward) does anything.
    fn watches(&self) -> bool {
        false
    }

    /// Called after each optimizer step; `clock` counts it. `sensitivity` is the largest eigenvalue of the loss's
    /// second derivative in this layer's block relative to that of the most sensitive block, 0 to 1, where the
    /// session was told it. Host work only: no tensor may be read back here.
    fn after_step(&self, _state: &mut SessionState<B>, _clock: Clock, _sensitivity: Option<f64>) {}

    /// Whether [`after_step`](Self::after_step) at `clock` will lower the precision, which is when a
    /// sensitivity is worth computing.
    fn switches_at(&self, _state: &SessionState<B>, _clock: Clock) -> bool {
        false
    }

    /// An observer that has to see the layer's inputs before the method can decide; none once it has. Needs a drop-in
    /// layer.
    fn observer(&self, _state: &SessionState<B>) -> Option<Arc<dyn InputObserver>> {
        None
    }

    /// Takes over what the [`observer`](Self::observer) saw of calibration data, as it
    /// [saves](InputObserver::save) it.
    fn observed(&self, _state: &mut SessionState<B>, _seen: &Value) {}

    /// Whether, for a frozen weight, the result can no longer change.
    fn constant(&self, _clock: Clock) -> bool {
        false
    }

    /// Called when the weight has lost rows or columns for good. What the stage holds in the state or in settings for
    /// each row or column is to be cut with it. Default: it holds nothing of the kind.
    ///
    /// # Errors
    /// When the method cannot act on what is left, such as groups that do not divide the columns.
    fn shrink(&mut self, _state: &mut SessionState<B>, _left: &KeptPart<'_, B>) -> Result<(), Problem> {
        Ok(())
    }

    /// The final weight and what is left of the method in the artefact. Must equal
    /// [`apply`](Self::apply) at the end of the schedule.
    fn finish(self: Box<Self>, state: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B>;
}

/// The part of a weight that is left after rows or columns were removed.
#[derive(Debug)]
pub struct KeptPart<'a, B: Backend> {
    /// The layer with its new shape.
    pub site: &'a Site,
    /// Which rows of the canonical view are left, ascending.
    pub rows: &'a [usize],
    /// Which columns of the canonical view are left, ascending.
    pub columns: &'a [usize],
    /// What the stage will receive from now on, `[out, in]`, off the graph.
    pub weight: Tensor<B, 2>,
}

/// A correction that is computed from what a weight was before its quantization and is after it.
///
/// It acts where the session ends: without training the view shows it too.
pub trait Compensation<B: Backend>: Send {
    /// The correction for `original` and `quantized`, both `[out, in]` and off the graph, as two factors
    /// `[out, rank]` and `[rank, in]` whose product is added to `quantized`. A function of its arguments alone.
    fn factors(&self, original: Tensor<B, 2>, quantized: Tensor<B, 2>) -> [Tensor<B, 2>; 2];
}

/// What a stage leaves behind.
#[derive(Debug)]
pub struct Outcome<B: Backend> {
    /// The weight to go on with, `[out, in]`.
    pub weight: Tensor<B, 2>,
    /// What the artefact says of it.
    pub left: Left,
}

/// What the artefact says of one method's work on one weight.
#[derive(Debug, Clone, PartialEq)]
pub enum Left {
    /// Nothing but changed values.
    Baked,
    /// Single weights are zero for good.
    Sparse(SparseWeight),
    /// The weight as integer codes with scales, which give the weight back exactly.
    Coded(CodedWeight),
    /// A matrix of low rank that is added to the coded weight.
    LowRank(LowRank),
}

/// The product of `left: [out, rank]` and `right: [rank, in]`, both row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// Columns of `left` and rows of `right`.
    pub rank: usize,
    /// `[out, rank]`.
    pub left: Vec<f32>,
    /// `[rank, in]`.
    pub right: Vec<f32>,
}

/// Which weights of `[rows, columns]` were removed one by one, or in small blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseWeight {
    /// Canonical shape `[out, in]`.
    pub shape: [usize; 2],
    /// What the kept weights have in common.
    pub pattern: SparsePattern,
    /// Row-major; true for a weight that stays. All others are exactly zero.
    pub kept: Vec<bool>,
}

/// How removed weights lie in a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SparsePattern {
    /// Anywhere.
    Unstructured,
    /// In whole blocks, which divide the matrix.
    Block {
        /// Rows of a block.
        rows: usize,
        /// Columns of a block.
        columns: usize,
    },
    /// The same number in each run of columns within a row.
    RunOf {
        /// How many of a run stay.
        kept: usize,
        /// Length of a run.
        of: usize,
    },
}

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeKind {
    /// `(u - 2^(bits-1)) * scale`. Ternary weights are symmetric with 2 bits and the codes -1, 0, 1.
    Symmetric,
    /// `u * scale + zero * scale` with an integer `zero` for each group.
    Asymmetric,
    /// 1 bit: `-scale` for 0, `+scale` for 1.
    Binary,
}

/// A weight `[rows, columns]` as unsigned codes, with a scale for each group of columns.
#[derive(Debug, Clone, PartialEq)]
pub struct CodedWeight {
    /// Bits of a code, 1 to 8.
    pub bits: u32,
    /// What a code stands for.
    pub kind: CodeKind,
    /// Canonical shape `[out, in]`.
    pub shape: [usize; 2],
    /// Columns that share a scale; divides `shape[1]`.
    pub group: usize,
    /// Unsigned codes, row-major, one in a byte.
    pub codes: Vec<u8>,
    /// `[out, in / group]`, row-major.
    pub scales: Vec<f32>,
    /// `[out, in / group]` for asymmetric codes, empty otherwise.
    pub zeros: Vec<i32>,
}

impl CodedWeight {
    /// The value of every code, row-major: what the packed weight computes with.
    pub fn values(&self) -> Vec<f32> {
        let half = (1i32 << (self.bits - 1)) as f32;
        let per_row = self.shape[1] / self.group;
        let value = |index: usize, code: u8| {
            let (row, column) = (index / self.shape[1], index % self.shape[1]);
            let group = row * per_row + column / self.group;
            let (scale, u) = (self.scales[group], f32::from(code));
            match self.kind {
                CodeKind::Symmetric => (u - half) * scale,
                CodeKind::Asymmetric => u * scale + self.zeros[group] as f32 * scale,
                CodeKind::Binary => (2.0 * u - 1.0) * scale,
            }
        };
        self.codes.iter().enumerate().map(|(i, c)| value(i, *c)).collect()
    }
}
