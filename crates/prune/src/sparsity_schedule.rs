//! How much is removed when.

use briquette_core::fields::Fields;
use briquette_core::{Clock, Diagnostics, Problem, SessionState};
use burn::prelude::*;
use serde_json::{Map, Value, json};

/// How the removed share grows. With `s` the share of the end and `x = k / n`, for event `k` of `n`:
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `s` at once.
    OneShot,
    /// `s x`.
    Linear,
    /// `s (1 - (1 - x)^3)`: fast at first, where there is much to spare (Zhu and Gupta 2017, arXiv 1710.01878,
    /// equation 1, from a dense model). What neural_compressor calls cubic is `s x^3`, which is slow at first.
    Cubic,
    /// `1 - (1 - s)^x`: each event removes the same share of what is left, as neural_compressor does.
    Exponential,
    /// `s (1 - cos(x pi / 2))`, as neural_compressor does: slow at first.
    Cosine,
}

/// What recipes call the shapes.
const SHAPES: [(&str, Shape); 5] = [
    ("one_shot", Shape::OneShot),
    ("linear", Shape::Linear),
    ("cubic", Shape::Cubic),
    ("exponential", Shape::Exponential),
    ("cosine", Shape::Cosine),
];

/// The optimizer steps at which it is chosen anew what stays, and how much that is; held after the last.
///
/// Event `k` is at step `start + k every`. A growing share begins with event 0, at which nothing is removed yet, and
/// reaches its end with the last event at or before `end`, as in neural_compressor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparsitySchedule {
    shape: Shape,
    start: usize,
    every: usize,
    /// Number of the last event; none where what stays follows learned scores to the end of the session.
    last: Option<usize>,
}

/// How often what stays is chosen anew where it follows learned scores at a constant share.
#[derive(Debug, Clone, Copy)]
pub struct Follows {
    /// Default of `every`.
    pub every: usize,
}

impl SparsitySchedule {
    /// Everything at step `start`.
    pub fn one_shot(start: usize) -> Self {
        Self { shape: Shape::OneShot, start, every: 1, last: Some(0) }
    }

    /// Reads the key `schedule` of an entry; every mistake goes to `out`.
    ///
    /// | key | default | meaning |
    /// |---|---|---|
    /// | `shape` | `"one_shot"` | or `"linear"`, `"cubic"`, `"exponential"`, `"cosine"`: [`Shape`] |
    /// | `start` | 0 | optimizer steps before the first event |
    /// | `end` | required but for `"one_shot"` | step at which the share is reached; nothing is chosen anew afterwards |
    /// | `every` | a 32nd of the way to `end`: more events change little | steps between events |
    ///
    /// `"one_shot"` has an `end` and an `every` only where what stays follows learned scores: without an `end` to the
    /// end of the session.
    pub fn read(f: &mut Fields<'_>, follows: Option<Follows>, out: &mut Diagnostics) -> Self {
        let place = f.place_of("schedule");
        let at_once =
            Self { shape: Shape::OneShot, start: 0, every: follows.map_or(1, |f| f.every), last: Some(0) };
        let at_once = Self { last: if follows.is_some() { None } else { Some(0) }, ..at_once };
        let Some(value) = f.raw("schedule") else { return at_once };
        let Some(mut f) = Fields::open(value, place, out) else { return at_once };
        let shape = f.choice("shape", &SHAPES, out).unwrap_or(Shape::OneShot);
        let start = f.optional("start", out).unwrap_or(0);
        let end = f.optional::<usize>("end", out);
        let every = f.optional::<usize>("every", out);
        let read = match (shape, follows) {
            (Shape::OneShot, None) => one_shot(&f, start, end.is_some(), every.is_some(), out),
            (Shape::OneShot, Some(follows)) => following(&f, start, end, every.unwrap_or(follows.every), out),
            _ => growing(&f, shape, start, end, every, out),
        };
        f.finish(out);
        read
    }

    /// The first step at which anything is removed or, where the share grows, may be.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Whether the share of the end is reached with the first event.
    pub fn is_one_shot(&self) -> bool {
        self.shape == Shape::OneShot
    }

    /// Whether nothing is chosen anew from `clock` on.
    pub fn settled(&self, clock: Clock) -> bool {
        match (clock, self.last) {
            (Clock::Finished, _) => true,
            (clock, Some(last)) => clock.reached(self.start + last * self.every),
            (_, None) => false,
        }
    }

    /// Number of the latest event at `clock`.
    pub fn event(&self, clock: Clock) -> Option<usize> {
        match clock {
            Clock::Finished => Some(self.last.unwrap_or(0)),
            Clock::Step(n) => {
                let event = n.checked_sub(self.start)? / self.every;
                Some(self.last.map_or(event, |last| event.min(last)))
            }
        }
    }

