//! Quantized inputs and packed weights.

mod common;

use briquette_core::{InputObserver, InputQuantization, InputRange, ScaleRule};
use briquette_kernels::{TokenQuant, fake_quantize_rows};
use briquette_nn::{
    Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, LayerMut, Linear, LinearConfig, model_view,
    visit_layers,
};
use burn::backend::Flex;
use burn::module::{AutodiffModule, Module, Param};
use burn::prelude::*;
use common::{A, assert_close, assert_same, coded, eight_bits, floats, pack, random, values};
use std::sync::{Arc, Mutex};

const DYNAMIC: TokenQuant = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };

/// The same layer twice: packed, and with the float values of the packed weight.
fn pair<B: Backend>() -> (Linear<B>, Linear<B>) {
    let weight = coded([6, 16], 8);
    let mut float: Linear<B> = LinearConfig::new(16, 6).init(&Default::default());
    let _ = float.bias.as_ref().map(|b| b.val());
    let mut packed = float.clone();
    float.weight = Param::from_tensor(values::<B>(&weight).transpose());
    packed.set_packed(pack(&weight));
    (packed, float)
}

#[test]
fn a_packed_linear_equals_its_float_values() {
    let (packed, float) = pair::<Flex>();
    assert_eq!(packed.weight.dims(), [0, 0]);
    assert_eq!((packed.shape(), float.shape()), ([6, 16], [6, 16]));
    assert_eq!(packed.packed().map(|p| p.bits), Some(4));
    let x = random([2, 3, 16]);
    assert_close(&packed.forward::<3>(x.clone()), &float.forward(x), 1e-5);
    assert!(packed.to_string().contains("bits: 4"), "{packed}");
}

#[test]
fn a_packed_linear_with_quantized_input_equals_the_simulated_one() {
    let (mut packed, mut float) = pair::<Flex>();
    let x = random::<Flex, 3>([2, 3, 16]);
    let mut outputs = Vec::new();
    for range in [InputRange::Dynamic, InputRange::Static { min: -2.0, max: 1.5 }] {
        for symmetric in [true, false] {
            for rule in [ScaleRule::Paper, ScaleRule::DeepSpeed] {
                let quantization = Some(InputQuantization { bits: 4, symmetric, rule, range });
                packed.set_input_quantization(quantization);
                float.set_input_quantization(quantization);
                assert_eq!(packed.input_quantization(), quantization);
                let simulated = float.forward(x.clone());
                assert_close(&packed.forward(x.clone()), &simulated, 1e-5);
                outputs.push(floats(&simulated));
            }
        }
    }
    // Every option changes the output.
    for (i, a) in outputs.iter().enumerate() {
        assert!(outputs[..i].iter().all(|b| a != b));
    }
}

/// [`pair`] with a product of low rank added to both.
fn compensated_pair<B: Backend>() -> (Linear<B>, Linear<B>) {
    let (mut packed, mut float) = pair::<B>();
    let (left, right) = (random::<B, 2>([6, 3]), random::<B, 2>([3, 16]));
    let whole = float.weight.val() + left.clone().matmul(right.clone()).transpose();
    float.weight = Param::from_tensor(briquette_core::stop(whole));
    packed.set_low_rank(left, right);
    (packed, float)
}

#[test]
fn a_correction_of_low_rank_is_added_to_the_packed_weight() {
    let (mut packed, mut float) = compensated_pair::<Flex>();
    let x = random::<Flex, 3>([2, 3, 16]);
    assert_close(&packed.forward(x.clone()), &float.forward(x.clone()), 1e-5);
    for symmetric in [true, false] {
        let quantization = InputQuantization { symmetric, ..eight_bits(InputRange::Dynamic).expect("set") };
        packed.set_input_quantization(Some(quantization));
        float.set_input_quantization(Some(quantization));
        assert_close(&packed.forward(x.clone()), &float.forward(x.clone()), 1e-5);
    }
    assert!(packed.to_string().contains("low_rank: 3"), "{packed}");
    assert_eq!(packed.low_rank().map(|[l, r]| (l.dims(), r.dims())), Some(([6, 3], [3, 16])));
    packed.set_packed(pack(&coded([6, 16], 8)));
    assert!(packed.low_rank().is_none(), "it belonged to the weight before");
}

