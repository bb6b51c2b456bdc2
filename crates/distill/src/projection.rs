//! From the student's width to the teacher's.

use briquette_nn::{Linear, LinearConfig};
use burn::module::{Param, ParamId};
use burn::prelude::*;

/// Learned maps of the student's hidden states to the width of the teacher's (Romero et al. 2014, arXiv 1412.6550,
/// equation 3; Jiao et al. 2019, arXiv 1909.10351, equation 8): one for each compared pair whose widths differ,
/// without bias. The optimizer trains them with the student; they are thrown away with the teacher.
#[derive(Module, Debug)]
pub struct Projections<B: Backend> {
    /// In the order of [`LayerMapping::hidden`](crate::LayerMapping::hidden); `None` where the widths agree.
    layers: Vec<Option<Linear<B>>>,
}

impl<B: Backend> Projections<B> {
    /// For models of equal widths: no projection at all.
    pub fn none() -> Self {
        Self { layers: Vec::new() }
    }

    /// Projections of these shapes `[d_student, d_teacher]`. The numbers depend on `seed` and the shapes alone, not
    /// on the backend: uniform within `sqrt(3 / d_student)`, by which the outputs vary as much as the inputs.
    pub(crate) fn init(shapes: &[Option<[usize; 2]>], seed: u64, device: &B::Device) -> Self {
        let layer = |(n, shape): (usize, &Option<[usize; 2]>)| {
            shape.map(|[from, to]| {
                let stream = seed ^ (n as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
                let numbers = TensorData::new(uniform(stream, from, from * to), [from, to]);
                let mut layer = LinearConfig::new(from, to).with_bias(false).init(device);
                let weight = Tensor::from_data(numbers, device).require_grad();
                layer.weight = Param::initialized(ParamId::new(), weight);
                layer
            })
        };
        Self { layers: shapes.iter().enumerate().map(layer).collect() }
    }

    /// The student's hidden state `[batch, seq, d_student]` of pair `pair` as `[batch, seq, d_teacher]`; unchanged
    /// where the widths agree.
    pub fn project(&self, pair: usize, hidden: Tensor<B, 3>) -> Tensor<B, 3> {
        match self.layers.get(pair) {
            Some(Some(layer)) => layer.forward(hidden),
            _ => hidden,
        }
    }

    /// How many pairs are projected.
    pub fn len(&self) -> usize {
        self.layers.iter().flatten().count()
    }

    /// Whether there is nothing to learn.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `n` numbers of variance `1 / from`.
fn uniform(seed: u64, from: usize, n: usize) -> Vec<f32> {
    let bound = (3.0 / from as f64).sqrt();
    let mut state = seed;
    let mut next = || {
        // SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators").
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) >> 11
    };
    // 53 bits make a number in 0 .. 1.
    (0..n).map(|_| ((2.0 * next() as f64 / (1_u64 << 53) as f64 - 1.0) * bound) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_core::host_floats;
    use burn::backend::{Autodiff, Flex};

    fn made(seed: u64) -> Projections<Flex> {
        Projections::init(&[None, Some([4, 6]), Some([4, 6])], seed, &Default::default())
    }

    fn weights(projections: &Projections<Flex>) -> Vec<Vec<f32>> {
        projections.layers.iter().flatten().map(|l| host_floats(l.weight.val())).collect()
    }

    #[test]
    fn only_pairs_of_different_widths_are_projected() {
        let (projections, device) = (made(1), Default::default());
        let hidden = Tensor::<Flex, 3>::ones([2, 3, 4], &device);
        assert_eq!(projections.project(0, hidden.clone()).dims(), [2, 3, 4]);
        assert_eq!(projections.project(1, hidden.clone()).dims(), [2, 3, 6]);
        assert_eq!((projections.len(), projections.is_empty()), (2, false));
        let none = Projections::<Flex>::none();
        assert!(none.is_empty());
        assert_eq!(none.project(0, hidden).dims(), [2, 3, 4]);
    }

    #[test]
    fn a_seed_gives_the_same_numbers_and_another_others() {
        let weights_1 = weights(&made(1));
        assert_eq!(weights_1, weights(&made(1)));
        assert_ne!(weights_1, weights(&made(2)));
        assert_ne!(weights_1[0], weights_1[1]);
    }

    #[test]
    fn outputs_vary_as_much_as_inputs() {
        let numbers = uniform(7, 48, 48 * 1000);
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        let variance = numbers.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / numbers.len() as f32;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((48.0 * variance - 1.0).abs() < 0.03, "{variance}");
    }

    #[test]
    fn the_optimizer_sees_them() {
        type A = Autodiff<Flex>;
        let device = Default::default();
        let projections = Projections::<A>::init(&[Some([4, 6])], 1, &device);
        let out = projections.project(0, Tensor::ones([1, 2, 4], &device)).sum();
        let gradients = burn::optim::GradientsParams::from_grads(out.backward(), &projections);
        assert_eq!(gradients.len(), 1);
    }
}
