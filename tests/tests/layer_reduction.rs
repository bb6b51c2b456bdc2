//! From a recipe with layer reduction to an artefact with fewer layers.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_composer::artefact::{Artefact, ArtefactError, ReductionRecord, Source, stage};
use briquette_composer::{Composer, Plan, Recipe};
use briquette_core::{host_floats, materialize};
use briquette_layer_reduce::{BlockInfluence, reduce};
use briquette_models::bert::{BertConfig, BertForSequenceClassification};
use briquette_models::{Inputs, ModelConfig, Pretrained, PretrainedConfig};
use briquette_nn::{Tapped, Wanted};
use burn::backend::Flex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

type Bert = BertForSequenceClassification<Flex>;

fn config(json: &Value) -> BertConfig {
    let json = json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 20,
        "hidden_size": 8, "num_hidden_layers": json["num_hidden_layers"], "num_attention_heads": 2,
        "intermediate_size": 12, "max_position_embeddings": 10
    });
    match ModelConfig::from_json(&json).unwrap() {
        ModelConfig::Bert(config) => config,
        other => panic!("{other:?}"),
    }
}

fn model(layers: usize) -> (BertConfig, Bert) {
    let config = config(&json!({"num_hidden_layers": layers}));
    let model = Bert::init(&config, &Default::default());
    materialize(&model);
    (config, model)
}

fn inputs(config: &BertConfig) -> Inputs<Flex> {
    Inputs::dummy(&config.task(), 2, 5, &Default::default()).unwrap()
}

fn plan(keep: Value, model: &Bert) -> Plan<Flex> {
    let recipe = json!({
        "layer_reduction": {"layers": "bert.encoder.layer", "keep": keep},
        "steps": [
            {"weight_quantization": {"on": ["bert.encoder.layer.2.**"], "bits": 4}},
            {"activation_quantization": {"on": ["bert.encoder.layer.0.intermediate.dense"], "bits": 8}},
        ],
    });
    Composer::builtin().plan(&Recipe::from_value(&recipe), &model.view()).unwrap_or_else(|e| panic!("{e}"))
}

/// Writes the student of `plan` into `folder`.
fn write(plan: &Plan<Flex>, student: &Bert, config: &BertConfig, folder: &Path) -> Result<(), ArtefactError> {
    let finished = plan.attach(student, 1).finish().unwrap();
    let naming = student.naming();
    let source = Source {
        naming: &naming,
        config: student.config_now(config).to_json(),
        dtypes: HashMap::new(),
        copy: vec![],
        made_from: BTreeMap::new(),
        seed: 1,
    };
    stage(&finished, &source, folder)?.commit().map(drop)
}

#[test]
fn an_artefact_says_which_layers_it_kept_and_loads_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let (config, mut student) = model(6);
    let plan = plan(json!([1, 3, 5]), &student);
    let reduced = plan.layer_reduction().unwrap();
    reduce(&mut student, &reduced.path, reduced.indices().unwrap()).unwrap();
    write(&plan, &student, &config, &folder.path().join("out")).unwrap();
    let artefact = Artefact::open(folder.path().join("out")).unwrap();
    let record = ReductionRecord { list: "bert.encoder.layer".into(), kept: vec![1, 3, 5], of: 6 };
    assert_eq!(artefact.manifest().layer_reduction, Some(record));
    assert_eq!(artefact.manifest().layers.len(), 6, "all of the student's last layer");
    let ModelConfig::Bert(read) = ModelConfig::from_json(artefact.config()).unwrap() else { panic!() };
    assert_eq!(read.num_hidden_layers, 3);
    let fresh = Bert::init(&read, &Default::default());
    let loaded = artefact.load(fresh, &student.naming(), &Default::default()).unwrap();
    let finished = plan.attach(&student, 1).finish().unwrap();
    let wanted = host_floats(finished.pack().logits(inputs(&config)));
    assert_eq!(host_floats(loaded.logits(inputs(&config))), wanted);
}

#[test]
fn layers_are_chosen_by_their_influence_on_data() {
    let folder = tempfile::tempdir().unwrap();
    let (config, mut student) = model(6);
    // These layers give back what goes in, but for the last normalization, which does nothing a second time.
    for n in [1, 2, 4] {
        let layer = &mut student.bert.encoder.layer[n];
        for dense in [&mut layer.attention.output.dense, &mut layer.output.dense] {
            dense.weight = dense.weight.clone().map(|w| w.zeros_like());
            dense.bias = dense.bias.clone().map(|b| b.map(|b| b.zeros_like()));
        }
    }
    let open = plan(json!({"count": 3, "choice": "block_influence"}), &student);
    let destination = folder.path().join("out");
    let mut undecided = student.clone();
    reduce(&mut undecided, "bert.encoder.layer", &[0, 1, 2]).unwrap();
    let error = write(&open, &undecided, &config, &destination).unwrap_err().to_string();
    assert!(error.starts_with("which 3 of the 6 layers of `bert.encoder.layer` stay"), "{error}");

    let mut influence = BlockInfluence::new();
    let wanted = Wanted { hidden: true, ..Wanted::default() };
    influence.observe(&student.tapped(inputs(&config), wanted).hidden, None).unwrap();
    let kept = influence.most_influential(open.layer_reduction().unwrap().count()).unwrap();
    assert_eq!(kept, [0, 3, 5], "{:?}", influence.scores());
    let plan = open.with_kept(kept).unwrap();
    reduce(&mut student, "bert.encoder.layer", plan.layer_reduction().unwrap().indices().unwrap()).unwrap();
    write(&plan, &student, &config, &destination).unwrap();
    let artefact = Artefact::open(&destination).unwrap();
    assert_eq!(artefact.manifest().layer_reduction.as_ref().unwrap().kept, [0, 3, 5]);
}
