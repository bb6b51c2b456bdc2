//! Settings, and the life of one weight.

use super::*;
use briquette_core::{Clock, Diagnostics, KeptPart, Left, SessionState, Stage, host_floats};
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, FloatDType};

type A = Autodiff<Flex>;

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
        json!({"bits": 8, "start_bits": 32, "period": 0, "rounding": "stochastic"}),
        json!({"bits": 1, "start_bits": 8, "start": 10, "end": 11, "mixed": {}}),
        json!({"bits": 2, "scale": "learned", "gradient": "identity"}),
        json!({"bits": 1, "binarization": "elastic", "gradient": "clipped"}),
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

#[test]
fn bits_that_cannot_fall_are_refused() {
    let range = |n: u32| format!("w.start_bits: {n} is not a bit width of 8, that of the end, to 32");
    assert_eq!(problems(json!({"bits": 8, "start_bits": 4, "period": 1})), [range(4)]);
    assert_eq!(problems(json!({"bits": 8, "start_bits": 33, "period": 1})), [range(33)]);
    let no_pace = "w.start_bits: bits that fall need a pace: `period` or `end`";
    assert_eq!(problems(json!({"bits": 8, "start_bits": 12})), [no_pace]);
    let two = "w.end: `period` and `end` are two paces; a schedule has one of them";
    assert_eq!(problems(json!({"bits": 8, "start_bits": 12, "period": 1, "end": 5})), [two]);
    let early = "w.end: 5 is not an optimizer step after 5, where quantization starts";
    assert_eq!(problems(json!({"bits": 8, "start_bits": 12, "start": 5, "end": 5})), [early]);
    for key in ["period", "end"] {
        let line = format!("w.{key}: `{key}` has an effect with `start_bits` over `bits` only");
        assert_eq!(problems(json!({"bits": 8, "start_bits": 8, key: 5})), [line]);
    }
    assert_eq!(
        problems(json!({"bits": 8, "mixed": {"change_ratio": 0.0, "ratio": 1}})),
        ["w.mixed.change_ratio: 0 is not over 0 and at most 1", "w.mixed.ratio: unknown key `ratio`",]
    );
}

#[test]
fn estimators_that_would_change_nothing_are_refused() {
    let elsewhere = "w.binarization: `binarization` has an effect on binary weights (1 bit) only";
    assert_eq!(problems(json!({"bits": 2, "binarization": "elastic"})), [elsewhere]);
    let elastic = "w.scale: binary weights learn their scale by `\"binarization\": \"elastic\"`";
    assert_eq!(problems(json!({"bits": 1, "scale": "learned"})), [elastic]);
    let whole = "w.gradient: no weight lies beyond a range that is taken from the largest one";
    assert_eq!(problems(json!({"bits": 4, "gradient": "clipped"})), [whole]);
    assert_eq!(
        problems(json!({"bits": 4, "scale": "learned", "symmetric": false, "rounding": "stochastic",
                        "scale_search": "mse", "start_bits": 8, "period": 3})),
        [
            "w.start_bits: a learned scale belongs to one bit width; bits cannot fall",
            "w.symmetric: codes with a learned scale are symmetric",
            "w.rounding: the gradient of a learned scale is that of the nearest code",
            "w.scale_search: a learned scale is not searched for",
        ]
    );
    let fixed = "w.start_bits: a learned scale belongs to one bit width; bits cannot fall";
    assert_eq!(
        problems(json!({"bits": 1, "binarization": "elastic", "start_bits": 2, "period": 3})),
        [fixed]
    );
}

/// Uneven values of both signs, `[4, 24]`.
fn weight() -> Vec<f32> {
    let value = |i: usize| (i as f32 * 0.7311).sin() * (0.3 + 0.2 * (i as f32 * 0.1931).cos());
    (1..=96).map(value).collect()
}

fn tensor<B: Backend>(values: &[f32]) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [4, 24]), &Default::default())
}

