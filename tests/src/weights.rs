//! Weights that tests can rely on.

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;

/// Every parameter from a formula, so that no scale is 1, no bias 0 and no two units are alike.
pub fn uneven<B: Backend, M: Module<B>>(model: M) -> M {
    struct Fill(usize);
    impl<B: Backend> ModuleMapper<B> for Fill {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            self.0 += 7;
            let offset = self.0;
            param.map(|t| {
                let (dims, trained) = (t.dims(), t.is_require_grad());
                let inputs: usize = dims.iter().product::<usize>() / dims.iter().copied().max().unwrap_or(1);
                let scale = if D == 1 { 0.5 } else { 1.5 / (inputs as f32).sqrt() };
                let value = |i: usize| {
                    let wave =
                        (i as f32 * 0.7311 + offset as f32).sin() * (0.8 + 0.4 * (i as f32 * 0.0931).cos());
                    scale * wave + if D == 1 { 0.7 } else { 0.0 }
                };
                let values: Vec<f32> = (0..dims.iter().product()).map(value).collect();
                Tensor::from_data(TensorData::new(values, dims), &t.device()).set_require_grad(trained)
            })
        }
    }
    briquette_core::materialize(&model);
    model.map(&mut Fill(0))
}
