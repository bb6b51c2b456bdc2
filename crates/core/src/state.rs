//! What a running session holds in tensors.

use crate::schedule::Clock;
use crate::weight::stop;
use burn::module::{Param, ParamId};
use burn::prelude::*;
use std::collections::BTreeMap;

/// All run-time tensors of all stages, in one module, so that burn's own optimizer, records and
/// device moves apply to them.
#[derive(Module, Debug)]
pub struct SessionState<B: Backend> {
    learned: Vec<Param<Tensor<B, 2>>>,
    buffers: Vec<Param<Tensor<B, 2>>>,
    // On the host: what decides which code runs must not wait for a device.
    #[module(skip)]
    counters: Vec<f64>,
}

impl<B: Backend> Default for SessionState<B> {
    fn default() -> Self {
        Self { learned: Vec::new(), buffers: Vec::new(), counters: Vec::new() }
    }
}

impl<B: Backend> SessionState<B> {
    /// An entry that the optimizer trains.
    ///
    /// # Panics
    /// When `index` was not handed out by a [`StateBuilder`] of this session.
    pub fn learned(&self, index: usize) -> Tensor<B, 2> {
        self.learned[index].val()
    }

    /// An entry that only its stage changes.
    ///
    /// # Panics
    /// When `index` was not handed out by a [`StateBuilder`] of this session.
    pub fn buffer(&self, index: usize) -> Tensor<B, 2> {
        self.buffers[index].val()
    }

    /// A number on the host that only its stage changes, such as a bit width.
    ///
    /// # Panics
    /// When `index` was not handed out by a [`StateBuilder`] of this session.
    pub fn counter(&self, index: usize) -> f64 {
        self.counters[index]
    }

    /// Replaces a counter.
    ///
    /// # Panics
    /// When `index` was not handed out by a [`StateBuilder`] of this session.
    pub fn set_counter(&mut self, index: usize, value: f64) {
        self.counters[index] = value;
    }

    /// All counters, to be kept while a session is interrupted; burn's records leave them out.
    pub fn counters(&self) -> &[f64] {
        &self.counters
    }

    /// Puts back what [`counters`](Self::counters) gave. `false`, and nothing done, where their number differs.
    pub fn restore_counters(&mut self, values: &[f64]) -> bool {
        let fits = values.len() == self.counters.len();
        if fits {
            self.counters.copy_from_slice(values);
        }
        fits
    }

    /// Replaces a learned entry: for a weight that has lost rows or columns.
    ///
    /// # Panics
    /// When `index` was not handed out by a [`StateBuilder`] of this session.
    pub fn set_learned(&mut self, index: usize, value: Tensor<B, 2>) {
        let entry = &self.learned[index];
        let value = stop(value).set_require_grad(entry.is_require_grad());
        self.learned[index] = Param::initialized(entry.id, value);
    }

    /// Replaces a buffer; the new value is off the graph.
    ///
    /// # Panics
    /// When `index` was not handed out by a [`StateBuilder`] of this session.
    pub fn set_buffer(&mut self, index: usize, value: Tensor<B, 2>) {
        self.buffers[index] = Param::initialized(self.buffers[index].id, stop(value));
    }
}

/// Entries of the state that several layers of one recipe entry have in common, by a key of the method's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedKeys {
    learned: BTreeMap<String, usize>,
    buffers: BTreeMap<String, usize>,
    counters: BTreeMap<String, usize>,
}

impl SharedKeys {
    /// Index of a [shared learned entry](StateBuilder::shared_learned).
    pub fn learned(&self, key: &str) -> Option<usize> {
        self.learned.get(key).copied()
    }

    /// Index of a [shared buffer](StateBuilder::shared_buffer).
    pub fn buffer(&self, key: &str) -> Option<usize> {
        self.buffers.get(key).copied()
    }

    /// Index of a [shared counter](StateBuilder::shared_counter).
    pub fn counter(&self, key: &str) -> Option<usize> {
        self.counters.get(key).copied()
    }
}

/// Handed to a method when it is attached to one layer.
pub struct StateBuilder<'a, B: Backend> {
    state: &'a mut SessionState<B>,
    keys: SharedKeys,
    /// What the stage will receive, in the canonical view `[out, in]`, off the graph.
    pub weight: Tensor<B, 2>,
    /// Where the session stands.
    pub clock: Clock,
    /// The session's seed: the only source of randomness a stage may use.
    pub seed: u64,
}

