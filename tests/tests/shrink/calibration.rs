//! Static ranges of inputs are those of the model that is left.

use crate::keep_units::{keep, plan};
use crate::networks::{Known, bert};
use briquette_composer::{CalibrationError, Finished, Session};
use briquette_core::{InputRange, host_floats};
use briquette_models::Pretrained;
use briquette_models::bert::BertForSequenceClassification;
use burn::backend::Flex;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type Bert = BertForSequenceClassification<Flex>;

const INNER: &str = "bert.encoder.layer.0.output.dense";

fn calibrate(session: &mut Session<Flex, Bert>, known: &Known<Flex, Bert>) {
    let run = |model: &Bert| {
        host_floats(model.logits(known.inputs.clone()));
        Ok(())
    };
    session.calibrate::<CalibrationError>(run).unwrap();
}

fn range(finished: &Finished<Flex, Bert>) -> (f32, f32) {
    match finished.inputs[INNER].range {
        InputRange::Static { min, max } => (min, max),
        other => panic!("{other:?}"),
    }
}

#[test]
fn removed_neurons_widen_no_range() {
    let known = bert::<Flex>();
    let view = known.model.view().with_dependencies(known.groups.clone());
    let rows = "bert.encoder.layer.0.intermediate.dense".to_string();
    let quantize = json!({"activation_quantization":
        {"on": [INNER], "bits": 8, "range": "static", "observer": "min_max"}});
    let attach = |steps: &Value| plan::<Flex>(&view, steps).unwrap().attach(&known.model, 0);
    let alone = |model: &Bert| {
        let plan = plan::<Flex>(&model.view(), &json!([quantize])).unwrap();
        let mut session = plan.attach(model, 0);
        calibrate(&mut session, &known);
        session.finish().unwrap()
    };
    // Every neuron but those that show the largest values: one after another until the range is another one.
    let whole = range(&alone(&known.model));
    let narrower = (0..40).find_map(|gone| {
        let units: Vec<usize> = (0..40).filter(|unit| *unit != gone).collect();
        let cut = keep(&BTreeMap::from([(rows.clone(), units)]), 0);
        let pruned = attach(&json!([cut])).finish().unwrap();
        let expected = range(&alone(&pruned.model));
        (expected != whole).then_some((cut, expected))
    });
    let (cut, expected) = narrower.unwrap();
    let mut session = attach(&json!([cut, quantize]));
    assert!(session.remove_masked().unwrap());
    assert!(!session.can_shrink(), "there is nothing more to remove");
    calibrate(&mut session, &known);
    assert_eq!(range(&session.finish().unwrap()), expected);
    // Calibrated while they were only masked, the range would have been that of all neurons.
    let mut masked = attach(&json!([cut, quantize]));
    calibrate(&mut masked, &known);
    assert_eq!(range(&masked.finish().unwrap()), whole);
}
