//! Modules to files and back.
#![allow(clippy::unwrap_used)]

use briquette_checkpoint::{
    CheckpointError, Dtype, NamedTensor, Naming, TensorFiles, TensorProblem, load_module, module_tensors,
    write,
};
use briquette_core::{NameTable, host_floats, materialize};
use burn::backend::{Autodiff, Flex};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::prelude::*;
use std::collections::{BTreeMap, HashSet};
use tempfile::TempDir;

#[derive(Module, Debug)]
struct Block<B: Backend> {
    self_: Linear<B>,
    norm: LayerNorm<B>,
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    words: Embedding<B>,
    blocks: Vec<Block<B>>,
    conv: Conv2d<B>,
    bn: BatchNorm<B>,
}

fn net<B: Backend>(device: &B::Device) -> Net<B> {
    Net {
        words: EmbeddingConfig::new(7, 4).init(device),
        blocks: (0..2)
            .map(|_| Block {
                self_: LinearConfig::new(4, 3).init(device),
                norm: LayerNormConfig::new(3).init(device),
            })
            .collect(),
        conv: Conv2dConfig::new([2, 3], [5, 5]).init(device),
        bn: BatchNormConfig::new(3).init(device),
    }
}

/// The second block's Linear is stored input-major and has a name of its own; old files say `gamma`.
fn naming() -> Naming {
    let mut layers = NameTable::default();
    layers.insert("blocks.1.self_", "blocks.1.other", false);
    Naming {
        input_major: |site| site == "blocks.1.other",
        current: |name| name.replace(".gamma", ".weight"),
        ignorable: |name| name.ends_with("position_ids"),
        ..Naming::new(layers)
    }
}

fn flat(model: &Net<Flex>) -> Vec<NamedTensor> {
    module_tensors(model, &naming(), &|_| Dtype::F32).unwrap()
}

fn saved(dir: &TempDir, tensors: &[NamedTensor]) -> TensorFiles {
    write(dir.path().join("model.safetensors"), tensors, &BTreeMap::new()).unwrap();
    TensorFiles::open(dir.path()).unwrap()
}

fn none() -> HashSet<String> {
    HashSet::new()
}

#[test]
fn round_trip_is_exact() {
    let (dir, device) = (TempDir::new().unwrap(), Default::default());
    let model = net::<Flex>(&device);
    materialize(&model);
    let files = saved(&dir, &flat(&model));
    let back = load_module(net::<Flex>(&device), &naming(), &files, &none()).unwrap();
    assert_eq!(flat(&back), flat(&model));
    assert_eq!(back.blocks[0].self_.weight.to_data(), model.blocks[0].self_.weight.to_data());
}

#[test]
fn names_and_layouts_are_those_of_checkpoints() {
    let device = Default::default();
    let model = net::<Flex>(&device);
    let tensors = flat(&model);
    let names: Vec<&str> = tensors.iter().map(NamedTensor::name).collect();
    assert_eq!(
        names,
        [
            "words.weight",
            "blocks.0.self.weight",
            "blocks.0.self.bias",
            "blocks.0.norm.weight",
            "blocks.0.norm.bias",
            "blocks.1.other.weight",
            "blocks.1.other.bias",
            "blocks.1.norm.weight",
            "blocks.1.norm.bias",
            "conv.weight",
            "conv.bias",
            "bn.weight",
            "bn.bias",
            "bn.running_mean",
            "bn.running_var",
        ]
    );
    assert_eq!(tensors[1].shape(), [3, 4]);
    assert_eq!(tensors[5].shape(), [4, 3], "input-major");
    let stored: Vec<f32> =
        tensors[1].bytes().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(stored, host_floats(model.blocks[0].self_.weight.val().transpose()));
}

#[test]
fn element_types_follow_the_source() {
    let (dir, device) = (TempDir::new().unwrap(), Default::default());
    let model = net::<Flex>(&device);
    let pick = |name: &str| if name.starts_with("words") { Dtype::F16 } else { Dtype::BF16 };
    let files = saved(&dir, &module_tensors(&model, &naming(), &pick).unwrap());
    let dtypes = naming().dtypes(&files);
    assert_eq!(dtypes["words.weight"], Dtype::F16);
    let back = load_module(net::<Flex>(&device), &naming(), &files, &none()).unwrap();
    let again = module_tensors(&back, &naming(), &|n| dtypes[n]).unwrap();
    for tensor in &again {
        assert_eq!(tensor.bytes(), files.get(tensor.name()).unwrap().bytes().unwrap(), "{}", tensor.name());
    }
}