fn attach<B: Backend>(
    settings: &Value,
    values: &[f32],
    clock: Clock,
) -> (Box<dyn Stage<B>>, SessionState<B>) {
    let mut problems = Diagnostics::new();
    let method = WeightQuantization::read(settings, "w", &mut problems);
    let method = method.unwrap_or_else(|| panic!("{settings}: {problems}"));
    let site = Site {
        name: "w".into(),
        path: "w".into(),
        kind: LayerKind::Linear,
        shape: [4, 24],
        native: vec![24, 4],
        trainable: true,
        tied: Vec::new(),
        drop_in: true,
    };
    let step = Step {
        site,
        entry: 0,
        place: "w".into(),
        method: WeightQuantization::NAME.into(),
        kind: StageKind::Quantize,
        details: Map::new(),
        cut: None,
    };
    let mut state = SessionState::default();
    let mut builder = StateBuilder::new(&mut state, tensor(values), clock, 3);
    match method.attach(&step, &mut builder) {
        Attached::Weight(stage) => (stage, state),
        _ => panic!("weight quantization acts on weights"),
    }
}

/// Every estimator, and what else changes how a weight is quantized.
fn all_kinds() -> Vec<Value> {
    vec![
        json!({"bits": 8}),
        json!({"bits": 4, "symmetric": false}),
        json!({"bits": 4, "granularity": {"group_size": 8}, "scale_search": "mse", "gradient": "clipped"}),
        json!({"bits": 4, "rounding": "stochastic"}),
        json!({"bits": 4, "rounding": "stochastic", "arithmetic": "deepspeed", "gradient": "clipped"}),
        json!({"bits": 3, "scale": "learned"}),
        json!({"bits": 3, "scale": "learned", "arithmetic": "deepspeed", "gradient": "identity"}),
        json!({"bits": 2, "scale": "learned", "granularity": "tensor"}),
        json!({"bits": 2}),
        json!({"bits": 2, "gradient": "clipped"}),
        json!({"bits": 1}),
        json!({"bits": 1, "binarization": "mean_centred"}),
        json!({"bits": 1, "binarization": "elastic"}),
        json!({"bits": 1, "binarization": "elastic", "gradient": "clipped"}),
        json!({"bits": 6, "start_bits": 10, "period": 1}),
        json!({"bits": 6, "mixed": {"change_ratio": 0.5}}),
    ]
}

#[test]
fn half_precision_is_quantized_in_full() {
    for settings in all_kinds() {
        let half = tensor::<A>(&weight()).cast(FloatDType::BF16).require_grad();
        let whole = host_floats(half.clone());
        let (stage, state) = attach::<A>(&settings, &whole, Clock::Finished);
        let shown = stage.apply(&state, Clock::Finished, half.clone());
        assert_eq!(shown.dtype(), DType::BF16, "{settings}");
        let full = stage.apply(&state, Clock::Finished, tensor(&whole)).cast(FloatDType::BF16);
        assert_eq!(host_floats(shown.clone()), host_floats(full), "{settings}");
        let gradients = shown.sum().backward();
        assert!(host_floats(half.grad(&gradients).expect("a gradient")).iter().all(|g| g.is_finite()));
        let coded = stage.finish(&state, half);
        assert_eq!(coded.weight.dtype(), DType::BF16);
    }
}

#[test]
fn the_codes_are_what_the_view_shows() {
    for settings in all_kinds() {
        for values in [weight(), vec![0.0; 96], vec![0.5; 96], vec![-0.5; 96]] {
            let (stage, state) = attach::<Flex>(&settings, &values, Clock::Finished);
            let shown = host_floats(stage.apply(&state, Clock::Finished, tensor(&values)));
            assert!(shown.iter().all(|v| v.is_finite()), "{settings}: {shown:?}");
            assert!(<dyn Stage<Flex>>::constant(&*stage, Clock::Finished));
            let outcome = stage.finish(&state, tensor(&values));
            assert_eq!(host_floats(outcome.weight), shown, "{settings}");
            let Left::Coded(coded) = outcome.left else { panic!("no codes") };
            assert_eq!(coded.values(), shown, "{settings}");
            assert_eq!(Some(u64::from(coded.bits)), settings["bits"].as_u64());
        }
    }
}

