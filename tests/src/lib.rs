//! Tests across crates are in `tests/`; `src/bin/fidelity.rs` compares logits between backends.
