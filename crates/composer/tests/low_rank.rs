//! Low-rank compensation: what it gives back, in the view, packed, and in the artefact.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_checkpoint::{Dtype, Naming};
use briquette_composer::Finished;
use briquette_composer::artefact::{Artefact, CONFIG, Source, stage};
use briquette_composer::report::LayerReport;
use briquette_nn::{model_view, name_table};
use burn::backend::Flex;
use burn::optim::AdamConfig;
use common::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

fn recipe(bits: u64, rank: u64) -> Value {
    json!({"steps": [
        {"weight_quantization": {"on": ["*"], "bits": bits}},
        {"low_rank_compensation": {"on": ["*"], "rank": rank}},
    ]})
}

fn finish(recipe: &Value) -> Finished<Flex, Net<Flex>> {
    let model = Net::<Flex>::new();
    plan(&model, recipe).attach(&model, 4).finish().unwrap()
}

/// Relative errors of the linear layers.
fn errors(finished: &Finished<Flex, Net<Flex>>) -> Vec<f64> {
    let linear = finished.layers.iter().filter(|l| l.site.name != "words");
    linear.map(|l| l.relative_error).collect()
}

#[test]
fn each_rank_gives_back_more() {
    for bits in [1, 2, 4] {
        let of = |rank: Option<u64>| {
            let mut all = recipe(bits, rank.unwrap_or(1));
            if rank.is_none() {
                all["steps"].as_array_mut().unwrap().pop();
            }
            errors(&finish(&all))
        };
        let ladder = [of(None), of(Some(1)), of(Some(2)), of(Some(4)), of(Some(8))];
        for pair in ladder.windows(2) {
            assert!(pair[0].iter().zip(&pair[1]).all(|(less, more)| more < less), "{bits} bits: {ladder:?}");
        }
        // At full rank nothing but the rounding to 16 bits is left; `fc2` has eight rows.
        assert!(ladder[4][2] < 1e-3, "{ladder:?}");
    }
}

#[test]
fn the_view_the_finished_and_the_packed_model_compute_the_same() {
    for (bits, inputs) in [(1, false), (2, false), (4, false), (3, true)] {
        let mut recipe = recipe(bits, 3);
        if inputs {
            let step = json!({"activation_quantization": {"on": ["fc1", "fc2"], "bits": 8}});
            recipe["steps"].as_array_mut().unwrap().push(step);
        }
        let model = Net::<Flex>::new();
        let session = plan(&model, &recipe).attach(&model, 4);
        let view = session.view();
        let finished = session.finish().unwrap();
        assert_eq!(parameters(&view), parameters(&finished.model), "{recipe}");
        let simulated = floats(finished.model.forward(ids()));
        let packed = finished.pack();
        assert!(packed.fc1.low_rank().is_some() && packed.fc2.low_rank().is_some());
        let off = distance(&simulated, &floats(packed.forward(ids())));
        assert!(off <= 1e-5, "{recipe}: {off}");
    }
}

fn save(finished: &Finished<Flex, Net<Flex>>, folder: &Path) -> PathBuf {
    let naming = Naming::new(name_table(&finished.model));
    let source = Source {
        naming: &naming,
        config: json!({"model_type": "test"}),
        dtypes: HashMap::new(),
        copy: vec![],
        made_from: BTreeMap::new(),
        seed: 4,
    };
    stage(finished, &source, &folder.join("out")).unwrap().commit().unwrap()
}

#[test]
fn a_loaded_model_computes_what_the_packed_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let finished = finish(&recipe(4, 5));
    let at = save(&finished, folder.path());
    let artefact = Artefact::open(&at).unwrap();
    let record = |name: &str| artefact.manifest().layers.iter().find(|l| l.name == name).unwrap();
    assert_eq!((record("fc1").low_rank, record("words").low_rank), (Some(5), None));
    let (left, right) = (
        artefact.files().get("fc1.low_rank_left").unwrap(),
        artefact.files().get("fc1.low_rank_right").unwrap(),
    );
    assert_eq!((left.dtype(), left.shape().to_vec()), (Dtype::F16, vec![32, 5]));
    assert_eq!((right.dtype(), right.shape().to_vec()), (Dtype::F16, vec![5, 16]));
    // A reader of compressed-tensors would compute without the correction.
    let config: Value = serde_json::from_slice(&std::fs::read(at.join(CONFIG)).unwrap()).unwrap();
    assert_eq!(config.get("quantization_config"), None);
    let bytes = |name: &str| LayerReport::new(record(name), artefact.files(), None).bytes;
    // Codes of 4 bits, a scale a row, the shape, and two factors of 16 bits.
    assert_eq!(bytes("fc1"), 32 * 16 / 2 + 32 * 4 + 16 + 2 * 5 * (32 + 16));
    let model = Net::new();
    let naming = Naming::new(name_table(&model));
    let loaded: Net<Flex> = artefact.load(model, &naming, &Default::default()).unwrap();
    let plain = finished.model.forward(ids());
    let packed = finished.pack();
    assert_eq!(floats(loaded.forward(ids())), floats(packed.forward(ids())));
    assert!(distance(&floats(plain), &floats(packed.forward(ids()))) <= 1e-5);
}

#[test]
fn it_follows_training_too() {
    let model = Net::<A>::new();
    let mut session = plan(&model, &recipe(2, 4)).attach_training(&model, 0);
    let mut optimizer = AdamConfig::new().init();
    for _ in 0..3 {
        let loss = (session.view().forward(ids()) - waves([3, 5, 8], 77)).square().mean();
        session.step(loss.backward(), &mut optimizer, 1e-2);
    }
    let finished = session.finish().unwrap();
    let simulated = floats(finished.model.forward(ids()));
    let rank =
        |name: &str| finished.layers.iter().find(|l| l.site.name == name).unwrap().low_rank().map(|l| l.rank);
    assert_eq!((rank("fc1"), rank("words")), (Some(4), None));
    let packed = finished.pack();
    assert!(distance(&simulated, &floats(packed.forward(ids()))) <= 1e-5);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let steps = |steps: Value| problems(&model_view(&Net::<Flex>::new()), &json!({ "steps": steps }));
    let quantize = || json!({"weight_quantization": {"on": ["fc1"], "bits": 4}});
    let low = |on: &str, rank: u64| json!({"low_rank_compensation": {"on": [on], "rank": rank}});
    let place = |n: usize| format!("steps[{n}].low_rank_compensation");
    assert!(steps(json!([quantize(), low("fc1", 16)])).is_empty());
    let none = "low_rank_compensation follows a quantizer of the weight, and there is none";
    assert_eq!(steps(json!([quantize(), low("fc2", 2)])), [format!("{}: fc2: {none}", place(1))]);
    assert_eq!(
        steps(json!([low("fc1", 2), quantize()])),
        ["steps[1].weight_quantization: fc1: weight_quantization cannot follow low_rank_compensation"]
    );
    assert_eq!(
        steps(json!([quantize(), low("fc1", 17)])),
        [format!("{}.rank: fc1: 17 is not at most 16, the smaller side of the weight", place(1))]
    );
    assert_eq!(
        steps(json!([quantize(), low("words", 2)])),
        [format!("{}.on: words: low_rank_compensation cannot act on an embedding", place(1))]
    );
    assert_eq!(
        steps(json!([quantize(), low("fc1", 0)])),
        [format!("{}.rank: 0 is not at least 1", place(1))]
    );
}