#[test]
fn training_gives_finite_values_and_gradients() {
    for settings in all_kinds() {
        for values in [weight(), vec![0.0; 96], vec![0.5; 96]] {
            let (stage, mut state) = attach::<A>(&settings, &values, Clock::Step(0));
            let mut clock = Clock::Step(0);
            for _ in 0..4 {
                let leaf = tensor::<A>(&values).require_grad();
                let shown = stage.apply(&state, clock, leaf.clone());
                let gradients = (shown.clone() * tensor(&weight())).sum().backward();
                let gradient = host_floats(leaf.grad(&gradients).expect("a gradient"));
                assert!(host_floats(shown).iter().all(|v| v.is_finite()), "{settings}");
                assert!(gradient.iter().all(|v| v.is_finite()), "{settings}");
                clock = clock.next();
                stage.after_step(&mut state, clock, None);
            }
        }
    }
}

/// Bits by the number of distinct values that the view can hold at most, read off the state.
fn bits_by_step(settings: &Value, steps: usize) -> Vec<(usize, u32)> {
    let (stage, mut state) = attach::<Flex>(settings, &weight(), Clock::Step(0));
    let mut seen = Vec::new();
    let mut clock = Clock::Step(0);
    for step in 1..=steps {
        clock = clock.next();
        let switches = stage.switches_at(&state, clock);
        let before = state.counter(0);
        stage.after_step(&mut state, clock, None);
        assert_eq!(switches, state.counter(0) < before, "step {step}");
        if switches {
            seen.push((step, state.counter(0) as u32));
        }
    }
    seen
}

#[test]
fn bits_fall_as_in_the_table_of_deepspeed() {
    let moq = |settings: Value| bits_by_step(&settings, 300);
    let table = [(10, 11), (20, 10), (40, 9), (80, 8)];
    assert_eq!(moq(json!({"bits": 8, "start_bits": 12, "period": 10})), table);
    let late = [(15, 11), (25, 10), (45, 9), (85, 8)];
    assert_eq!(moq(json!({"bits": 8, "start_bits": 12, "period": 10, "start": 5})), late);
    let even = [(10, 7), (15, 6), (20, 5), (25, 4)];
    assert_eq!(moq(json!({"bits": 4, "start_bits": 8, "start": 5, "end": 25})), even);
}

/// What the view shows after some optimizer steps.
fn shown_after(settings: &Value, steps: usize) -> Vec<f32> {
    let (stage, mut state) = attach::<Flex>(settings, &weight(), Clock::Step(0));
    (1..=steps).for_each(|n| stage.after_step(&mut state, Clock::Step(n), None));
    host_floats(stage.apply(&state, Clock::Step(steps), tensor(&weight())))
}

#[test]
fn the_view_has_the_bits_of_its_step() {
    let falling = json!({"bits": 1, "start_bits": 4, "period": 2, "binarization": "mean_centred"});
    for (step, bits) in [(0, 4), (1, 4), (2, 3), (3, 3), (4, 2), (7, 2), (8, 1), (99, 1)] {
        let mut fixed = json!({ "bits": bits });
        if bits == 1 {
            fixed["binarization"] = json!("mean_centred");
        }
        assert_eq!(shown_after(&falling, step), shown_after(&fixed, 0), "step {step}");
    }
}

#[test]
fn many_bits_come_closer_to_the_weight() {
    let w = weight();
    let error = |bits: u32| {
        let shown = shown_after(&json!({"bits": 8, "start_bits": bits, "period": 9}), 0);
        shown.iter().zip(&w).fold(0f32, |e, (a, b)| e.max((a - b).abs()))
    };
    // Half a step of codes up to 2^(bits-1) - 1, and what 32-bit floats lose.
    for bits in 9..=20 {
        let half_a_step = 0.5 * 0.5 / (2f32.powi(bits as i32 - 1) - 1.0);
        assert!(
            error(bits) <= half_a_step + 6e-8 && error(bits) > 0.05 * half_a_step,
            "{bits}: {}",
            error(bits)
        );
    }
    for bits in 24..=32 {
        assert!(error(bits) <= 6e-8, "{bits}: {}", error(bits));
    }
}

