//! One weight's quantizer with the gradients of its estimator.

use super::{Quantized, binary, coded, inside, learned, position, quantize};
use crate::estimator::{Binarization, Estimator, Gradient};
use crate::rounding::Rounding;
use crate::scheme::{Groups, ScaleSearch, WeightScheme};
use briquette_core::{CodedWeight, ScaleRule, stop};
use briquette_kernels::{
    TokenQuant, fake_binarize_rows, fake_quantize_rows, fake_ternarize_rows, rows_in_one_pass,
    straight_through,
};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType};

/// A weight's scheme and groups, and how the weight learns through them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantizer {
    pub(crate) scheme: WeightScheme,
    pub(crate) estimator: Estimator,
    pub(crate) groups: Groups,
}

impl Quantizer {
    /// The scale `[groups, 1]` that learning starts from, where one is learned.
    pub(crate) fn first_scale<B: Backend>(&self, weight: Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        let learns = self.estimator.learns_scale(self.scheme.bits);
        learns.then(|| learned::first(self.grouped(stop(weight)), &self.scheme))
    }

    /// The weight `[out, in]` that computing goes on with: `real W + (1 - real) Q(W)`. `scale` is the learned entry,
    /// where there is one. The value is exact; the gradients are those of the estimator.
    pub(crate) fn apply<B: Backend>(
        &self,
        weight: Tensor<B, 2>,
        scale: Option<Tensor<B, 2>>,
        real: f64,
        seed: u64,
    ) -> Tensor<B, 2> {
        if real >= 1.0 {
            return weight;
        }
        let (shape, dtype) = (weight.dims(), weight.dtype());
        let x = self.grouped(stop(weight.clone()));
        if let Some(values) = self.in_one_pass(&x, scale.is_some(), real) {
            return straight_through(weight, reshaped(values, shape).cast(dtype));
        }
        let q = self.quantize(x.clone(), scale.clone().map(stop), seed);
        let mut values = q.values();
        if real > 0.0 {
            values = x.clone() * real + values * (1.0 - real);
        }
        let values = reshaped(values, shape).cast(dtype);
        if !B::ad_enabled(&weight.device()) {
            return values;
        }
        self.with_gradients(weight, values, x, q, scale, real)
    }

    /// The values of the grouped weight `x` by one kernel, where the backend has one that knows this arithmetic and
    /// nothing but the values is needed. Its sums may differ in the last bit from those of [`quantize`](Self::quantize).
    fn in_one_pass<B: Backend>(&self, x: &Tensor<B, 2>, learns: bool, real: f64) -> Option<Tensor<B, 2>> {
        // A kernel gives a row to one workgroup: long ones take too long.
        const LONG: usize = 8192;
        let (scheme, estimator) = (&self.scheme, &self.estimator);
        let plain = !learns && real == 0.0 && estimator.gradient == Gradient::Identity;
        if !plain || self.groups.length > LONG || !rows_in_one_pass::<B>() {
            return None;
        }
        let nearest = scheme.rounding == Rounding::Nearest && scheme.search == ScaleSearch::Max;
        let full_range = scheme.rule == ScaleRule::DeepSpeed;
        match scheme.bits {
            1 if estimator.binarization == Binarization::Sign && !full_range => {
                Some(fake_binarize_rows(x.clone()))
            }
            2 => Some(fake_ternarize_rows(x.clone())),
            bits @ 3..=8 if scheme.symmetric && nearest => {
                let quant = TokenQuant { bits, symmetric: true, full_range, range: None };
                Some(fake_quantize_rows(x.clone(), quant))
            }
            _ => None,
        }
    }

    /// `values` `[out, in]`, with gradients to `weight` and to the learned `scale`. `x` and `q` are the grouped
    /// weight and its codes, off the graph.
    fn with_gradients<B: Backend>(
        &self,
        weight: Tensor<B, 2>,
        values: Tensor<B, 2>,
        x: Tensor<B, 2>,
        q: Quantized<B>,
        scale: Option<Tensor<B, 2>>,
        real: f64,
    ) -> Tensor<B, 2> {
        if scale.is_none() && self.estimator.gradient == Gradient::Identity {
            return straight_through(weight, values);
        }
        let (shape, dtype) = (weight.dims(), weight.dtype());
        let clipped = self.estimator.gradient == Gradient::Clipped;
        let mut change = weight.clone() - stop(weight);
        if clipped {
            let passed = inside(position(x.clone(), &q), &self.scheme) * (1.0 - real) + real;
            change = change * reshaped(passed, shape).cast(dtype);
        }
        let mut result = stop(values) + change;
        if let Some(scale) = scale {
            let slope = learned::slope(x, &q, &self.scheme) * (1.0 - real);
            let change = slope * (scale.clone() - stop(scale));
            result = result + reshaped(change, shape).cast(dtype);
        }
        result
    }

    /// The final codes of the weight `[out, in]`: those of [`apply`](Self::apply) without a real share.
    pub(crate) fn code<B: Backend>(
        &self,
        weight: Tensor<B, 2>,
        scale: Option<Tensor<B, 2>>,
        seed: u64,
    ) -> CodedWeight {
        let shape = weight.dims();
        let q = self.quantize(self.grouped(weight), scale, seed);
        coded(q, shape, self.groups, &self.scheme)
    }

    fn quantize<B: Backend>(&self, x: Tensor<B, 2>, scale: Option<Tensor<B, 2>>, seed: u64) -> Quantized<B> {
        let scale = scale.map(learned::positive);
        match (self.scheme.bits, self.estimator.binarization, scale) {
            (1, _, Some(scale)) => binary::with_scale(x, scale),
            (1, Binarization::MeanCentred, None) => binary::about_the_mean(x),
            (2.., _, Some(scale)) => learned::quantize(x, &self.scheme, scale),
            _ => quantize(x, &self.scheme, seed),
        }
    }

    /// `[groups, length]`, with at least 32 bits an element: codes of more than 8 bits, and sums over a group, are
    /// beyond half precision.
    fn grouped<B: Backend>(&self, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        let full = match weight.dtype() {
            DType::F16 | DType::BF16 => weight.cast(FloatDType::F32),
            _ => weight,
        };
        reshaped(full, [self.groups.count, self.groups.length])
    }
}

/// burn copies a transposed weight to reshape it, even to the shape it has.
fn reshaped<B: Backend>(x: Tensor<B, 2>, shape: [usize; 2]) -> Tensor<B, 2> {
    if x.dims() == shape { x } else { x.reshape(shape) }
}
