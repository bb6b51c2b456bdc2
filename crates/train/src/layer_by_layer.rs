//! Layer-by-layer distillation.

use crate::data::TrainingData;
use crate::error::TrainError;
use crate::learning_rate::LearningRate;
use crate::optimizer::{Grouped, Rule};
use crate::trainer::{Watch, mixed};
use briquette_composer::{BlockInput, Decay, LayerByLayerSettings, OptimizerKind, Session, Trainable};
use briquette_core::host_floats;
use briquette_nn::{BlockState, Blocks};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::time::Instant;

/// What one block learned.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockReport {
    /// Field path of the block.
    pub block: String,
    /// Mean squared difference from the teacher's block over all batches before it learned.
    pub before: f64,
    /// The same after.
    pub after: f64,
    /// Time it took.
    pub seconds: f64,
}

/// Each block of the session's model learns to give what the teacher's block gives (ZeroQuant, arXiv 2206.01861,
/// section 3.3, equation 3), one after the other and without labels: `settings.steps` steps of AdamW on the mean
/// squared difference, its learning rate falling linearly. A block that is worse after that stays as it was.
///
/// At any time the hidden states of one block, of what enters and what leaves it, are held for `settings.steps`
/// batches, and the optimizer's moments of one block, whatever the number of blocks.
///
/// # Errors
/// When the data give no batch, the models differ in their number of blocks, or the loss is no number.
pub fn layer_by_layer<B, M, T, D>(
    session: &mut Session<B, M>,
    teacher: &T,
    settings: &LayerByLayerSettings,
    data: &D,
    seed: u64,
    device: &B::Device,
    watch: &mut dyn Watch,
) -> Result<Vec<BlockReport>, TrainError>
where
    B: AutodiffBackend,
    M: Trainable<B> + Blocks<B, Input = D::Input<B>>,
    M::InnerModule: Blocks<B::InnerBackend, Input = D::Input<B::InnerBackend>>,
    T: Blocks<B::InnerBackend, Input = D::Input<B::InnerBackend>>,
    D: TrainingData,
{
    let mut batches = data.epoch(settings.batch, mixed(seed, 0));
    batches.truncate(settings.steps);
    if batches.is_empty() {
        return Err(TrainError::NoData { batch: settings.batch });
    }
    let blocks = session.parts().model.num_blocks();
    if blocks != teacher.num_blocks() {
        return Err(TrainError::Blocks { student: blocks, teacher: teacher.num_blocks() });
    }
    let inputs = || batches.iter().map(|b| data.batch::<B::InnerBackend>(b, device).0);
    let mut taught: Vec<_> = inputs().map(|input| teacher.enter(input)).collect();
    let mut own = match settings.input {
        BlockInput::Teacher => None,
        BlockInput::Student => {
            let view = session.valid();
            Some(inputs().map(|input| view.enter(input)).collect::<Vec<_>>())
        }
    };
    let mut reports = Vec::with_capacity(blocks);
    for index in 0..blocks {
        let targets: Vec<_> = taught.iter().map(|state| teacher.block(index, state)).collect();
        let entering = own.as_deref().unwrap_or(&taught);
        let mut block = Block { session, settings, index, of: blocks };
        reports.push(block.learn(entering, &targets, watch)?);
        if let Some(own) = &mut own {
            let view = session.view_within(&path(session, index)).valid();
            own.iter_mut().for_each(|state| state.hidden = view.block(index, state));
        }
        taught.iter_mut().zip(targets).for_each(|(state, target)| state.hidden = target);
    }
    Ok(reports)
}

/// One block's turn.
struct Block<'a, B: AutodiffBackend, M: Trainable<B>> {
    session: &'a mut Session<B, M>,
    settings: &'a LayerByLayerSettings,
    index: usize,
    of: usize,
}

type State<B> = BlockState<<B as AutodiffBackend>::InnerBackend>;
type Hidden<B> = Tensor<<B as AutodiffBackend>::InnerBackend, 3>;

impl<B, M> Block<'_, B, M>
where
    B: AutodiffBackend,
    M: Trainable<B> + Blocks<B>,
    M::InnerModule: Blocks<B::InnerBackend>,
{
    fn learn(
        &mut self,
        entering: &[State<B>],
        targets: &[Hidden<B>],
        watch: &mut dyn Watch,
    ) -> Result<BlockReport, TrainError> {
        let begun = Instant::now();
        let (steps, path) = (self.settings.steps, path(self.session, self.index));
        let rule = Rule::new(OptimizerKind::Adamw, (0.9, 0.999), 0.0, self.settings.weight_decay);
        let mut optimizer = Grouped::<B>::new(rule, 1.0);
        let rate = LearningRate { peak: self.settings.lr, warmup: 0, total: steps, decay: Decay::Linear };
        let (start, before) = (self.session.copy_parts(), self.difference(entering, targets)?);
        for step in 0..steps {
            let at = step % entering.len();
            let view = self.session.view_within(&path);
            let output = view.block(self.index, &lifted(&entering[at]));
            let loss = (output - Tensor::from_inner(targets[at].clone())).square().mean();
            self.session.step(loss.backward(), &mut optimizer, rate.at(step));
        }
        let mut after = self.difference(entering, targets)?;
        if after > before {
            self.session.set_parts(start);
            after = before;
        }
        watch.looked((self.index + 1) * steps, self.of * steps, after as f32, self.settings.lr);
        Ok(BlockReport { block: path, before, after, seconds: begun.elapsed().as_secs_f64() })
    }

    /// Mean squared difference from the targets.
    fn difference(&self, entering: &[State<B>], targets: &[Hidden<B>]) -> Result<f64, TrainError> {
        let view = self.session.view_within(&path(self.session, self.index)).valid();
        let each = entering
            .iter()
            .zip(targets)
            .map(|(state, target)| (view.block(self.index, state) - target.clone()).square().mean());
        let sum = each.reduce(|sum, own| sum + own).expect("there is at least one batch");
        let loss = host_floats(sum)[0] / entering.len() as f32;
        if loss.is_finite() {
            Ok(f64::from(loss))
        } else {
            Err(TrainError::Diverged { step: self.index + 1, total: self.of, loss })
        }
    }
}

fn path<B: AutodiffBackend, M: Trainable<B> + Blocks<B>>(session: &Session<B, M>, index: usize) -> String {
    session.parts().model.block_path(index)
}

fn lifted<B: AutodiffBackend>(state: &State<B>) -> BlockState<B> {
    BlockState {
        hidden: Tensor::from_inner(state.hidden.clone()),
        mask: state.mask.clone().map(Tensor::from_inner),
    }
}
