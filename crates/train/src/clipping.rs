//! Gradients limited by their common norm.

use burn::module::{ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::marker::PhantomData;

/// Scales all gradients of `module` so that their norm together is at most `limit` (Pascanu et al. 2013, arXiv
/// 1211.5063, algorithm 1). Nothing is read back from the device.
pub fn clip_by_norm<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    mut gradients: GradientsParams,
    limit: f64,
) -> GradientsParams {
    let mut squares = Squares { gradients: &gradients, sum: None, backend: PhantomData };
    module.visit(&mut squares);
    let Some(sum) = squares.sum else { return gradients };
    // As PyTorch: a little is added, so that a norm of zero divides.
    let factor = (sum.sqrt() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    module.visit(&mut Scale::<B> { gradients: &mut gradients, factor });
    gradients
}

struct Squares<'a, B: AutodiffBackend> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<B::InnerBackend, 1>>,
    backend: PhantomData<B>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Squares<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(gradient) = self.gradients.get::<B::InnerBackend, D>(param.id) else { return };
        let own = gradient.square().sum();
        self.sum = Some(self.sum.take().map_or(own.clone(), |sum| sum + own));
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