#[test]
fn a_correction_of_low_rank_passes_gradients_and_conversions() {
    let (packed, float) = compensated_pair::<A>();
    let x = random::<A, 2>([3, 16]);
    let gradient = |layer: &Linear<A>| {
        let x = x.clone().require_grad();
        let gradients = layer.forward(x.clone()).square().sum().backward();
        x.grad(&gradients).expect("dx")
    };
    assert_close(&gradient(&packed), &gradient(&float), 1e-5);
    let output = packed.forward(x.clone()).inner();
    let inner = packed.valid();
    assert_close(&inner.forward(x.clone().inner()), &output, 1e-5);
    let back = Linear::<A>::from_inner(inner).to_device(&Default::default());
    assert_close(&back.forward(x).inner(), &output, 1e-5);
}

#[test]
#[should_panic(expected = "shapes [d_output, rank] and [rank, d_input]")]
fn a_correction_of_another_shape_is_refused() {
    let (mut packed, _) = pair::<Flex>();
    packed.set_low_rank(random([6, 3]), random([2, 16]));
}

#[test]
fn simulation_is_exactly_the_quantized_input() {
    let (_, mut float) = pair::<Flex>();
    let x = random::<Flex, 2>([5, 16]);
    let expected = float.forward(fake_quantize_rows(x.clone(), DYNAMIC));
    float.set_input_quantization(eight_bits(InputRange::Dynamic));
    assert_same(&float.forward(x), &expected);
}

#[test]
fn a_pending_range_passes_inputs_unchanged() {
    let (_, mut float) = pair::<Flex>();
    let x = random::<Flex, 2>([5, 16]);
    let expected = float.forward(x.clone());
    float.set_input_quantization(eight_bits(InputRange::Pending));
    assert_same(&float.forward(x), &expected);
}

#[test]
fn gradients_pass_straight_through_float_and_packed() {
    let (packed, float) = pair::<A>();
    let x = random::<A, 2>([3, 16]);
    for mut layer in [float, packed] {
        let gradient = |layer: &Linear<A>| {
            let x = x.clone().require_grad();
            let grads = layer.forward(x.clone()).sum().backward();
            (x.grad(&grads).expect("dx"), layer.forward(x))
        };
        let (plain, _) = gradient(&layer);
        layer.set_input_quantization(eight_bits(InputRange::Dynamic));
        let (through, output) = gradient(&layer);
        assert_close(&plain, &through, 1e-6);
        let inner = layer.valid();
        assert_close(&inner.forward(x.clone().inner()), &output.inner(), 1e-5);
    }
}

#[derive(Debug, Default)]
struct Extremes(Mutex<Option<(f32, f32)>>);

impl InputObserver for Extremes {
    fn observe(&self, values: &[f32]) {
        let mut range = self.0.lock().expect("one thread");
        let (low, high) = range.unwrap_or((f32::MAX, f32::MIN));
        *range = Some(values.iter().fold((low, high), |(l, h), v| (l.min(*v), h.max(*v))));
    }
    fn range(&self) -> Option<(f32, f32)> {
        *self.0.lock().expect("one thread")
    }
    fn fresh(&self) -> Arc<dyn InputObserver> {
        Arc::new(Self::default())
    }
    fn save(&self) -> serde_json::Value {
        serde_json::json!(self.range())
    }
    fn restore(&self, saved: &serde_json::Value) -> bool {
        let read = serde_json::from_value(saved.clone());
        read.map(|range| *self.0.lock().expect("one thread") = range).is_ok()
    }
}

#[test]
fn an_observer_sees_the_inputs_of_all_clones() {
    let observer: Arc<dyn InputObserver> = Arc::new(Extremes::default());
    let (mut layer, _) = pair::<Flex>();
    layer.observe_input(Some(observer.clone()));
    let view = layer.clone();
    view.forward(Tensor::<Flex, 3>::full([1, 2, 16], 3.0, &Default::default()));
    layer.forward(Tensor::<Flex, 2>::full([1, 16], -1.5, &Default::default()));
    assert_eq!(observer.range(), Some((-1.5, 3.0)));
    layer.observe_input(None);
    layer.forward(Tensor::<Flex, 2>::full([1, 16], 9.0, &Default::default()));
    assert_eq!(observer.range(), Some((-1.5, 3.0)));

    let observer: Arc<dyn InputObserver> = Arc::new(Extremes::default());
    let mut conv: Conv2d<Flex> = Conv2dConfig::new([1, 2], [3, 3]).init(&Default::default());
    conv.observe_input(Some(observer.clone()));
    conv.forward(Tensor::full([1, 1, 4, 4], 2.0, &Default::default()));
    assert_eq!(observer.range(), Some((2.0, 2.0)));
}

