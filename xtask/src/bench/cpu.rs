//! `cargo xtask bench-cpu`: forward passes on the processor, beside onnxruntime where Python with it is there.

use super::{Contender, Kind, Suite};

/// What can be timed. The first is where nothing is said.
pub(crate) const SUITES: &[Suite] = &[BERT, PRUNED_BERT, PRUNED_RESNET];

/// A small BERT in all forms of quantization.
const BERT: Suite = Suite {
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

/// The same with rows and heads removed.
const PRUNED_BERT: Suite = Suite {
    name: "speed_cpu_pruned_bert",
    model: "minilm-sst2",
    contenders: &[
        Contender { name: "f32", kind: Kind::Float },
        Contender { name: "W8A8", kind: Kind::Recipe("bert_w8a8") },
        Contender { name: "rows, heads keep 0.75, W8A8", kind: Kind::Calibrated("bert_rows_heads_w8a8") },
    ],
    shapes: &[[1, 16], [1, 128], [8, 128]],
    ratios: &[
        ("W8A8", "f32"),
        ("rows, heads keep 0.75, W8A8", "f32"),
        ("rows, heads keep 0.75, W8A8", "W8A8"),
    ],
};

/// A residual network with channels removed, not trained afterwards.
const PRUNED_RESNET: Suite = Suite {
    name: "speed_cpu_pruned_resnet20",
    model: "resnet20-cifar10",
    contenders: &[
        Contender { name: "f32", kind: Kind::Float },
        Contender { name: "channels keep 0.5", kind: Kind::Recipe("resnet20_channels") },
        Contender { name: "0.75 of the FLOPs", kind: Kind::Recipe("resnet20_flops_75") },
        Contender { name: "half the FLOPs", kind: Kind::Recipe("resnet20_half_flops") },
        Contender { name: "0.35 of the FLOPs", kind: Kind::Recipe("resnet20_flops_35") },
    ],
    shapes: &[[1, 0], [8, 0], [64, 0]],
    ratios: &[
        ("channels keep 0.5", "f32"),
        ("0.75 of the FLOPs", "f32"),
        ("half the FLOPs", "f32"),
        ("0.35 of the FLOPs", "f32"),
    ],
};
