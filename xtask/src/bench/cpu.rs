//! `cargo xtask bench-cpu`: the forward pass of a small BERT on the processor, in all forms, beside onnxruntime
//! where Python with it is there.

use super::{Contender, Kind, Suite};

/// Forms of the model and shapes of the input.
pub(crate) const SUITE: Suite = Suite {
    name: "speed_cpu_bert",
    model: "minilm-sst2",
    contenders: &[
        Contender { name: "f32", kind: Kind::Float },
        Contender { name: "W8A8", kind: Kind::Recipe("bert_w8a8") },
        Contender { name: "W4A8", kind: Kind::Recipe("bert_w4a8") },
        Contender { name: "W2A8", kind: Kind::Recipe("bert_w2a8") },
        Contender { name: "W1A8", kind: Kind::Recipe("bert_w1a8") },
        Contender { name: "W8", kind: Kind::Recipe("bert_w8") },
        Contender { name: "W4", kind: Kind::Recipe("bert_w4") },
        Contender { name: "onnxruntime f32", kind: Kind::OnnxRuntime("float") },
        Contender { name: "onnxruntime int8", kind: Kind::OnnxRuntime("int8") },
    ],
    shapes: &[[1, 16], [1, 128], [8, 128]],
    ratios: &[
        ("f32", "onnxruntime f32"),
        ("W8A8", "f32"),
        ("W8A8", "onnxruntime int8"),
        ("W4A8", "W8A8"),
        ("W2A8", "W8A8"),
        ("W1A8", "W8A8"),
        ("W8", "f32"),
        ("W4", "W8"),
        ("W4", "f32"),
    ],
};
