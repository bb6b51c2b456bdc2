//! Time that the device takes for a call.
//!
//! A host that launches small kernels is slower than the device, and calls timed back to back would show the host.
//! So the calls are queued behind work that keeps the device busy until all of them are there: the time of both less
//! the time of that work alone is what the device took for the calls. Calls that take long keep the device busy themselves.

use burn::prelude::*;
use std::time::{Duration, Instant};

/// Most calls in a round: a device's queue takes about a thousand launches before it makes the host wait, and a call
/// may be several.
const MOST: usize = 256;
/// Fewest calls in a round.
const FEWEST: usize = 4;
/// Calls of a round from which on the host may be what takes the time. Fewer are so long that the device is, and too few for
/// a difference of two times that are longer than theirs.
const SHORT: usize = 64;
/// Most bytes that the results of a round take.
const KEPT: usize = 4 << 30;
/// Rows of the work that keeps a device busy.
const BUSY_ROWS: usize = 16;
/// Most of that work at once.
const MOST_BUSY: usize = 600;

/// Microseconds of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// On the device.
    pub device_us: f64,
    /// From call to call, the host's part included.
    pub call_us: f64,
}

/// How carefully to time.
#[derive(Debug, Clone, Copy)]
pub struct Care {
    /// Rounds whose median counts.
    pub rounds: usize,
    /// How long the calls of a round take together.
    pub round: Duration,
    /// Side of the matrix that keeps the device busy; 0 where calls return when they are done.
    pub busy: usize,
}

/// Times calls on one device.
#[derive(Debug)]
pub struct Clock<B: Backend> {
    device: B::Device,
    care: Care,
    busy: Option<Busy<B>>,
}

/// Products of a few rows with a large matrix, one after the other: bound by memory, so that they take the same time
/// every time, and nothing that a backend could fuse.
#[derive(Debug)]
struct Busy<B: Backend> {
    x: Tensor<B, 2>,
    w: Tensor<B, 2>,
    once: Duration,
}

impl<B: Backend> Busy<B> {
    fn queue(&self, times: usize) -> Tensor<B, 2> {
        (0..times).fold(self.x.clone(), |x, _| x.matmul(self.w.clone()))
    }
}

impl<B: Backend> Clock<B> {
    /// A clock for a device.
    pub fn new(device: &B::Device, care: Care) -> Self {
        let mut clock = Self { device: device.clone(), care, busy: None };
        if care.busy > 0 {
            // Variance 1 / n keeps that of the rows.
            let limit = (3.0 / care.busy as f64).sqrt();
            let w = crate::numbers::matrix([care.busy, care.busy], limit, device);
            let x = crate::numbers::matrix([BUSY_ROWS, care.busy], 1.0, device);
            let mut busy = Busy { x, w, once: Duration::ZERO };
            clock.wall(|| busy.queue(5));
            busy.once = clock.wall(|| busy.queue(40)) / 40;
            clock.busy = Some(busy);
        }
        clock
    }

    /// Time until everything that `work` starts is done. Its result is kept until then: what nobody sees may not be
    /// computed.
    pub fn wall<T>(&self, work: impl FnOnce() -> T) -> Duration {
        self.sync();
        let begin = Instant::now();
        let kept = work();
        self.sync();
        let time = begin.elapsed();
        drop(kept);
        time
    }

    fn sync(&self) {
        B::sync(&self.device).expect("the device answers");
    }

    /// Times `call` after calling it `warm` times. Results of a round are kept until it is over; `bytes` is the
    /// size of one.
    pub fn time<T>(&self, warm: usize, bytes: usize, mut call: impl FnMut() -> T) -> Timing {
        let most = (KEPT / bytes.max(1)).clamp(FEWEST, MOST);
        let mut calls = |n: usize| (0..n).map(|_| call()).collect::<Vec<T>>();
        let mut left = warm.max(FEWEST);
        while left > 0 {
            let n = left.min(most);
            self.wall(|| calls(n));
            left -= n;
        }
        let once = self.wall(|| calls(FEWEST)) / FEWEST as u32;
        let n = (self.care.round.as_nanos() / once.as_nanos().max(1)) as usize;
        let n = n.clamp(FEWEST, most);
        let whole = self.wall(|| calls(n));
        let (mut device, mut host) = (Vec::new(), Vec::new());
        for _ in 0..self.care.rounds.max(1) {
            let alone = self.wall(|| calls(n));
            host.push(micros(alone) / n as f64);
            let Some(busy) = self.busy.as_ref().filter(|_| n >= SHORT) else { continue };
            let times = (whole.max(alone).as_nanos() * 5 / 4 / busy.once.as_nanos().max(1)) as usize;
            let times = times.clamp(1, MOST_BUSY);
            let before = self.wall(|| busy.queue(times));
            let both = self.wall(|| (busy.queue(times), calls(n)));
            device.push((micros(both) - micros(before)) / n as f64);
        }
        let call_us = median(&host);
        // What a caller sees is never shorter than what the device does, and all that is known where the rest is noise.
        let device_us = Some(median(&device)).filter(|us| *us > 0.0).map_or(call_us, |us| us.min(call_us));
        Timing { device_us, call_us }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The middle of some numbers; no number for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[test]
    fn the_middle_of_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_call_takes_what_it_sleeps_with_and_without_a_queue() {
        for busy in [0, 16] {
            let care = Care { rounds: 1, round: Duration::from_millis(60), busy };
            let clock = Clock::<Flex>::new(&Default::default(), care);
            let mut calls = 0;
            let timing = clock.time(2, 8, || {
                calls += 1;
                std::thread::sleep(Duration::from_micros(200));
            });
            // No more can be said of a machine that does other things at the same time.
            assert!(timing.call_us >= 200.0, "{timing:?}");
            assert!(timing.device_us > 0.0 && timing.device_us <= timing.call_us, "{timing:?}");
            assert!(calls >= 4 * FEWEST, "{calls} calls");
        }
    }
}
