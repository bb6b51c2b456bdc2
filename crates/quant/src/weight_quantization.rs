//! Weight quantization: fake-quantized while the session runs, coded at its end.

use crate::fake_quant::{code, fake_quantize};
use crate::rounding::{Rounding, layer_seed};
use crate::scheme::{Granularity, Groups, ScaleSearch, WeightScheme};
use briquette_core::fields::Fields;
use briquette_core::{
    Attached, Clock, CodeKind, CompressionMethod, Diagnostics, LayerKind, Left, ModelView, Outcome,
    PlanBuilder, Problem, ScaleRule, Schedule, SessionState, Site, Stage, StageKind, StateBuilder, Step,
    straight_through,
};
use burn::prelude::*;
use serde_json::{Map, Value, json};

/// Quantizes weights (ZeroQuant, arXiv 2206.01861; ternary and binary as in XTC, 2206.01859).
///
/// | key | default | why |
/// |---|---|---|
/// | `bits` | required | 3 to 8 uniform, 2 ternary, 1 binary |
/// | `symmetric` | `true` | integer kernels need no zero point then |
/// | `granularity` | `"channel"` | free at run time, and all that 8 bits need; or `"tensor"`, `{"groups": n}`, `{"group_size": n}` |
/// | `rounding` | `"nearest"` | least error; `"stochastic"` is for training |
/// | `scale_search` | `"max"` | `"mse"` clips outliers where that lowers the error of the group; pays at 3 and 4 bits |
/// | `arithmetic` | `"paper"` | `"deepspeed"` reproduces DeepSpeed's |
/// | `start` | 0 | optimizer steps before weights are quantized |
#[derive(Debug, Clone)]
pub struct WeightQuantization {
    scheme: WeightScheme,
    schedule: Schedule,
}

impl WeightQuantization {
    /// The JSON key.
    pub const NAME: &'static str = "weight_quantization";

    /// A method with these settings.
    pub fn new(scheme: WeightScheme, schedule: Schedule) -> Self {
        Self { scheme, schedule }
    }

    /// Reads the entry's settings; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let bits = f.required::<u64>("bits", out);
        let symmetric = f.optional("symmetric", out).unwrap_or(true);
        let granularity = read_granularity(&mut f, out);
        let roundings = [("nearest", Rounding::Nearest), ("stochastic", Rounding::Stochastic)];
        let rounding = f.choice("rounding", &roundings, out).unwrap_or(Rounding::Nearest);
        let searches = [("max", ScaleSearch::Max), ("mse", ScaleSearch::Mse)];
        let search = f.choice("scale_search", &searches, out).unwrap_or(ScaleSearch::Max);
        let rule = read_rule(&mut f, out);
        let start = f.optional("start", out).unwrap_or(0);
        check(&f, bits, symmetric, rounding, search, out);
        f.finish(out);
        let bits = bits? as u32;
        let scheme = WeightScheme { bits, symmetric, granularity, rule, rounding, search };
        (out.len() == before).then(|| Self::new(scheme, Schedule { start }))
    }

    fn seed(&self, session: u64, site: &Site) -> u64 {
        layer_seed(session, &site.name)
    }
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

fn check(
    f: &Fields<'_>,
    bits: Option<u64>,
    symmetric: bool,
    rounding: Rounding,
    search: ScaleSearch,
    out: &mut Diagnostics,
) {
    let Some(bits) = bits else { return };
    if !(1..=8).contains(&bits) {
        let problem = Problem::Range { value: bits.to_string(), expected: "a bit width of 1 to 8".into() };
        out.add(f.place_of("bits"), problem);
        return;
    }
    let name = if bits == 1 { "binary" } else { "ternary" };
    let mut refuse = |key: &str, what: &str| {
        out.add(f.place_of(key), Problem::Conflict(format!("{name} weights ({bits} bits) {what}")));
    };
    if bits <= 2 && !symmetric {
        refuse("symmetric", "are always symmetric");
    }
    if bits <= 2 && rounding == Rounding::Stochastic {
        refuse("rounding", "are not rounded");
    }
    if bits <= 2 && search == ScaleSearch::Mse {
        refuse("scale_search", "have their scale from the mean magnitude");
    }
}

impl<B: Backend> CompressionMethod<B> for WeightQuantization {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn kind(&self) -> StageKind {
        StageKind::Quantize
    }