    /// The share removed with event `k`, where `share` is that of the end.
    pub fn share(&self, share: f64, k: usize) -> f64 {
        let last = self.last.unwrap_or(0);
        if k >= last {
            return share;
        }
        let x = k as f64 / last as f64;
        match self.shape {
            Shape::OneShot => share,
            Shape::Linear => share * x,
            Shape::Cubic => share * (1.0 - (1.0 - x).powi(3)),
            Shape::Exponential => 1.0 - (1.0 - share).powf(x),
            Shape::Cosine => share * (1.0 - (x * std::f64::consts::FRAC_PI_2).cos()),
        }
    }

    /// What a plan says of it; nothing where everything happens at the beginning.
    pub fn details(&self, details: &mut Map<String, Value>) {
        let name = SHAPES.iter().find(|(_, shape)| *shape == self.shape).map_or("", |(name, _)| *name);
        if !self.is_one_shot() {
            details.insert("schedule".into(), json!(name));
        }
        if self.start > 0 || !self.is_one_shot() {
            details.insert("start".into(), json!(self.start));
        }
        if self.last != Some(0) {
            details.insert("every".into(), json!(self.every));
        }
        if let Some(last) = self.last.filter(|n| *n > 0) {
            details.insert("end".into(), json!(self.start + last * self.every));
        }
    }
}

fn one_shot(f: &Fields<'_>, start: usize, end: bool, every: bool, out: &mut Diagnostics) -> SparsitySchedule {
    for (key, said) in [("end", end), ("every", every)] {
        if said {
            let text = format!("`{key}` has an effect with a growing share or with learned scores only");
            out.add(f.place_of(key), Problem::Conflict(text));
        }
    }
    SparsitySchedule::one_shot(start)
}

fn following(
    f: &Fields<'_>,
    start: usize,
    end: Option<usize>,
    every: usize,
    out: &mut Diagnostics,
) -> SparsitySchedule {
    if every == 0 {
        out.add(f.place_of("every"), Problem::Range { value: "0".into(), expected: "at least 1".into() });
    }
    if let Some(end) = end.filter(|end| *end < start) {
        let expected = format!("an optimizer step from `start` ({start}) on");
        out.add(f.place_of("end"), Problem::Range { value: end.to_string(), expected });
    }
    let every = every.max(1);
    let last = end.map(|end| end.saturating_sub(start) / every);
    SparsitySchedule { shape: Shape::OneShot, start, every, last }
}

fn growing(
    f: &Fields<'_>,
    shape: Shape,
    start: usize,
    end: Option<usize>,
    every: Option<usize>,
    out: &mut Diagnostics,
) -> SparsitySchedule {
    let Some(end) = end else {
        out.add(f.place(), Problem::Missing { key: "end".into() });
        return SparsitySchedule::one_shot(start);
    };
    let range = |value: usize, expected: String| Problem::Range { value: value.to_string(), expected };
    if end <= start {
        out.add(f.place_of("end"), range(end, format!("an optimizer step after `start` ({start})")));
        return SparsitySchedule::one_shot(start);
    }
    let way = end - start;
    let every = every.unwrap_or((way / 32).max(1));
    if !(1..=way).contains(&every) {
        let expected = format!("1 to {way}, the steps from `start` to `end`");
        out.add(f.place_of("every"), range(every, expected));
        return SparsitySchedule::one_shot(start);
    }
    SparsitySchedule { shape, start, every, last: Some(way / every) }
}

/// Which events a session has had: a counter of its state, so that a resumed session goes on with the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Events {
    pub(crate) schedule: SparsitySchedule,
    pub(crate) counter: usize,
}

impl Events {
    /// What the counter holds at first: not even looked at.
    pub(crate) const NEW: f64 = -2.0;
    /// Looked at, no event so far.
    const NONE: f64 = -1.0;

    /// Whether this is the first look; the next is not.
    pub(crate) fn begins<B: Backend>(&self, state: &mut SessionState<B>) -> bool {
        let new = state.counter(self.counter) == Self::NEW;
        if new {
            state.set_counter(self.counter, Self::NONE);
        }
        new
    }

    /// The event that is due at `clock`, which then counts as had. At the end of a session it is the last, unless that
    /// was had before.
    pub(crate) fn due<B: Backend>(&self, state: &mut SessionState<B>, clock: Clock) -> Option<usize> {
        let event = self.schedule.event(clock).filter(|k| *k as f64 > state.counter(self.counter))?;
        state.set_counter(self.counter, event as f64);
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value, follows: Option<Follows>) -> Result<SparsitySchedule, Vec<String>> {
        let entry = json!({ "schedule": value });
        let mut out = Diagnostics::new();
        let mut f = Fields::open(&entry, "p", &mut out).expect("an object");
        let read = SparsitySchedule::read(&mut f, follows, &mut out);
        if out.is_empty() { Ok(read) } else { Err(out.iter().map(|d| d.to_string()).collect()) }
    }

