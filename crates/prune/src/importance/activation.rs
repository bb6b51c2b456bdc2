//! Magnitudes weighted by what they are multiplied with (Wanda, Sun et al. 2023, arXiv 2306.11695, equation 1):
//! `|w_ij| ||x_j||`, with the norm of input `j` over all tokens of calibration data.

use briquette_core::{InputObserver, LayerKind, Problem, SessionState, Site, StateBuilder, host_floats};
use burn::prelude::*;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// The norm of each input of a linear layer over all that it sees.
#[derive(Debug)]
pub struct InputNorms {
    inputs: usize,
    // 64 bits: millions of tokens are added up.
    squares: Mutex<Vec<f64>>,
}

impl InputNorms {
    /// For a layer with so many inputs.
    pub fn new(inputs: usize) -> Self {
        Self { inputs, squares: Mutex::new(Vec::new()) }
    }

    fn squares(&self) -> std::sync::MutexGuard<'_, Vec<f64>> {
        self.squares.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl InputObserver for InputNorms {
    fn observe(&self, values: &[f32]) {
        let mut squares = self.squares();
        squares.resize(self.inputs, 0.0);
        for row in values.chunks_exact(self.inputs.max(1)) {
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
        }
    }

    fn range(&self) -> Option<(f32, f32)> {
        None
    }

    fn fresh(&self) -> Arc<dyn InputObserver> {
        Arc::new(Self::new(self.inputs))
    }

    /// The sums of squares, none before anything was seen.
    fn save(&self) -> Value {
        json!(*self.squares())
    }

    fn restore(&self, saved: &Value) -> bool {
        let Some(saved) = squares_of(saved).filter(|s| s.is_empty() || s.len() == self.inputs) else {
            return false;
        };
        *self.squares() = saved;
        true
    }
}

fn squares_of(saved: &Value) -> Option<Vec<f64>> {
    saved.as_array()?.iter().map(Value::as_f64).collect()
}

/// Why the inputs of a layer cannot be seen.
pub(crate) fn inputs_unseen(site: &Site) -> Option<Problem> {
    let text = match (site.kind, site.drop_in) {
        (LayerKind::Linear, true) => return None,
        (LayerKind::Linear, false) => {
            "inputs can be seen in drop-in layers only: use briquette_nn's and derive Compressible"
        }
        _ => "`activation` weighs the inputs of linear layers only",
    };
    Some(Problem::Conflict(text.into()))
}

/// Where a session holds the norms of one layer's inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norms {
    /// Buffer `[1, in]`.
    pub(crate) buffer: usize,
    /// Counter: 1 once they are known.
    pub(crate) known: usize,
}

impl Norms {
    /// Entries of the state for one layer, by these keys.
    pub(crate) fn attach<B: Backend>(buffer: &str, known: &str, state: &mut StateBuilder<'_, B>) -> Self {
        let inputs = state.weight.dims()[1];
        let zeros = Tensor::zeros([1, inputs], (&state.weight.device(), state.weight.dtype()));
        Self { buffer: state.shared_buffer(buffer, zeros), known: state.shared_counter(known, 0.0) }
    }

    /// Whether calibration has found them.
    pub(crate) fn known<B: Backend>(&self, state: &SessionState<B>) -> bool {
        state.counter(self.known) != 0.0
    }

    /// What has to see the inputs, until the norms are known.
    pub(crate) fn observer<B: Backend>(&self, state: &SessionState<B>) -> Option<Arc<dyn InputObserver>> {
        let inputs = state.buffer(self.buffer).dims()[1];
        (!self.known(state)).then(|| Arc::new(InputNorms::new(inputs)) as Arc<dyn InputObserver>)
    }

    /// Takes over what an observer has seen; nothing where it has seen nothing.
    pub(crate) fn observed<B: Backend>(&self, state: &mut SessionState<B>, seen: &Value) {
        let old = state.buffer(self.buffer);
        let inputs = old.dims()[1];
        let Some(squares) = squares_of(seen).filter(|s| s.len() == inputs) else { return };
        let norms: Vec<f32> = squares.into_iter().map(|s| s.sqrt() as f32).collect();
        let data = TensorData::new(norms, [1, inputs]);
        state.set_buffer(self.buffer, Tensor::from_data(data, (&old.device(), old.dtype())));
        state.set_counter(self.known, 1.0);
    }

    /// `|w_ij| ||x_j||`, `[out, in]`.
    pub(crate) fn weighted<B: Backend>(&self, state: &SessionState<B>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        weight.abs() * state.buffer(self.buffer)
    }

    /// Keeps the norms of these inputs only.
    pub(crate) fn cut<B: Backend>(&self, state: &mut SessionState<B>, columns: &[usize]) {
        let (old, norms) = (state.buffer(self.buffer), host_floats(state.buffer(self.buffer)));
        let kept: Vec<f32> = columns.iter().map(|c| norms[*c]).collect();
        let data = TensorData::new(kept, [1, columns.len()]);
        state.set_buffer(self.buffer, Tensor::from_data(data, (&old.device(), old.dtype())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_added_up_by_input() {
        let norms = InputNorms::new(2);
        assert_eq!(norms.save(), json!([]));
        norms.observe(&[1.0, 2.0, 3.0, -4.0]);
        norms.observe(&[0.0, 1.0]);
        assert_eq!(norms.save(), json!([10.0, 21.0]));
        let other = norms.fresh();
        assert_eq!(other.save(), json!([]));
        assert!(other.restore(&norms.save()) && other.restore(&json!([])));
        assert!(!other.restore(&json!([1.0])) && !other.restore(&json!(["a", 2])));
        assert_eq!(other.range(), None);
    }
}