    fn plan(&self, _model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        for site in selected {
            if site.kind == LayerKind::BatchNorm {
                let problem = Problem::WrongKind { method: Self::NAME.into(), kind: site.kind.to_string() };
                out.problem_at("on", site, problem);
                continue;
            }
            match self.scheme.granularity.groups(site.kind, site.shape) {
                Ok(groups) => out.step(site, details(&self.scheme, self.schedule, groups)),
                Err(problem) => out.problem_at("granularity", site, problem),
            }
        }
    }

    fn attach(&self, step: &Step, state: &mut StateBuilder<'_, B>) -> Attached<B> {
        let site = &step.site;
        let groups = self.scheme.granularity.groups(site.kind, site.shape).expect("the plan has checked it");
        let seed = self.seed(state.seed, site);
        Attached::Weight(Box::new(WeightStage { scheme: self.scheme, schedule: self.schedule, groups, seed }))
    }
}

fn details(scheme: &WeightScheme, schedule: Schedule, groups: Groups) -> Map<String, Value> {
    let mut details = Map::new();
    details.insert("code".into(), json!(scheme.code_name()));
    details.insert("bits".into(), json!(scheme.bits));
    details.insert("groups".into(), json!(groups.count));
    details.insert("group_length".into(), json!(groups.length));
    details.insert("rounding".into(), json!(scheme.rounding));
    details.insert("scale_search".into(), json!(scheme.search));
    details.insert("arithmetic".into(), json!(scheme.rule));
    if schedule.start > 0 {
        details.insert("start".into(), json!(schedule.start));
    }
    details
}

struct WeightStage {
    scheme: WeightScheme,
    schedule: Schedule,
    groups: Groups,
    seed: u64,
}

impl WeightStage {
    /// Stochastic rounding draws anew at every step, and the same at the same step.
    fn seed_at(&self, clock: Clock) -> u64 {
        match clock {
            Clock::Step(n) => crate::rounding::mix(self.seed ^ n as u64),
            Clock::Finished => self.seed,
        }
    }
}

impl<B: Backend> Stage<B> for WeightStage {
    fn apply(&self, _: &SessionState<B>, clock: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        if !self.schedule.active(clock) {
            return weight;
        }
        let values = briquette_core::stop(weight.clone());
        let quantized = fake_quantize(values, self.groups, &self.scheme, self.seed_at(clock));
        straight_through(weight, quantized)
    }

    fn constant(&self, clock: Clock) -> bool {
        self.schedule.settled(clock) && self.scheme.rounding == Rounding::Nearest
    }

    fn finish(self: Box<Self>, _: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B> {
        let device = weight.device();
        let coded = code(weight, self.groups, &self.scheme, self.seed);
        debug_assert!(coded.kind != CodeKind::Binary || coded.bits == 1);
        let weight = Tensor::from_data(TensorData::new(coded.values(), coded.shape), &device);
        Outcome { weight, left: Left::Coded(coded) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(value: Value) -> Vec<String> {
        let mut out = Diagnostics::new();
        let read = WeightQuantization::read(&value, "w", &mut out);
        assert_eq!(read.is_none(), !out.is_empty());
        out.iter().map(|d| d.to_string()).collect()
    }

    #[test]
    fn good_settings_read() {
        for value in [
            json!({"bits": 8}),
            json!({"bits": 4, "granularity": {"group_size": 64}, "symmetric": false}),
            json!({"bits": 1, "granularity": "tensor", "arithmetic": "deepspeed"}),
        ] {
            assert!(problems(value).is_empty());
        }
    }

    #[test]
    fn bad_settings_are_all_reported() {
        assert_eq!(problems(json!({"bits": 0})), ["w.bits: 0 is not a bit width of 1 to 8"]);
        assert_eq!(
            problems(json!({"bits": 2, "symmetric": false, "granularity": {"groups": 0}, "bitz": 1})),
            [
                "w.granularity: 0 is not at least 1",
                "w.symmetric: ternary weights (2 bits) are always symmetric",
                "w.bitz: unknown key `bitz`, did you mean `bits`?",
            ]
        );
        assert_eq!(problems(json!({"bits": 9e9, "rounding": "up"})).len(), 2);
        assert_eq!(problems(json!([1])).len(), 1);
    }
}
