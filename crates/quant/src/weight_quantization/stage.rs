//! Weight quantization at work on one weight.

use crate::bit_schedule::{BitSchedule, Stand};
use crate::fake_quant::Quantizer;
use crate::rounding::{Rounding, mix};
use crate::scheme::{Granularity, WeightScheme};
use briquette_core::{Clock, KeptPart, Left, Outcome, Problem, Schedule, SessionState, Stage};
use burn::prelude::*;

/// Settings of one weight, and where its state is.
pub(super) struct WeightStage {
    /// At the final bits.
    pub(super) quantizer: Quantizer,
    pub(super) schedule: Schedule,
    pub(super) falling: Option<Falling>,
    /// How fast the share of the float weight falls, and the counter that holds it.
    pub(super) mixed: Option<(f64, usize)>,
    /// The learned entry.
    pub(super) scale: Option<usize>,
    pub(super) seed: u64,
}

/// A bit schedule, and the counters that hold where it stands.
#[derive(Clone, Copy)]
pub(super) struct Falling {
    pub(super) schedule: BitSchedule,
    pub(super) bits: usize,
    pub(super) period: usize,
}

impl Falling {
    fn stand<B: Backend>(&self, state: &SessionState<B>) -> Stand {
        Stand { bits: state.counter(self.bits) as u32, period: state.counter(self.period) }
    }
}

impl WeightStage {
    /// Stochastic rounding draws anew at every step, and the same at the same step.
    fn seed_at(&self, clock: Clock) -> u64 {
        match clock {
            Clock::Step(n) => mix(self.seed ^ n as u64),
            Clock::Finished => self.seed,
        }
    }

    /// The quantizer with the bits of now.
    fn quantizer_at<B: Backend>(&self, state: &SessionState<B>, clock: Clock) -> Quantizer {
        match (self.falling, clock) {
            (Some(falling), Clock::Step(_)) => {
                let bits = falling.stand(state).bits;
                Quantizer { scheme: WeightScheme { bits, ..self.quantizer.scheme }, ..self.quantizer }
            }
            _ => self.quantizer,
        }
    }

    /// The share of the float weight that is in the view now.
    fn real_at<B: Backend>(&self, state: &SessionState<B>, clock: Clock) -> f64 {
        match (self.mixed, clock) {
            (Some((_, counter)), Clock::Step(_)) => state.counter(counter),
            _ => 0.0,
        }
    }

    /// Optimizer steps since the schedule's start, where there are any.
    fn elapsed(&self, clock: Clock) -> Option<usize> {
        match clock {
            Clock::Step(n) => n.checked_sub(self.schedule.start).filter(|n| *n > 0),
            Clock::Finished => None,
        }
    }

    /// The stand of now and that after the step that `clock` counts.
    fn stands<B: Backend>(
        &self,
        state: &SessionState<B>,
        clock: Clock,
        sensitivity: Option<f64>,
    ) -> Option<(Falling, Stand, Stand)> {
        let (falling, elapsed) = (self.falling?, self.elapsed(clock)?);
        let now = falling.stand(state);
        Some((falling, now, falling.schedule.next(now, elapsed, sensitivity)))
    }
}

impl<B: Backend> Stage<B> for WeightStage {
    fn apply(&self, state: &SessionState<B>, clock: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        if !self.schedule.active(clock) {
            return weight;
        }
        let scale = self.scale.map(|index| state.learned(index));
        let real = self.real_at(state, clock);
        self.quantizer_at(state, clock).apply(weight, scale, real, self.seed_at(clock))
    }

    fn after_step(&self, state: &mut SessionState<B>, clock: Clock, sensitivity: Option<f64>) {
        if self.elapsed(clock).is_none() {
            return;
        }
        if let Some((ratio, counter)) = self.mixed {
            let real = state.counter(counter);
            state.set_counter(counter, if real <= ratio { 0.0 } else { real - ratio });
        }
        let Some((falling, now, next)) = self.stands(state, clock, sensitivity) else { return };
        state.set_counter(falling.bits, f64::from(next.bits));
        state.set_counter(falling.period, next.period);
        if let Some((_, counter)) = self.mixed.filter(|_| next.bits < now.bits) {
            state.set_counter(counter, 1.0);
        }
    }

    fn switches_at(&self, state: &SessionState<B>, clock: Clock) -> bool {
        self.stands(state, clock, None).is_some_and(|(_, now, next)| next.bits < now.bits)
    }

    fn constant(&self, clock: Clock) -> bool {
        let moving = self.falling.is_some() || self.mixed.is_some() || self.scale.is_some();
        let drawn = self.quantizer.scheme.rounding == Rounding::Stochastic;
        clock == Clock::Finished || self.schedule.settled(clock) && !moving && !drawn
    }

    /// A scale of each row stays with its row; scales of other groups are learned anew from what is left of the weight,
    /// of which their groups now hold something else.
    fn shrink(&mut self, state: &mut SessionState<B>, left: &KeptPart<'_, B>) -> Result<(), Problem> {
        let granularity = self.quantizer.scheme.granularity;
        self.quantizer.groups = granularity.groups(left.site.kind, left.site.shape)?;
        let Some(index) = self.scale else { return Ok(()) };
        let of_rows = self.quantizer.groups.count == left.rows.len() && granularity == Granularity::Channel;
        let scale = if of_rows {
            let rows: Vec<i32> = left.rows.iter().map(|row| *row as i32).collect();
            let rows = TensorData::new(rows, [left.rows.len()]);
            Some(state.learned(index).select(0, Tensor::from_data(rows, &left.weight.device())))
        } else {
            self.quantizer.first_scale(left.weight.clone())
        };
        if let Some(scale) = scale {
            state.set_learned(index, scale);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, state: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B> {
        let (device, dtype) = (weight.device(), weight.dtype());
        let scale = self.scale.map(|index| state.learned(index));
        let coded = self.quantizer.code(weight, scale, self.seed);
        let values = TensorData::new(coded.values(), coded.shape);
        let weight = Tensor::from_data(values, (&device, dtype));
        Outcome { weight, left: Left::Coded(coded) }
    }
}