#[test]
fn valid_from_inner_and_devices_keep_packed_weights_and_quantization() {
    let (mut layer, _) = pair::<A>();
    layer.set_input_quantization(eight_bits(InputRange::Dynamic));
    let x = random::<Flex, 2>([3, 16]);
    let inner: Linear<Flex> = layer.valid();
    assert!(inner.packed().is_some());
    let back = Linear::<A>::from_inner(inner.clone());
    assert!(back.packed().is_some());
    assert_eq!(back.input_quantization(), layer.input_quantization());
    assert_close(&back.valid().forward(x.clone()), &inner.forward(x.clone()), 0.0);
    let moved = inner.clone().to_device(&Default::default()).fork(&Default::default());
    assert_close(&moved.forward(x.clone()), &inner.forward(x), 0.0);
    assert_eq!(inner.devices().len(), 1);
}

#[test]
fn a_packed_embedding_looks_up_and_multiplies() {
    let weight = coded([9, 8], 4);
    let mut table: Embedding<Flex> = EmbeddingConfig::new(9, 8).init(&Default::default());
    table.set_packed(pack(&weight));
    assert_eq!((table.weight.dims(), table.shape()), ([0, 0], [9, 8]));
    let mut float: Embedding<Flex> = EmbeddingConfig::new(9, 8).init(&Default::default());
    float.weight = Param::from_tensor(values::<Flex>(&weight));
    let ids = Tensor::from_ints([[0, 8, 3], [3, 1, 7]], &Default::default());
    assert_same(&table.forward(ids.clone()), &float.forward(ids));
    let x = random::<Flex, 3>([2, 3, 8]);
    assert_close(&table.as_linear(x.clone()), &float.as_linear(x), 1e-5);
}

#[test]
fn a_packed_convolution_equals_its_float_values() {
    let weight = coded([4, 18], 9);
    let config = Conv2dConfig::new([4, 4], [3, 3]).with_groups(2);
    let mut float: Conv2d<Flex> = config.init(&Default::default());
    let _ = float.bias.as_ref().map(|b| b.val());
    let mut packed = float.clone();
    float.weight = Param::from_tensor(values::<Flex>(&weight).reshape([4, 2, 3, 3]));
    packed.set_packed(pack(&weight));
    assert_eq!((packed.native(), packed.shape()), ([4, 2, 3, 3], [4, 18]));
    let x = random::<Flex, 4>([2, 4, 6, 5]);
    assert_same(&packed.forward(x.clone()), &float.forward(x.clone()));

    let expected = {
        let rows = fake_quantize_rows(x.clone().reshape([2, 4 * 6 * 5]), DYNAMIC);
        float.forward(rows.reshape([2, 4, 6, 5]))
    };
    float.set_input_quantization(eight_bits(InputRange::Dynamic));
    packed.set_input_quantization(eight_bits(InputRange::Dynamic));
    assert_same(&float.forward(x.clone()), &expected);
    assert_same(&packed.forward(x), &expected);
}

#[test]
#[should_panic(expected = "shape [d_output, d_input] of a packed weight")]
fn a_packed_weight_must_have_the_layers_shape() {
    let mut layer: Linear<Flex> = LinearConfig::new(6, 16).init(&Default::default());
    layer.set_packed(pack(&coded([6, 16], 8)));
}

#[test]
fn packing_through_the_walk_leaves_the_view() {
    let mut net: Vec<Linear<Flex>> = vec![
        LinearConfig::new(16, 6).init(&Default::default()),
        LinearConfig::new(6, 2).init(&Default::default()),
    ];
    visit_layers(&mut net, |at, layer| {
        if let (LayerMut::Linear(linear), "0") = (layer, at.name()) {
            linear.set_packed(pack(&coded([6, 16], 8)));
        }
    });
    let view = model_view(&net);
    assert_eq!(view.sites.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["1"]);
    assert_eq!(net.num_params(), 6 + 12 + 2);
}
