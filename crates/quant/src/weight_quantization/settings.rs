//! Reading the settings of weight quantization.

use super::WeightQuantization;
use crate::bit_schedule::{BitSchedule, Pace};
use crate::estimator::{Binarization, Estimator, Gradient, ScaleSource};
use crate::rounding::Rounding;
use crate::scheme::{Granularity, ScaleSearch, WeightScheme};
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, Problem, ScaleRule, Schedule};
use serde_json::Value;

impl WeightQuantization {
    /// Reads the entry's settings; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let bits = read_bits(&mut f, out);
        let symmetric = f.optional("symmetric", out).unwrap_or(true);
        let granularity = read_granularity(&mut f, out);
        let roundings = [("nearest", Rounding::Nearest), ("stochastic", Rounding::Stochastic)];
        let rounding = f.choice("rounding", &roundings, out).unwrap_or(Rounding::Nearest);
        let searches = [("max", ScaleSearch::Max), ("mse", ScaleSearch::Mse)];
        let search = f.choice("scale_search", &searches, out).unwrap_or(ScaleSearch::Max);
        let rule = read_rule(&mut f, out);
        let start = f.optional("start", out).unwrap_or(0);
        let falling = read_falling(&mut f, bits, start, out);
        let mixed = read_mixed(&mut f, out);
        let (estimator, said) = read_estimator(&mut f, out);
        // Without a width the rest cannot be judged; 8 allows most.
        let scheme = WeightScheme { bits: bits.unwrap_or(8), symmetric, granularity, rule, rounding, search };
        if bits.is_some() {
            check_few_bits(&f, &scheme, out);
            check_estimator(&f, &scheme, &estimator, said, out);
            check_learned(&f, &scheme, &estimator, falling.is_some(), out);
        }
        f.finish(out);
        let schedule = Schedule { start };
        (out.len() == before).then_some(Self { scheme, schedule, estimator, falling, mixed })
    }
}

/// `bits`, where it is a width.
fn read_bits(f: &mut Fields<'_>, out: &mut Diagnostics) -> Option<u32> {
    let bits = f.required::<u64>("bits", out)?;
    if !(1..=8).contains(&bits) {
        let problem = Problem::Range { value: bits.to_string(), expected: "a bit width of 1 to 8".into() };
        out.add(f.place_of("bits"), problem);
        return None;
    }
    Some(bits as u32)
}

/// `arithmetic`, shared by all quantizers: the rule that turns ranges into scales.
pub(crate) fn read_rule(f: &mut Fields<'_>, out: &mut Diagnostics) -> ScaleRule {
    let rules = [("paper", ScaleRule::Paper), ("deepspeed", ScaleRule::DeepSpeed)];
    f.choice("arithmetic", &rules, out).unwrap_or(ScaleRule::Paper)
}

fn read_granularity(f: &mut Fields<'_>, out: &mut Diagnostics) -> Granularity {
    let place = f.place_of("granularity");
    let expected = "\"tensor\", \"channel\", {\"groups\": n} or {\"group_size\": n}";
    let Some(value) = f.raw("granularity") else { return Granularity::Channel };
    match serde_json::from_value::<Granularity>(value.clone()) {
        Ok(Granularity::Groups(0) | Granularity::GroupSize(0)) => {
            out.add(place, Problem::Range { value: "0".into(), expected: "at least 1".into() });
            Granularity::Channel
        }
        Ok(granularity) => granularity,
        Err(_) => {
            out.add(place, briquette_core::fields::type_problem(expected, value));
            Granularity::Channel
        }
    }
}

/// `start_bits` with `period` or `end`.
fn read_falling(
    f: &mut Fields<'_>,
    bits: Option<u32>,
    start: usize,
    out: &mut Diagnostics,
) -> Option<BitSchedule> {
    let from = f.optional::<u64>("start_bits", out);
    let period = f.optional::<usize>("period", out);
    let end = f.optional::<usize>("end", out);
    let to = bits?;
    if let Some(from) = from
        && !(u64::from(to)..=32).contains(&from)
    {
        let expected = format!("a bit width of {to}, that of the end, to 32");
        out.add(f.place_of("start_bits"), Problem::Range { value: from.to_string(), expected });
        return None;
    }
    let mut conflict = |key: &str, text: &str| out.add(f.place_of(key), Problem::Conflict(text.into()));
    let from = from.map_or(to, |n| n as u32);
    if from == to {
        for (key, said) in [("period", period.is_some()), ("end", end.is_some())] {
            if said {
                conflict(key, &format!("`{key}` has an effect with `start_bits` over `bits` only"));
            }
        }
        return None;
    }
    let pace = match (period, end) {
        (Some(_), Some(_)) => {
            conflict("end", "`period` and `end` are two paces; a schedule has one of them");
            return None;
        }
        (Some(period), None) => Pace::Doubling { period },
        (None, Some(end)) if end > start => Pace::Even { steps: end - start },
        (None, Some(end)) => {
            let expected = format!("an optimizer step after {start}, where quantization starts");
            out.add(f.place_of("end"), Problem::Range { value: end.to_string(), expected });
            return None;
        }
        (None, None) => {
            conflict("start_bits", "bits that fall need a pace: `period` or `end`");
            return None;
        }
    };
    Some(BitSchedule { from, to, pace })
}