    fn good(value: Value) -> SparsitySchedule {
        read(value, None).unwrap_or_else(|e| panic!("{e:?}"))
    }

    /// The share at each step.
    fn shares(schedule: &SparsitySchedule, share: f64, steps: usize) -> Vec<f64> {
        let at = |n| schedule.event(Clock::Step(n)).map_or(0.0, |k| schedule.share(share, k));
        (0..steps).map(at).collect()
    }

    #[test]
    fn exponential_steps_of_neural_compressor() {
        let schedule = good(json!({"shape": "exponential", "start": 2, "end": 10, "every": 2}));
        let found = shares(&schedule, 0.8, 14);
        let expected = [0., 0., 0., 0., 0.3313, 0.3313, 0.5528, 0.5528, 0.7009, 0.7009, 0.8, 0.8, 0.8, 0.8];
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 5e-5, "{found:?}");
        }
        assert_eq!(found[13], 0.8);
        let settled = |n| schedule.settled(Clock::Step(n));
        assert!(!settled(9) && settled(10) && schedule.settled(Clock::Finished));
    }

    #[test]
    fn shapes_between_start_and_end() {
        let middle = |shape: &str| {
            let schedule = good(json!({"shape": shape, "start": 10, "end": 20, "every": 5}));
            let found = shares(&schedule, 0.5, 21);
            assert_eq!((found[10], found[14], found[20]), (0.0, 0.0, 0.5), "{shape}");
            found[15]
        };
        assert_eq!(middle("linear"), 0.25);
        assert_eq!(middle("cubic"), 0.5 * 0.875);
        assert!((middle("exponential") - (1.0 - 0.5f64.sqrt())).abs() < 1e-15);
        assert!((middle("cosine") - 0.5 * (1.0 - 0.5f64.sqrt())).abs() < 1e-15);
        assert_eq!(shares(&good(json!({"start": 3})), 0.5, 5), [0.0, 0.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn an_end_between_events_is_reached_before() {
        let schedule = good(json!({"shape": "linear", "start": 2, "end": 11, "every": 4}));
        assert_eq!(shares(&schedule, 0.8, 12)[5..], [0.0, 0.4, 0.4, 0.4, 0.4, 0.8, 0.8]);
        let schedule = good(json!({"shape": "linear", "end": 640}));
        assert_eq!(schedule.event(Clock::Step(640)), Some(32));
        assert_eq!(schedule.event(Clock::Step(639)), Some(31));
        assert_eq!(good(json!({"shape": "linear", "end": 3})).event(Clock::Step(2)), Some(2));
    }

    #[test]
    fn what_follows_scores_goes_on() {
        let follows = Some(Follows { every: 4 });
        let schedule = read(json!({"start": 2}), follows).expect("good");
        assert_eq!(schedule.event(Clock::Step(1)), None);
        assert_eq!(schedule.event(Clock::Step(2 + 4 * 1000)), Some(1000));
        assert!(!schedule.settled(Clock::Step(1 << 40)));
        assert_eq!(schedule.share(0.3, 7), 0.3);
        let held = read(json!({"start": 2, "end": 9, "every": 2}), follows).expect("good");
        assert_eq!(held.event(Clock::Step(50)), Some(3));
        assert!(held.settled(Clock::Step(8)));
    }

    #[test]
    fn mistakes() {
        let refused = |value: Value| read(value, None).expect_err("a mistake");
        assert_eq!(refused(json!({"shape": "linear"})), ["p.schedule: missing key `end`"]);
        assert_eq!(
            refused(json!({"shape": "linear", "start": 5, "end": 5})),
            ["p.schedule.end: 5 is not an optimizer step after `start` (5)"]
        );
        for every in [0, 6] {
            let line = format!("p.schedule.every: {every} is not 1 to 5, the steps from `start` to `end`");
            assert_eq!(refused(json!({"shape": "cosine", "end": 5, "every": every})), [line]);
        }
        assert_eq!(
            refused(json!({"end": 5, "every": 2, "begin": 1})),
            [
                "p.schedule.end: `end` has an effect with a growing share or with learned scores only",
                "p.schedule.every: `every` has an effect with a growing share or with learned scores only",
                "p.schedule.begin: unknown key `begin`",
            ]
        );
        let follows = Some(Follows { every: 4 });
        assert_eq!(
            read(json!({"start": 5, "end": 4, "every": 0}), follows).expect_err("mistakes"),
            [
                "p.schedule.every: 0 is not at least 1",
                "p.schedule.end: 4 is not an optimizer step from `start` (5) on",
            ]
        );
        assert!(refused(json!({"shape": "square"}))[0].contains("is not one of one_shot"));
        assert_eq!(refused(json!(3)), ["p.schedule: expected an object, found 3"]);
    }
}
