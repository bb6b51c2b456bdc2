//! DeepSpeed's `compression_training` JSON.
//!
//! Every key of all seven techniques is read and checked. What DeepSpeed ignored in silence is an
//! error here: unknown keys, patterns that match nothing, patterns in excess of `related_modules`,
//! values out of range. A technique or option that this version does not carry out is reported as
//! not available. Arithmetic is DeepSpeed's own, bit for bit.
//!
//! # What is read and has no effect
//!
//! - The root keys of DeepSpeed's training engine (batch sizes, optimizer, fp16, ZeRO ..): they say how its
//!   engine runs, not how a model is compressed. Only names that DeepSpeed itself knows are let through;
//!   what stands in them is not looked at. How this library trains is its own root key `training`.
//! - `quantize_verbose`: how much DeepSpeed prints. A plan lists every layer and every setting anyway.
//! - `quantization_period` beside equal `start_bits` and `target_bits`: it spaces reductions of the bit
//!   width, and there are none. DeepSpeed's own recipes write it.
//! - `schedule_offset_end` of pruning by `l1`: its masks are made once and stay.
//!
//! # What is done otherwise
//!
//! - Weights are pruned before they are quantized; DeepSpeed masks what it has quantized, so that weights it removes
//!   widen the ranges.
//! - Rows, heads and channels are masked where they are read, not where they are made: what a bias or a
//!   normalization makes of a removed one then has no effect either. With `related_modules` they are removed in the
//!   end, without they stay as zeros.
//! - Which weights `topk` keeps of `sparse_pruning` is chosen at every 32nd step instead of every one.

mod groups;
mod layer_reduction;
mod moq;
mod pruning;
mod quantization;

use super::Recipe;
use briquette_core::Diagnostics;
use briquette_core::Problem;
use briquette_core::fields::Fields;
use serde_json::Value;

/// Root keys that DeepSpeed's training engine reads: `DeepSpeedConfig` in its `runtime/config.py`, and
/// what that calls, from 0.7 (the first with compression) to 0.19.6.
const ENGINE_KEYS: &[&str] = &[
    // Steps and batches.
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "managed_gradient_accumulation",
    "dataloader_drop_last",
    "data_efficiency",
    "curriculum_learning",
    // Optimization.
    "optimizer",
    "scheduler",
    "gradient_clipping",
    "prescale_gradients",
    "gradient_predivide_factor",
    "gradient_allreduce_op",
    "sparse_gradients",
    "progressive_layer_drop",
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "allgather_size",
    "disable_allgather",
    // Number formats.
    "fp16",
    "bf16",
    "bfloat16",
    "amp",
    "torch_autocast",
    "data_types",
    "communication_data_type",
    "seq_parallel_communication_data_type",
    // The same until 0.16.
    "seq_parallel_comm_data_type",
    // Execution.
    "activation_checkpointing",
    "aio",
    "compile",
    "graph_harvesting",
    "hybrid_engine",
    "sparse_attention",
    "vocabulary_size",
    // Devices.
    "data_parallel_size",
    "sequence_parallel_size",
    "tensor_parallel",
    "expert_parallel",
    "use_data_before_expert_parallelism",
    "pipeline",
    "elasticity",
    "autotuning",
    // Checkpoints.
    "checkpoint",
    "datastates_ckpt",
    "nebula",
    // What is printed and recorded.
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "log_level",
    "timers",
    "flops_profiler",
    "comms_logger",
    "tensorboard",
    "wandb",
    "csv_monitor",
    "comet",
];

pub(super) fn read(value: &Value, recipe: &mut Recipe) {
    let Some(root) = value.as_object() else { return };
    unknown_root_keys(root, &mut recipe.problems);
    later_features(root, &mut recipe.problems);
    moq::read(root, recipe);
    let place = "compression_training";
    let Some(block) = root.get(place) else { return };
    let Some(mut f) = Fields::open(block, place, &mut recipe.problems) else { return };
    layer_reduction::read(&mut f, recipe);
    quantization::weights(&mut f, recipe);
    quantization::activations(&mut f, recipe);
    for technique in pruning::TECHNIQUES {
        pruning::read(technique, &mut f, recipe);
    }
    f.finish(&mut recipe.problems);
    // What is removed has no part in the ranges of what is quantized.
    recipe.entries.sort_by_key(|entry| !entry.method.ends_with("_pruning"));
}

fn unknown_root_keys(root: &serde_json::Map<String, Value>, out: &mut Diagnostics) {
    let known = ["compression_training", "eigenvalue", "quantize_training", "weight_quantization"];
    for key in root.keys() {
        let common = super::COMMON_KEYS.contains(&key.as_str());
        if !common && !known.contains(&key.as_str()) && !ENGINE_KEYS.contains(&key.as_str()) {
            out.add(key.clone(), Problem::UnknownKey { key: key.clone(), nearest: None });
        }
    }
}

/// A block beside `compression_training` that asks for something else.
fn later_features(root: &serde_json::Map<String, Value>, out: &mut Diagnostics) {
    let key = "weight_quantization";
    let asked = |v: &Value| v.get("enabled").and_then(Value::as_bool).unwrap_or(true);
    if root.get(key).is_some_and(asked) {
        let what = "`weight_quantization` beside `compression_training` (DeepSpeed's inference)";
        out.add(key, Problem::NotAvailable { what: what.into() });
    }
}