/// `mixed`: how fast the share of the float weight falls.
fn read_mixed(f: &mut Fields<'_>, out: &mut Diagnostics) -> Option<f64> {
    let place = f.place_of("mixed");
    let mut f = Fields::open(f.raw("mixed")?, place, out)?;
    // DeepSpeed's default.
    let ratio = f.optional::<f64>("change_ratio", out).unwrap_or(0.001);
    if !(ratio > 0.0 && ratio <= 1.0) {
        let problem = Problem::Range { value: ratio.to_string(), expected: "over 0 and at most 1".into() };
        out.add(f.place_of("change_ratio"), problem);
    }
    f.finish(out);
    Some(ratio)
}

/// The estimator, and whether its gradient was said.
fn read_estimator(f: &mut Fields<'_>, out: &mut Diagnostics) -> (Estimator, bool) {
    let sources = [("range", ScaleSource::Range), ("learned", ScaleSource::Learned)];
    let scale = f.choice("scale", &sources, out).unwrap_or_default();
    let kinds = [
        ("sign", Binarization::Sign),
        ("mean_centred", Binarization::MeanCentred),
        ("elastic", Binarization::Elastic),
    ];
    let binarization = f.choice("binarization", &kinds, out).unwrap_or_default();
    let gradients = [("identity", Gradient::Identity), ("clipped", Gradient::Clipped)];
    let said = f.choice("gradient", &gradients, out);
    let paper = if scale == ScaleSource::Learned { Gradient::Clipped } else { Gradient::Identity };
    (Estimator { scale, binarization, gradient: said.unwrap_or(paper) }, said.is_some())
}

/// What one and two bits have no use for.
fn check_few_bits(f: &Fields<'_>, scheme: &WeightScheme, out: &mut Diagnostics) {
    let bits = scheme.bits;
    let name = if bits == 1 { "binary" } else { "ternary" };
    let mut refuse = |key: &str, what: &str| {
        out.add(f.place_of(key), Problem::Conflict(format!("{name} weights ({bits} bits) {what}")));
    };
    if bits <= 2 && !scheme.symmetric {
        refuse("symmetric", "are always symmetric");
    }
    if bits <= 2 && scheme.rounding == Rounding::Stochastic {
        refuse("rounding", "are not rounded");
    }
    if bits <= 2 && scheme.search == ScaleSearch::Mse {
        refuse("scale_search", "have their scale from the mean magnitude");
    }
}

/// Settings of the estimator that would change nothing.
fn check_estimator(
    f: &Fields<'_>,
    scheme: &WeightScheme,
    estimator: &Estimator,
    gradient_said: bool,
    out: &mut Diagnostics,
) {
    let mut refuse = |key: &str, text: &str| out.add(f.place_of(key), Problem::Conflict(text.into()));
    if estimator.binarization != Binarization::Sign && scheme.bits != 1 {
        refuse("binarization", "`binarization` has an effect on binary weights (1 bit) only");
    }
    if estimator.scale == ScaleSource::Learned && scheme.bits == 1 {
        refuse("scale", "binary weights learn their scale by `\"binarization\": \"elastic\"`");
    }
    let whole = scheme.bits > 2
        && estimator.scale == ScaleSource::Range
        && scheme.search == ScaleSearch::Max
        && scheme.rule == ScaleRule::Paper;
    if whole && gradient_said && estimator.gradient == Gradient::Clipped {
        refuse("gradient", "no weight lies beyond a range that is taken from the largest one");
    }
}

/// What does not go with a learned scale.
fn check_learned(
    f: &Fields<'_>,
    scheme: &WeightScheme,
    estimator: &Estimator,
    falling: bool,
    out: &mut Diagnostics,
) {
    if !estimator.learns_scale(scheme.bits) {
        return;
    }
    let mut refuse = |key: &str, text: &str| out.add(f.place_of(key), Problem::Conflict(text.into()));
    if falling {
        refuse("start_bits", "a learned scale belongs to one bit width; bits cannot fall");
    }
    if scheme.bits == 1 {
        return;
    }
    if scheme.bits > 2 && !scheme.symmetric {
        refuse("symmetric", "codes with a learned scale are symmetric");
    }
    if scheme.bits > 2 && scheme.rounding == Rounding::Stochastic {
        refuse("rounding", "the gradient of a learned scale is that of the nearest code");
    }
    if scheme.bits > 2 && scheme.search == ScaleSearch::Mse {
        refuse("scale_search", "a learned scale is not searched for");
    }
}
