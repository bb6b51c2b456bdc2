//! Bits that fall while a session trains, and where they end.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_composer::{Composer, Plan, Recipe, Session, Trained};
use burn::optim::{AdamConfig, Optimizer};
use common::*;
use serde_json::{Value, json};

fn weights(settings: Value) -> Value {
    json!({"steps": [{ "weight_quantization": settings }]})
}

fn step(session: &mut Session<A, Net<A>>, optimizer: &mut impl Optimizer<Trained<A, Net<A>>, A>, lr: f64) {
    let loss = (session.view().forward(ids()) - waves([3, 5, 8], 77)).square().mean();
    session.step(loss.backward(), optimizer, lr);
}

/// Distinct values in the first row of `fc1` in the view, at most; each bit halves it.
fn levels(session: &Session<A, Net<A>>) -> usize {
    let weight = session.view().fc1.weight.val().transpose();
    let mut row: Vec<u32> = floats(weight)[..16].iter().map(|v| v.to_bits()).collect();
    row.sort_unstable();
    row.dedup();
    row.len()
}

#[test]
fn the_table_of_deepspeed_through_a_session() {
    let model = Net::<A>::new();
    let recipe = weights(json!({"on": ["fc1"], "bits": 8, "start_bits": 12, "period": 10}));
    let mut session = plan(&model, &recipe).attach_training(&model, 0);
    let mut optimizer = AdamConfig::new().init();
    let mut drops = Vec::new();
    for n in 1..=100 {
        let (announced, before) = (session.switches_next(), session.parts().state.counters()[0]);
        step(&mut session, &mut optimizer, 0.0);
        let now = session.parts().state.counters()[0];
        assert_eq!(announced, now < before, "step {n}");
        if announced {
            drops.push((n, now));
        }
    }
    assert_eq!(drops, [(10, 11.0), (20, 10.0), (40, 9.0), (80, 8.0)]);
}

#[test]
fn a_session_that_ends_early_is_coded_with_the_final_bits() {
    let model = Net::<A>::new();
    let falling =
        json!({"on": ["*"], "bits": 3, "start_bits": 8, "period": 5, "mixed": {"change_ratio": 0.1}});
    let mut session = plan(&model, &weights(falling)).attach_training(&model, 0);
    let mut optimizer = AdamConfig::new().init();
    (0..3).for_each(|_| step(&mut session, &mut optimizer, 1e-3));
    assert!(levels(&session) > 8, "8 bits and most of the float weight");
    let trained = session.parts().model.clone();
    let finished = session.finish().unwrap();
    let fixed = plan(&trained, &weights(json!({"on": ["*"], "bits": 3}))).attach(&trained, 0);
    assert_eq!(parameters(&finished.model), parameters(&fixed.finish().unwrap().model));
    assert!(finished.layers.iter().all(|l| l.coded().unwrap().bits == 3));
}

#[test]
fn learned_scales_are_trained_and_coded() {
    for settings in [
        json!({"on": ["*"], "bits": 2, "scale": "learned"}),
        json!({"on": ["*"], "bits": 4, "scale": "learned", "granularity": "tensor"}),
        json!({"on": ["*"], "bits": 1, "binarization": "elastic"}),
    ] {
        let model = Net::<A>::new();
        let mut session = plan(&model, &weights(settings.clone())).attach_training(&model, 0);
        let mut optimizer = AdamConfig::new().init();
        let scales = |s: &Session<A, Net<A>>| -> Vec<Vec<f32>> {
            (0..4).map(|n| floats(s.parts().state.learned(n))).collect()
        };
        let before = scales(&session);
        (0..5).for_each(|_| step(&mut session, &mut optimizer, 1e-2));
        let after = scales(&session);
        assert!(before.iter().zip(&after).all(|(b, a)| b != a), "{settings}");
        let view = parameters(&session.view());
        let finished = session.finish().unwrap();
        assert_eq!(parameters(&finished.model), view, "{settings}");
        for (layer, learned) in finished.layers.iter().zip(&after) {
            let coded = &layer.coded().unwrap().scales;
            assert!(coded.iter().all(|s| learned.contains(s)), "{settings}");
        }
    }
}

#[test]
fn a_plan_says_what_eigenvalues_it_wants() {
    let model = Net::<A>::new();
    let mut recipe = weights(json!({"on": ["*"], "bits": 8, "start_bits": 12, "period": 10}));
    let plan_of = |recipe: &Value| -> Result<Plan<A>, _> {
        Composer::builtin().plan(&Recipe::from_value(recipe), &briquette_nn::model_view(&model))
    };
    assert!(plan_of(&recipe).unwrap().eigenvalue().is_none());
    recipe["eigenvalue"] = json!({"layer_name": "fc1"});
    let problems = plan_of(&recipe).err().unwrap().to_string();
    assert!(problems.contains("eigenvalue.layer_name: `fc1` is not a list of layers"), "{problems}");
}