#[test]
fn all_discrepancies_come_at_once() {
    let (dir, device) = (TempDir::new().unwrap(), Default::default());
    let mut tensors = flat(&net::<Flex>(&device));
    tensors.remove(2);
    tensors[0] = NamedTensor::floats("words.weight", Dtype::F32, vec![4, 7], &[0.0; 28]).unwrap();
    tensors[3] = NamedTensor::words("blocks.0.norm.bias", vec![3], &[0; 3]).unwrap();
    tensors.push(NamedTensor::floats("extra", Dtype::F32, vec![1], &[0.0]).unwrap());
    tensors.push(NamedTensor::floats("position_ids", Dtype::F32, vec![1], &[0.0]).unwrap());
    let files = saved(&dir, &tensors);
    let error = load_module(net::<Flex>(&device), &naming(), &files, &none()).unwrap_err();
    let text = error.to_string();
    let CheckpointError::Tensors { problems, .. } = error else { panic!("{text}") };
    assert_eq!(
        problems,
        [
            TensorProblem::Shape { tensor: "words.weight".into(), found: vec![4, 7], expected: vec![7, 4] },
            TensorProblem::Missing { tensor: "blocks.0.self.bias".into() },
            TensorProblem::Type { tensor: "blocks.0.norm.bias".into(), found: Dtype::I32 },
            TensorProblem::Unexpected { tensor: "extra".into() },
        ]
    );
    assert!(
        text.contains("model.safetensors: does not fit the model: 4 problems\n  `words.weight` has shape")
    );
}

#[test]
fn older_names_are_understood_and_doubles_refused() {
    let (dir, device) = (TempDir::new().unwrap(), Default::default());
    let model = net::<Flex>(&device);
    let mut tensors = flat(&model);
    let norm = NamedTensor::floats("blocks.0.norm.gamma", Dtype::F32, vec![3], &[2.0; 3]).unwrap();
    tensors[3] = norm.clone();
    let files = saved(&dir, &tensors);
    let back = load_module(net::<Flex>(&device), &naming(), &files, &none()).unwrap();
    assert_eq!(host_floats(back.blocks[0].norm.gamma.val()), [2.0; 3]);

    let mut tensors = flat(&model);
    tensors.push(norm);
    let files = saved(&dir, &tensors);
    let text = load_module(net::<Flex>(&device), &naming(), &files, &none()).unwrap_err().to_string();
    assert!(text.contains("`blocks.0.norm.weight` is there twice"), "{text}");
}

#[test]
fn packed_layers_are_left_to_the_caller() {
    let (dir, device) = (TempDir::new().unwrap(), Default::default());
    let mut tensors = flat(&net::<Flex>(&device));
    tensors[0] = NamedTensor::words("words.weight_packed", vec![7, 1], &[0; 7]).unwrap();
    tensors.push(NamedTensor::floats("words.weight_scale", Dtype::F32, vec![7], &[1.0; 7]).unwrap());
    let files = saved(&dir, &tensors);
    assert!(load_module(net::<Flex>(&device), &naming(), &files, &none()).is_err());
    let packed = HashSet::from(["words".to_string()]);
    let back = load_module(net::<Flex>(&device), &naming(), &files, &packed).unwrap();
    assert!(!back.words.weight.is_initialized(), "a packed weight takes no memory");
    assert!(back.conv.weight.is_initialized());
}

#[test]
fn gradients_are_wanted_after_loading_as_before() {
    type A = Autodiff<Flex>;
    let (dir, device) = (TempDir::new().unwrap(), Default::default());
    let files = saved(&dir, &flat(&net::<Flex>(&device)));
    let back = load_module(net::<A>(&device), &naming(), &files, &none()).unwrap();
    assert!(back.words.weight.is_require_grad() && back.blocks[1].self_.weight.is_require_grad());
    assert!(!back.bn.running_mean.value().is_require_grad());
    let frozen = load_module(net::<A>(&device).no_grad(), &naming(), &files, &none()).unwrap();
    assert!(!frozen.words.weight.is_require_grad());
}
