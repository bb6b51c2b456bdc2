//! What a running session holds in tensors.

use crate::schedule::Clock;
use crate::weight::stop;
use burn::module::{Param, ParamId};
use burn::prelude::*;

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

    /// Replaces a buffer; the new value is off the graph.
    ///
    /// # Panics
    /// When `index` was not handed out by a [`StateBuilder`] of this session.
    pub fn set_buffer(&mut self, index: usize, value: Tensor<B, 2>) {
        self.buffers[index] = Param::initialized(self.buffers[index].id, stop(value));
    }
}

/// Handed to a method when it is attached to one layer.
pub struct StateBuilder<'a, B: Backend> {
    state: &'a mut SessionState<B>,
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
        Self { state, weight, clock, seed }
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