#[test]
fn the_share_of_the_float_weight_follows_deepspeed() {
    let share = |settings: &Value, steps: usize| -> Vec<f64> {
        let (stage, mut state) = attach::<Flex>(settings, &weight(), Clock::Step(0));
        let counter = state.counters().len() - 1;
        (1..=steps)
            .map(|n| {
                stage.after_step(&mut state, Clock::Step(n), None);
                state.counter(counter)
            })
            .collect()
    };
    let mixed = json!({"bits": 8, "mixed": {"change_ratio": 0.25}});
    assert_eq!(share(&mixed, 6), [0.75, 0.5, 0.25, 0.0, 0.0, 0.0]);
    let reset = json!({"bits": 8, "start_bits": 10, "period": 2, "mixed": {"change_ratio": 0.25}});
    assert_eq!(share(&reset, 6), [0.75, 1.0, 0.75, 1.0, 0.75, 0.5]);
    assert_eq!(shown_after(&mixed, 0), weight(), "the whole weight at first");
    assert_ne!(shown_after(&mixed, 1), weight());
    assert_eq!(shown_after(&mixed, 4), shown_after(&json!({"bits": 8}), 0));
}

#[test]
fn a_resumed_schedule_goes_on() {
    let settings = json!({"bits": 4, "start_bits": 8, "period": 3, "mixed": {"change_ratio": 0.1}});
    let run = |interrupted: bool| {
        let (mut stage, mut state) = attach::<Flex>(&settings, &weight(), Clock::Step(0));
        for n in 1..=20 {
            if interrupted && n == 7 {
                let saved = state.counters().to_vec();
                (stage, state) = attach(&settings, &weight(), Clock::Step(0));
                assert!(state.restore_counters(&saved));
            }
            stage.after_step(&mut state, Clock::Step(n), Some(0.3));
        }
        (state.counters().to_vec(), host_floats(stage.apply(&state, Clock::Step(20), tensor(&weight()))))
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn what_is_learned_starts_as_in_the_papers() {
    let first =
        |settings: Value| host_floats(attach::<Flex>(&settings, &weight(), Clock::Step(0)).1.learned(0));
    let mean = |row: usize| weight()[24 * row..24 * (row + 1)].iter().map(|v| v.abs()).sum::<f32>() / 24.0;
    for row in 0..4 {
        let lsq = first(json!({"bits": 4, "scale": "learned"}))[row];
        assert!((lsq - 2.0 * mean(row) / 7f32.sqrt()).abs() < 1e-6);
        let elastic = first(json!({"bits": 1, "binarization": "elastic"}))[row];
        assert!((elastic - mean(row)).abs() < 1e-6);
    }
}

#[test]
fn deepspeeds_arithmetic_has_one_more_code_with_a_learned_scale() {
    let mut values = weight();
    values[30] = -4.0;
    let smallest = |settings: Value| {
        let (stage, state) = attach::<Flex>(&settings, &values, Clock::Finished);
        let shown = host_floats(stage.apply(&state, Clock::Finished, tensor(&values)));
        let scale = host_floats(state.learned(0))[1];
        (shown[30] / scale).round()
    };
    assert_eq!(smallest(json!({"bits": 3, "scale": "learned"})), -3.0);
    assert_eq!(smallest(json!({"bits": 3, "scale": "learned", "arithmetic": "deepspeed"})), -4.0);
}

#[test]
fn a_scale_that_fell_below_zero_finds_back() {
    let settings = json!({"bits": 1, "binarization": "elastic"});
    let quantizer = Quantizer {
        scheme: WeightScheme {
            bits: 1,
            symmetric: true,
            granularity: crate::Granularity::Channel,
            rule: briquette_core::ScaleRule::Paper,
            rounding: crate::Rounding::Nearest,
            search: crate::ScaleSearch::Max,
        },
        estimator: Estimator { binarization: Binarization::Elastic, ..Estimator::default() },
        groups: Groups { count: 4, length: 24 },
    };
    let scale = Tensor::<A, 2>::full([4, 1], -0.1, &Default::default()).require_grad();
    let shown = quantizer.apply(tensor(&weight()), Some(scale.clone()), 0.0, 0);
    assert!(host_floats(shown.clone()).iter().all(|v| v.abs() <= 1e-8), "{settings}");
    // The weights ask for a larger scale: the gradient of the error is negative.
    let gradients = (shown - tensor(&weight())).square().sum().backward();
    assert!(host_floats(scale.grad(&gradients).expect("a gradient")).iter().all(|g| *g < 0.0));
}

#[test]
fn the_plan_says_when_the_last_bit_falls() {
    let mut out = Diagnostics::new();
    let value = json!({"bits": 8, "start_bits": 12, "period": 10, "start": 5, "mixed": {}});
    let method = WeightQuantization::read(&value, "w", &mut out).expect("good settings");
    let details = method.details(Groups { count: 1, length: 4 });
    let said = |key: &str| details.get(key).cloned();
    assert_eq!(said("start_bits"), Some(json!(12)));
    assert_eq!(said("period"), Some(json!(10)));
    assert_eq!(said("last_bit_falls_at"), Some(json!(85)));
    assert_eq!(said("mixed_change_ratio"), Some(json!(0.001)));
}

/// A stage at work on its own.
type Working = (Box<dyn Stage<A>>, SessionState<A>);

/// The part of the weight in rows 0, 2, 3 and columns 0 to 15, and the stage told so.
fn shrunk(settings: &Value) -> (Result<(), Problem>, Working, Tensor<A, 2>) {
    let (mut stage, mut state) = attach::<A>(settings, &weight(), Clock::Step(0));
    let device = Default::default();
    let rows = Tensor::from_data([0, 2, 3], &device);
    let narrow = tensor::<A>(&weight()).select(0, rows).slice([0..3, 0..16]);
    let site = Site {
        name: "w".into(),
        path: "w".into(),
        kind: LayerKind::Linear,
        shape: [3, 16],
        native: vec![16, 3],
        trainable: true,
        tied: Vec::new(),
        drop_in: true,
    };
    let columns: Vec<usize> = (0..16).collect();
    let left = KeptPart { site: &site, rows: &[0, 2, 3], columns: &columns, weight: narrow.clone() };
    let result = stage.shrink(&mut state, &left);
    (result, (stage, state), narrow)
}

#[test]
fn every_kind_goes_on_with_a_weight_that_lost_rows_and_columns() {
    for settings in all_kinds() {
        let (result, (stage, state), narrow) = shrunk(&settings);
        result.unwrap_or_else(|problem| panic!("{settings}: {problem}"));
        let shown = host_floats(stage.apply(&state, Clock::Finished, narrow.clone()));
        let outcome = stage.finish(&state, narrow);
        assert_eq!(host_floats(outcome.weight), shown, "{settings}");
        let Left::Coded(coded) = outcome.left else { panic!("{settings}") };
        assert_eq!(coded.shape, [3, 16]);
    }
}

#[test]
fn learned_scales_of_rows_stay_with_their_rows() {
    let settings = json!({"bits": 3, "scale": "learned"});
    let before = host_floats(attach::<A>(&settings, &weight(), Clock::Step(0)).1.learned(0));
    let (_, (_, state), _) = shrunk(&settings);
    assert_eq!(host_floats(state.learned(0)), [before[0], before[2], before[3]]);
    assert!(state.learned(0).is_require_grad());
    // Those of other groups begin with what the groups hold now.
    let settings = json!({"bits": 3, "scale": "learned", "granularity": {"group_size": 8}});
    let (_, (_, state), narrow) = shrunk(&settings);
    let first = host_floats(narrow)[..8].iter().map(|v| v.abs()).sum::<f32>() / 8.0 * (2.0 / 3f32.sqrt());
    assert_eq!(state.learned(0).dims(), [6, 1]);
    assert!((host_floats(state.learned(0))[0] - first).abs() < 1e-6);
}

#[test]
fn groups_that_do_not_divide_what_is_left_are_refused() {
    let problem = shrunk(&json!({"bits": 4, "granularity": {"group_size": 12}})).0.expect_err("16 columns");
    assert_eq!(problem.to_string(), "12 columns a group do not divide 16");
}
