//! Networks put together at random: whatever groups are found, they can be removed.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use common::{Net, judge};
use std::cell::Cell;

/// What is done with tensors `[rows, width]`, of which there are more and more; indices into those there are.
#[derive(Clone, Debug)]
enum Step {
    /// A layer of its own.
    Linear(usize),
    /// An activation.
    Tanh(usize),
    /// A scale of its own.
    Scale(usize),
    /// A sum of two of one width.
    Add(usize, usize),
    /// A product of two of one width.
    Gate(usize, usize),
    /// Two side by side.
    Cat(usize, usize),
    /// The first half times the second.
    Halves(usize),
    /// Pairs, of which all first entries come first.
    Shuffle(usize),
    /// Each entry twice.
    Twice(usize),
}

#[derive(Module, Debug)]
struct Random<B: Backend> {
    linears: Vec<Linear<B>>,
    scales: Vec<Param<Tensor<B, 1>>>,
    heads: Vec<Linear<B>>,
    #[module(skip)]
    steps: Vec<Step>,
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }
}

impl<B: Backend> Net<B> for Random<B> {
    type Input = Tensor<B, 2>;

    fn new(device: &B::Device) -> Self {
        let mut dice = Dice(SEED.get().wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut net = Self { linears: vec![], scales: vec![], heads: vec![], steps: vec![] };
        let mut widths = vec![5];
        while widths.len() < 9 {
            let (a, b) = (dice.throw(widths.len()), dice.throw(widths.len()));
            let (from, even) = (widths[a], widths[a] % 2 == 0);
            let alike = from == widths[b];
            let (step, width) = match dice.throw(12) {
                0..=2 => {
                    let to = 4 + 2 * dice.throw(3);
                    net.linears.push(LinearConfig::new(from, to).init(device));
                    (Step::Linear(a), to)
                }
                3 => (Step::Tanh(a), from),
                4 => {
                    net.scales.push(Param::from_tensor(Tensor::ones([from], device)));
                    (Step::Scale(a), from)
                }
                5 | 6 if alike => (Step::Add(a, b), from),
                7 if alike => (Step::Gate(a, b), from),
                8 if from + widths[b] < 20 => (Step::Cat(a, b), from + widths[b]),
                9 if even && from > 6 => (Step::Halves(a), from / 2),
                // A second one may undo the first: then it is the inner axis that loses entries, while these take pairs.
                10 if even && !net.steps.iter().any(|s| matches!(s, Step::Shuffle(_))) => {
                    (Step::Shuffle(a), from)
                }
                11 if from < 10 => (Step::Twice(a), 2 * from),
                _ => continue,
            };
            net.steps.push(step);
            widths.push(width);
        }
        net.heads = widths.iter().map(|&from| LinearConfig::new(from, 3).init(device)).collect();
        net
    }

    fn input(device: &B::Device) -> Self::Input {
        let values: Vec<f32> = (0..15).map(|i| ((i * 37 % 19) as f32 - 9.0) / 6.0).collect();
        Tensor::from_data(TensorData::new(values, [3, 5]), device)
    }

    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let (mut linears, mut scales) = (self.linears.iter(), self.scales.iter());
        let mut list = vec![x];
        for step in &self.steps {
            let of = |i: &usize| list[*i].clone();
            let next = match step {
                Step::Linear(a) => linears.next().unwrap().forward(of(a)),
                Step::Tanh(a) => of(a).tanh(),
                Step::Scale(a) => of(a) * scales.next().unwrap().val().unsqueeze(),
                Step::Add(a, b) => of(a) + of(b),
                Step::Gate(a, b) => of(a) * of(b).sin(),
                Step::Cat(a, b) => Tensor::cat(vec![of(a), of(b)], 1),
                Step::Halves(a) => {
                    let mut halves = of(a).chunk(2, 1);
                    halves.pop().unwrap().cos() * halves.pop().unwrap()
                }
                Step::Shuffle(a) => {
                    let [rows, width] = of(a).dims();
                    of(a).reshape([rows, width / 2, 2]).swap_dims(1, 2).reshape([rows, width])
                }
                Step::Twice(a) => {
                    let [rows, width] = of(a).dims();
                    of(a).reshape([rows, width, 1]).repeat_dim(2, 2).reshape([rows, 2 * width])
                }
            };
            list.push(next);
        }
        let sums = self.heads.iter().zip(list).map(|(head, x)| head.forward(x));
        sums.reduce(|a, b| a + b).unwrap()
    }
}
family!(RandomFamily, Random);

#[test]
fn whatever_is_found_can_be_removed() {
    let mut groups = 0;
    for seed in 0..200 {
        SEED.set(seed);
        groups += judge::<RandomFamily>().groups.len();
    }
    assert!(groups > 500, "{groups} groups");
}
