//! Gradients limited by their common norm.

use briquette_kernels::clip_factor;
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use std::collections::HashSet;

/// Scales all gradients of `module` so that their norm together is at most `limit` (Pascanu et al. 2013, arXiv
/// 1211.5063, algorithm 1). Nothing is read back from the device.
pub fn clip_by_norm<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    mut gradients: GradientsParams,
    limit: f64,
) -> GradientsParams {
    let Some(factor) = common_factor::<B, M>(module, &gradients, limit) else { return gradients };
    module.visit(&mut Scale::<B> { gradients: &mut gradients, factor });
    gradients
}

/// What all gradients of `module` are multiplied with so that their norm together is at most `limit`, `[1]`; `None`
/// where there are none.
pub(crate) fn common_factor<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    gradients: &GradientsParams,
    limit: f64,
) -> Option<Tensor<B::InnerBackend, 1>> {
    let mut all = All::<B> { gradients, seen: HashSet::new(), found: Vec::new() };
    module.visit(&mut all);
    clip_factor::<B::InnerBackend>(all.found, limit)
}

/// Collects the gradients of a module, each once.
struct All<'a, B: AutodiffBackend> {
    gradients: &'a GradientsParams,
    seen: HashSet<ParamId>,
    found: Vec<FloatTensor<B::InnerBackend>>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for All<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if !self.seen.insert(param.id) {
            return;
        }
        if let Some(gradient) = self.gradients.get::<B::InnerBackend, D>(param.id) {
            self.found.push(gradient.into_primitive().tensor());
        }
    }
}

struct Scale<'a, B: AutodiffBackend> {
    gradients: &'a mut GradientsParams,
    factor: Tensor<B::InnerBackend, 1>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Scale<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) else { return };
        let scaled = gradient * self.factor.clone().reshape([1; D]);
        self.gradients.register(param.id, scaled);
    }
}
