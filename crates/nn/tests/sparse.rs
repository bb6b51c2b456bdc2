//! Linear layers that leave the zeros of their weight out.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_core::{InputQuantization, InputRange, ScaleRule};
use briquette_kernels::runs_sparse;
use briquette_nn::{Linear, LinearConfig, model_view};
use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::prelude::*;

/// A layer `[96] -> [60]` of whose weight one in `one_in` entries is left.
fn layer<B: Backend>(one_in: usize) -> Linear<B> {
    let mut layer: Linear<B> = LinearConfig::new(96, 60).init(&Default::default());
    layer.weight = layer.weight.map(|w| {
        let value =
            |i: usize| if (i * 7 % 101).is_multiple_of(one_in) { (i as f32 * 0.37).sin() } else { 0.0 };
        let data = TensorData::new((0..96 * 60).map(value).collect::<Vec<f32>>(), [96, 60]);
        Tensor::from_data(data, &w.device()).set_require_grad(w.is_require_grad())
    });
    // Parameters that were never used would differ from clone to clone.
    layer.bias = layer.bias.map(|b| b.map(|b| b * 0.0 + 0.25));
    layer
}

fn input<B: Backend>() -> Tensor<B, 3> {
    let values = (0..2 * 9 * 96).map(|i| (i as f32 * 0.11).cos()).collect::<Vec<f32>>();
    Tensor::from_data(TensorData::new(values, [2, 9, 96]), &Default::default())
}

fn close<B: Backend>(a: Tensor<B, 3>, b: Tensor<B, 3>) -> bool {
    (a - b).abs().max().into_scalar().elem::<f32>() <= 1e-5
}

#[test]
fn a_layer_without_zeros_computes_what_it_did() {
    let dense = layer::<Flex>(10);
    let mut sparse = dense.clone();
    assert_eq!(sparse.run_sparse(), runs_sparse::<Flex>());
    assert_eq!(sparse.sparse().is_some(), runs_sparse::<Flex>());
    assert!(close(sparse.forward(input()), dense.forward(input())));
    assert_eq!(sparse.shape(), [60, 96]);
    assert_eq!(sparse.run_sparse(), runs_sparse::<Flex>(), "asked twice");
    let moved = sparse.clone().to_device(&Default::default());
    assert!(close(moved.forward(input()), dense.forward(input())));
    let [a, b] = Linear::forward_all([&sparse, &dense], input());
    assert!(close(a, b));
}

#[test]
fn its_float_weight_is_gone_and_methods_see_nothing() {
    let mut layer = layer::<Flex>(10);
    if layer.run_sparse() {
        assert_eq!(layer.weight.val().dims(), [0, 0]);
        assert!(model_view(&layer).sites.is_empty());
        assert!(layer.to_string().contains("d_output: 60"), "{layer}");
    }
}

#[test]
fn quantized_inputs_meet_the_same_weight() {
    let mut dense = layer::<Flex>(10);
    let range = InputRange::Dynamic;
    let quantization = InputQuantization { bits: 4, symmetric: true, rule: ScaleRule::Paper, range };
    let before = dense.forward(input());
    dense.set_input_quantization(Some(quantization));
    let mut sparse = dense.clone();
    sparse.run_sparse();
    assert!(close(sparse.forward(input()), dense.forward(input())));
    assert!(!close(sparse.forward(input()), before));
    let [a, b] = Linear::forward_all([&sparse, &sparse], input());
    assert!(close(a, dense.forward(input())) && close(b, dense.forward(input())));
}

#[test]
fn many_entries_and_backends_with_gradients_stay_dense() {
    assert!(!layer::<Flex>(2).run_sparse());
    let mut training = layer::<Autodiff<Flex>>(10);
    assert!(!training.run_sparse() && training.weight.val().dims() == [96, 60]);
    let mut sparse = training.valid();
    if sparse.run_sparse() {
        let back = Linear::<Autodiff<Flex>>::from_inner(sparse);
        let x = input::<Autodiff<Flex>>().require_grad();
        let gradients = back.forward(x.clone()).sum().backward();
        let expected = training.forward(x.clone()).sum().backward();
        assert!(close(x.grad(&gradients).unwrap(), x.grad(&expected).unwrap()));
    }
}
