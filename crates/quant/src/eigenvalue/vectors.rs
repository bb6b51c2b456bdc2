//! Vectors with an entry for each parameter of a block.

use crate::rounding::mix;
use briquette_core::host_floats;
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::backend::AutodiffBackend;
use std::collections::HashSet;

/// A vector with as many entries as a block has trainable parameters, cut into one flat part for each parameter, in
/// model order.
#[derive(Debug, Clone)]
pub struct Vectors<B: Backend> {
    parts: Vec<Tensor<B, 1>>,
}

impl<B: Backend> Vectors<B> {
    /// From flat parts.
    pub fn new(parts: Vec<Tensor<B, 1>>) -> Self {
        Self { parts }
    }

    /// The parts, one for each parameter.
    pub fn parts(&self) -> &[Tensor<B, 1>] {
        &self.parts
    }

    /// Normally distributed numbers in the shapes of `like`, from `seed` alone.
    pub fn random(like: &Self, seed: u64) -> Self {
        let mut drawn = 0u64;
        let part = |like: &Tensor<B, 1>| {
            let values: Vec<f32> = (0..like.dims()[0])
                .map(|_| {
                    drawn += 1;
                    normal(seed, drawn)
                })
                .collect();
            Tensor::from_data(TensorData::from(values.as_slice()), (&like.device(), DType::F32))
        };
        Self { parts: like.parts.iter().map(part).collect() }
    }

    /// The sum of the products of entries.
    pub fn dot(&self, other: &Self) -> f64 {
        let pairs = self.parts.iter().zip(&other.parts);
        let sums: Vec<Tensor<B, 1>> = pairs.map(|(a, b)| (a.clone() * b.clone()).sum()).collect();
        if sums.is_empty() {
            return 0.0;
        }
        // One reading for all parts.
        host_floats(Tensor::cat(sums, 0)).iter().map(|v| f64::from(*v)).sum()
    }

    /// The Euclidean norm.
    pub fn norm(&self) -> f64 {
        self.dot(self).sqrt()
    }

    /// Every entry times `factor`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self { parts: self.parts.iter().map(|p| p.clone() * factor).collect() }
    }

    /// The difference to `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let pairs = self.parts.iter().zip(&other.parts);
        Self { parts: pairs.map(|(a, b)| a.clone() - b.clone()).collect() }
    }

    /// With zeros in place of what is infinite or not a number.
    #[must_use]
    pub fn finite(&self) -> Self {
        let part = |p: &Tensor<B, 1>| {
            // Infinities and what is not a number differ from themselves by something other than zero.
            let odd = (p.clone() - p.clone()).not_equal_elem(0.0);
            p.clone().mask_fill(odd, 0.0)
        };
        Self { parts: self.parts.iter().map(part).collect() }
    }
}

/// Normally distributed by counting (Box and Muller 1958).
fn normal(seed: u64, n: u64) -> f32 {
    let bits = mix(seed ^ mix(n));
    let uniform = |bits: u64| (f64::from(bits as u32) + 0.5) / 4_294_967_296.0;
    let (radius, angle) = ((-2.0 * uniform(bits >> 32).ln()).sqrt(), std::f64::consts::TAU * uniform(bits));
    (radius * angle.cos()) as f32
}

/// What a walk through the trainable parameters of a block does with each.
pub(super) trait Visit<B: Backend> {
    fn parameter<const D: usize>(&mut self, param: &Param<Tensor<B, D>>);
}

/// Calls `visit` for every trainable parameter of `module` whose field path begins with `block` and a dot, once for
/// each that several layers share. An empty `block` is the whole module.
pub(super) fn walk<B: Backend, M: Module<B>>(module: &M, block: &str, visit: &mut impl Visit<B>) {
    module.visit(&mut Walk { at: Vec::new(), block, seen: HashSet::new(), visit });
}

struct Walk<'a, V> {
    at: Vec<String>,
    block: &'a str,
    seen: HashSet<ParamId>,
    visit: &'a mut V,
}

impl<B: Backend, V: Visit<B>> ModuleVisitor<B> for Walk<'_, V> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if param.is_require_grad() && within(&self.at, self.block) && self.seen.insert(param.id) {
            self.visit.parameter(param);
        }
    }
}

/// Whether a field path, component by component, stands in `block`.
fn within(at: &[String], block: &str) -> bool {
    block.is_empty() || {
        let path = at.join(".");
        path.strip_prefix(block).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// The values of the trainable parameters of `module` under the field path `block` (all of them where it is empty),
/// each once: a vector in the shapes that [`power_iteration`](super::power_iteration) works in.
pub fn values<B: AutodiffBackend, M: Module<B>>(module: &M, block: &str) -> Vectors<B::InnerBackend> {
    struct Values<B: AutodiffBackend>(Vec<Tensor<B::InnerBackend, 1>>);
    impl<B: AutodiffBackend> Visit<B> for Values<B> {
        fn parameter<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push(flat(param.val().inner()));
        }
    }
    let mut found = Values::<B>(Vec::new());
    walk(module, block, &mut found);
    Vectors::new(found.0)
}

/// The gradients of a block's parameters; zeros where a parameter has none.
pub(super) fn gradients<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    block: &str,
    gradients: &GradientsParams,
) -> Vectors<B::InnerBackend> {
    struct Gather<'a, B: AutodiffBackend>(&'a GradientsParams, Vec<Tensor<B::InnerBackend, 1>>);
    impl<B: AutodiffBackend> Visit<B> for Gather<'_, B> {
        fn parameter<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let gradient = self.0.get::<B::InnerBackend, D>(param.id);
            self.1.push(flat(gradient.unwrap_or_else(|| param.val().inner().zeros_like())));
        }
    }
    let mut found = Gather::<B>(gradients, Vec::new());
    walk(module, block, &mut found);
    Vectors::new(found.1)
}

pub(super) fn flat<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, 1> {
    let count = tensor.shape().num_elements();
    tensor.reshape([count])
}
