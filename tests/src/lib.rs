//! Tests across crates are in `tests/`; `src/bin/fidelity.rs` compares logits between backends;
//! `weights` is what several tests give a model to prune.

mod weights;

pub use weights::uneven;