impl<'a, B: Backend> StateBuilder<'a, B> {
    /// For the session's own use.
    pub fn new(state: &'a mut SessionState<B>, weight: Tensor<B, 2>, clock: Clock, seed: u64) -> Self {
        Self { state, keys: SharedKeys::default(), weight, clock, seed }
    }

    /// For the session's own use: goes on with the keys of the layers before.
    #[must_use]
    pub fn with_keys(self, keys: SharedKeys) -> Self {
        Self { keys, ..self }
    }

    /// The keys so far, for the next layer of the same recipe entry.
    pub fn into_keys(self) -> SharedKeys {
        self.keys
    }

    /// [`learned`](Self::learned) for an entry that layers of one recipe entry share: the first that asks for `key`
    /// makes it, the others get its index.
    pub fn shared_learned(&mut self, key: &str, initial: Tensor<B, 2>) -> usize {
        self.keys.learned(key).unwrap_or_else(|| {
            let index = self.learned(initial);
            self.keys.learned.insert(key.into(), index);
            index
        })
    }

    /// [`buffer`](Self::buffer) for an entry that layers of one recipe entry share, as
    /// [`shared_learned`](Self::shared_learned).
    pub fn shared_buffer(&mut self, key: &str, initial: Tensor<B, 2>) -> usize {
        self.keys.buffer(key).unwrap_or_else(|| {
            let index = self.buffer(initial);
            self.keys.buffers.insert(key.into(), index);
            index
        })
    }

    /// [`counter`](Self::counter) for an entry that layers of one recipe entry share, as
    /// [`shared_learned`](Self::shared_learned).
    pub fn shared_counter(&mut self, key: &str, initial: f64) -> usize {
        self.keys.counter(key).unwrap_or_else(|| {
            let index = self.counter(initial);
            self.keys.counters.insert(key.into(), index);
            index
        })
    }

    /// Registers a tensor for the optimizer to train and returns its index.
    pub fn learned(&mut self, initial: Tensor<B, 2>) -> usize {
        self.state.learned.push(Param::from_tensor(stop(initial)));
        self.state.learned.len() - 1
    }

    /// Registers a tensor that only the stage changes and returns its index.
    pub fn buffer(&mut self, initial: Tensor<B, 2>) -> usize {
        self.state.buffers.push(Param::initialized(ParamId::new(), stop(initial)));
        self.state.buffers.len() - 1
    }

    /// Registers a number on the host that only the stage changes and returns its index.
    pub fn counter(&mut self, initial: f64) -> usize {
        self.state.counters.push(initial);
        self.state.counters.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};

    type A = Autodiff<Flex>;

    #[test]
    fn the_first_that_asks_for_a_key_makes_the_entry() {
        let device = Default::default();
        let zeros = || Tensor::<A, 2>::zeros([1, 3], &device);
        let mut state = SessionState::default();
        let mut keys = SharedKeys::default();
        let mut indices = Vec::new();
        for layer in 0..3 {
            let builder = StateBuilder::new(&mut state, zeros(), Clock::Step(0), 0);
            let mut builder = builder.with_keys(keys);
            indices.push([
                builder.shared_learned("scores", zeros() + layer as f32),
                builder.shared_buffer("mask", zeros()),
                builder.shared_counter("done", 0.0),
                builder.buffer(zeros()),
            ]);
            keys = builder.into_keys();
        }
        assert_eq!(indices, [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3]]);
        assert_eq!([keys.learned("scores"), keys.buffer("mask"), keys.counter("done")], [Some(0); 3]);
        assert_eq!(keys.learned("mask"), None);
        assert_eq!(state.learned(0).into_data(), zeros().into_data(), "as the first made it");
    }

    #[test]
    fn a_learned_entry_of_another_shape_keeps_its_identity() {
        let device = Default::default();
        let mut state = SessionState::<A>::default();
        let first = Tensor::ones([4, 1], &device);
        StateBuilder::new(&mut state, first.clone(), Clock::Step(0), 0).learned(first);
        let id = state.learned[0].id;
        state.set_learned(0, Tensor::zeros([2, 1], &device));
        assert_eq!((state.learned[0].id, state.learned(0).dims()), (id, [2, 1]));
        assert!(state.learned(0).is_require_grad());
    }
}
