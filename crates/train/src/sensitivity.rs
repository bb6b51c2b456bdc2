//! How sensitive the blocks of a model in training are.

use briquette_composer::{Session, Trainable};
use briquette_quant::eigenvalue::{central_differences, power_iteration, relative, values};
use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;

/// Tells the session how sensitive each block is of which its plan wants to know, if the coming step, the `step`-th
/// counted from 1, lowers the precision of a layer and is one of those at which the plan looks. The second derivative
/// is that of the loss whose `gradients` are given, at the weights as they are, not quantized; products with it are
/// differences of gradients.
///
/// Gives the eigenvalues, in the order of the plan's blocks, where any were computed.
pub(crate) fn tell<B: AutodiffBackend, M: Trainable<B>>(
    session: &mut Session<B, M>,
    step: usize,
    seed: u64,
    mut gradients: impl FnMut(&M) -> GradientsParams,
) -> Option<Vec<f64>> {
    let settings = session.plan().eigenvalue()?.clone();
    if !step.is_multiple_of(settings.gas_boundary_resolution) || !session.switches_next() {
        return None;
    }
    let blocks = session.plan().eigenvalue_blocks().to_vec();
    let model = &session.parts().model;
    let own = |block: &str| {
        let like = values::<B, M>(model, block);
        power_iteration(&like, seed, &settings, |v| central_differences(model, block, v, &mut gradients))
    };
    let mut own = own;
    let found: Vec<f64> = blocks.iter().map(|block| own(&block.path)).collect();
    for (block, sensitivity) in blocks.iter().zip(relative(&found)) {
        session.set_sensitivity(&block.name, sensitivity);
    }
    Some(found)
}
