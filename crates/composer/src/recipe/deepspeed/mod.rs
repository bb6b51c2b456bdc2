//! DeepSpeed's `compression_training` JSON.
//!
//! Every key of all seven techniques is read and checked. What DeepSpeed ignored in silence is an
//! error here: unknown keys, patterns that match nothing, patterns in excess of `related_modules`,
//! values out of range. A technique or option that this version does not carry out is reported as
//! not available. Arithmetic is DeepSpeed's own, bit for bit.
//!
//! Keys of the training engine around `compression_training` (batch sizes, fp16, ZeRO ...) concern
//! the engine, not the compression, and are left alone.

mod groups;
mod layer_reduction;
mod pruning;
mod quantization;

use super::Recipe;
use briquette_core::Diagnostics;
use briquette_core::Problem;
use briquette_core::fields::Fields;
use serde_json::Value;

/// Root keys that belong to DeepSpeed's training engine.
const ENGINE_KEYS: &[&str] = &[
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "optimizer",
    "scheduler",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "sparse_gradients",
    "fp16",
    "bf16",
    "bfloat16",
    "amp",
    "gradient_clipping",
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "steps_per_print",
    "wall_clock_breakdown",
    "dump_state",
    "flops_profiler",
    "activation_checkpointing",
    "aio",
    "autotuning",
    "elasticity",
    "comms_logger",
    "tensorboard",
    "wandb",
    "csv_monitor",
    "comet",
    "monitor_config",
    "data_efficiency",
    "curriculum_learning",
    "data_types",
    "checkpoint",
    "pipeline",
    "disable_allgather",
    "seq_parallel_communication_data_type",
    "gradient_accumulation_dtype",
    "graph_harvesting",
    "use_data_before_expert_parallelism",
    "hybrid_engine",
    "progressive_layer_drop",
    "sparse_attention",
    "memory_breakdown",
    "nebula",
    "compile",
    "tensor_parallel",
    "seed",
    "local_rank",
    "world_size",
    "load_universal_checkpoint",
    "train_steps",
    "dataloader_drop_last",
    "use_node_local_storage",
    "timers",
];

pub(super) fn read(value: &Value, recipe: &mut Recipe) {
    let Some(root) = value.as_object() else { return };
    unknown_root_keys(root, &mut recipe.problems);
    later_features(root, &mut recipe.problems);
    let place = "compression_training";
    let Some(mut f) = Fields::open(&value[place], place, &mut recipe.problems) else { return };
    layer_reduction::read(&mut f, recipe);
    quantization::weights(&mut f, recipe);
    quantization::activations(&mut f, recipe);
    for technique in pruning::TECHNIQUES {
        pruning::read(technique, &mut f, recipe);
    }
    f.finish(&mut recipe.problems);
}

fn unknown_root_keys(root: &serde_json::Map<String, Value>, out: &mut Diagnostics) {
    let known = ["compression_training", "eigenvalue", "quantize_training"];
    for key in root.keys() {
        let common = super::COMMON_KEYS.contains(&key.as_str());
        if !common && !known.contains(&key.as_str()) && !ENGINE_KEYS.contains(&key.as_str()) {
            out.add(key.clone(), Problem::UnknownKey { key: key.clone(), nearest: None });
        }
    }
}

/// Blocks beside `compression_training` that ask for compression.
fn later_features(root: &serde_json::Map<String, Value>, out: &mut Diagnostics) {
    for (key, what) in [
        ("eigenvalue", "eigenvalue-guided quantization (MoQ)"),
        ("quantize_training", "the older `quantize_training` block (MoQ)"),
    ] {
        let asked = |v: &Value| v.get("enabled").and_then(Value::as_bool).unwrap_or(true);
        if root.get(key).is_some_and(asked) {
            out.add(key, Problem::NotAvailable { what: what.into() });
        }
    }
}
