//! Artefacts of shrunk models: what the configuration says, what the manifest says, and what the loader makes of it.

use crate::equality::{distance, uneven_stream, without};
use crate::keep_units::{keep, plan};
use crate::networks::{Concat, Known, bert, gpt2, resnet};
use briquette_checkpoint::Naming;
use briquette_composer::Finished;
use briquette_composer::artefact::{
    Artefact, ArtefactError, CONFIG, MANIFEST, Source, TENSORS, sha256_hex, stage,
};
use briquette_core::{Dependencies, ModelView, host_floats};
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::{ModelConfig, Pretrained, PretrainedConfig};
use briquette_nn::{Compressible, name_table};
use burn::backend::Flex;
use burn::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Units = BTreeMap<String, Vec<usize>>;

fn units<const N: usize>(units: [(&str, Vec<usize>); N]) -> Units {
    units.into_iter().map(|(name, units)| (name.to_string(), units)).collect()
}

/// The outcome of a recipe without training.
fn finished<M: Module<Flex> + Compressible<Flex>>(
    model: &M,
    view: ModelView,
    groups: Dependencies,
    steps: &Value,
) -> Finished<Flex, M> {
    let plan = plan::<Flex>(&view.with_dependencies(groups), steps).unwrap_or_else(|e| panic!("{e}"));
    plan.attach(model, 0).finish().unwrap()
}

fn save<M>(finished: &Finished<Flex, M>, naming: &Naming, config: Value) -> (TempDir, PathBuf)
where
    M: Module<Flex>,
{
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (dtypes, copy, made_from) = (HashMap::new(), vec![], BTreeMap::new());
    let source = Source { naming, config, dtypes, copy, made_from, seed: 0 };
    stage(finished, &source, &out).unwrap().commit().unwrap();
    (folder, out)
}

fn save_known<M: Pretrained<Flex>>(
    known: &Known<Flex, M>,
    finished: &Finished<Flex, M>,
) -> (TempDir, PathBuf) {
    save(finished, &finished.model.naming(), finished.model.config_now(&known.config).to_json())
}

fn load<M: Pretrained<Flex>>(at: &Path) -> Result<M, ArtefactError> {
    let artefact = Artefact::open(at)?;
    let config = ModelConfig::from_json(artefact.config()).unwrap();
    let model = M::init(M::Config::pick(&config).unwrap(), &Default::default());
    let naming = model.naming();
    artefact.load(model, &naming, &Default::default())
}

/// Saves what is left and loads it again: the same results bit for bit. The manifest and the configuration.
fn round_trip<M: Pretrained<Flex>>(
    known: &Known<Flex, M>,
    groups: Dependencies,
    steps: &Value,
) -> (briquette_composer::artefact::Manifest, Value) {
    let finished = finished(&known.model, known.model.view(), groups, steps);
    let (_folder, at) = save_known(known, &finished);
    let loaded: M = load(&at).unwrap_or_else(|e| panic!("{e}"));
    let expected = host_floats(finished.pack().logits(known.inputs.clone()));
    assert_eq!(host_floats(loaded.logits(known.inputs.clone())), expected);
    let artefact = Artefact::open(&at).unwrap();
    (artefact.manifest().clone(), artefact.config().clone())
}

fn bert_rows(layer: usize) -> String {
    format!("bert.encoder.layer.{layer}.intermediate.dense")
}

#[test]
fn a_configuration_says_what_all_layers_share() {
    let known = bert::<Flex>();
    let groups = known.groups.clone();
    let rows =
        |second: usize| units([(&bert_rows(0), (4..36).collect()), (&bert_rows(1), (0..second).collect())]);
    let (manifest, config) = round_trip(&known, groups.clone(), &json!([keep(&rows(32), 0)]));
    assert_eq!(config["intermediate_size"], 32);
    let removed = manifest.removed.unwrap();
    let record = serde_json::to_value(&removed.groups[0]).unwrap();
    let name = bert_rows(0);
    let expected = json!({"group": name, "of": 40, "kept": "4-35", "axes": [
        {"tensor": format!("{name}.weight"), "axis": 1, "of": 40, "kept": 32},
        {"tensor": format!("{name}.bias"), "axis": 0, "of": 40, "kept": 32},
        {"tensor": "bert.encoder.layer.0.output.dense.weight", "axis": 0, "of": 40, "kept": 32},
    ]});
    assert_eq!(record, expected);
    assert!(removed.numbers.is_empty());
    // Where they differ, the configuration says what it said and the manifest the rest.
    let (_, config) = round_trip(&known, groups, &json!([keep(&rows(31), 0)]));
    assert_eq!(config["intermediate_size"], 40);
}

#[test]
fn heads_and_width_are_in_the_manifest_unless_the_configuration_can_say_both() {
    let known = bert::<Flex>();
    let groups = known.groups.clone();
    let query = |l: usize| format!("bert.encoder.layer.{l}.attention.self.query");
    let heads = |n: usize| units([(&query(0), (0..n).collect()), (&query(1), (12 - n..12).collect())]);
    let (manifest, config) = round_trip(&known, groups.clone(), &json!([keep(&heads(8), 0)]));
    assert_eq!((&config["num_attention_heads"], &config["hidden_size"]), (&json!(12), &json!(48)));
    let numbers = manifest.removed.unwrap().numbers;
    let name = |l: usize| format!("bert.encoder.layer.{l}.attention.self.n_heads");
    assert_eq!(numbers, BTreeMap::from([(name(0), 8), (name(1), 8)]));
    // The pooler is as wide as before, which no configuration can say.
    let mut both = heads(8);
    both.insert("bert.embeddings.word_embeddings".into(), without(48, |u| u % 3 == 0));
    let (_, config) = round_trip(&known, groups.clone(), &json!([keep(&both, 0)]));
    assert_eq!((&config["num_attention_heads"], &config["hidden_size"]), (&json!(12), &json!(48)));
    both.insert("bert.pooler.dense".into(), (8..40).collect());
    let (_, config) = round_trip(&known, groups, &json!([keep(&both, 0)]));
    assert_eq!((&config["num_attention_heads"], &config["hidden_size"]), (&json!(8), &json!(32)));

    let known = gpt2::<Flex>();
    let groups = known.groups.clone();
    let heads = (0..2).map(|l| (format!("transformer.h.{l}.attn.c_attn"), vec![0, 2, 4, 5, 6, 7, 10, 11]));
    let rows = (0..2).map(|l| (format!("transformer.h.{l}.mlp.c_fc"), (0..100).collect()));
    let mut all: Units = heads.chain(rows).collect();
    let (manifest, config) = round_trip(&known, groups.clone(), &json!([keep(&all, 0)]));
    assert_eq!(
        (&config["n_head"], &config["n_embd"], &config["n_inner"]),
        (&json!(12), &json!(48), &json!(100))
    );
    assert_eq!(manifest.removed.unwrap().numbers.len(), 2);
    all.insert("transformer.wte".into(), without(48, |u| u % 3 == 0));
    let (_, config) = round_trip(&known, groups, &json!([keep(&all, 0)]));
    assert_eq!((&config["n_head"], &config["n_embd"]), (&json!(8), &json!(32)));
}

#[test]
fn convolutions_normalizations_and_shortcuts_come_back() {
    let known = resnet::<Flex>();
    let groups = known.groups.clone();
    let stream = uneven_stream(&groups);
    let cut = units([("conv1", stream), ("layer2.1.conv1", vec![1, 2, 30]), ("layer3.0.conv1", vec![7])]);
    let (manifest, _) = round_trip(&known, groups, &json!([keep(&cut, 0)]));
    let numbers = manifest.removed.unwrap().numbers;
    let expected = [("layer2.0.before".to_string(), 7), ("layer3.0.before".to_string(), 5)];
    assert_eq!(numbers, BTreeMap::from(expected));

    let model = Concat::<Flex>::new();
    let cut = units([("last", vec![0, 3, 4, 7]), ("left", vec![1, 2, 5]), ("right", vec![0, 2, 3])]);
    let quantized = json!({"weight_quantization": {"on": ["*"], "bits": 8}});
    let groups = Concat::<Flex>::groups();
    let finished = finished(&model, model.view(), groups, &json!([keep(&cut, 0), quantized]));
    let naming = Naming::new(name_table(&finished.model));
    let (_folder, at) = save(&finished, &naming, json!({}));
    let fresh = Concat::<Flex>::new();
    let naming = Naming::new(name_table(&fresh));
    let artefact = Artefact::open(&at).unwrap();
    let loaded = artefact.load(fresh, &naming, &Default::default()).unwrap();
    assert_eq!(loaded.depthwise.groups, 6);
    let x = Tensor::random([2, 3, 6, 6], burn::tensor::Distribution::Normal(0.0, 1.0), &Default::default());
    assert_eq!(host_floats(loaded.forward(x.clone())), host_floats(finished.pack().forward(x)));
}

/// Rows, heads, and 8 bits for weights and inputs.
fn rows_heads_and_bytes() -> Value {
    let query = "bert.encoder.layer.1.attention.self.query";
    let cut = units([(&bert_rows(0), (0..32).collect()), (query, vec![0, 1, 4, 5, 6, 8, 9, 10])]);
    json!([
        keep(&cut, 0),
        {"weight_quantization": {"on": ["bert.encoder.layer.**"], "bits": 8}},
        {"activation_quantization": {"on": ["bert.encoder.layer.**"], "bits": 8, "range": "dynamic"}},
    ])
}

#[test]
fn rows_heads_and_bytes_go_into_one_artefact() {
    let known = bert::<Flex>();
    let groups = known.groups.clone();
    let (manifest, _) = round_trip(&known, groups.clone(), &rows_heads_and_bytes());
    let shape = |name: &str| manifest.layers.iter().find(|l| l.name == name).unwrap().shape;
    assert_eq!(shape(&bert_rows(0)), [32, 48]);
    assert_eq!(shape("bert.encoder.layer.0.output.dense"), [48, 32]);
    assert_eq!(shape("bert.encoder.layer.1.attention.self.value"), [32, 48]);
    assert_eq!(shape("bert.encoder.layer.1.attention.output.dense"), [48, 32]);
    // Scales are those of what is left: an outlier that is gone widens no range.
    let whole = finished(&known.model, known.model.view(), groups, &rows_heads_and_bytes());
    let layer = whole.layers.iter().find(|l| l.site.name == bert_rows(0)).unwrap();
    assert_eq!((layer.site.shape, layer.left.len()), ([32, 48], 1));
    let simulated = host_floats(whole.model.logits(known.inputs.clone()));
    let packed = host_floats(whole.pack().logits(known.inputs.clone()));
    assert!(distance(&simulated, &packed) < 1e-3);
}

/// The manifest after `edit`, with digests that are right.
fn edited(at: &Path, edit: impl FnOnce(&mut Value)) {
    let path = at.join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    for name in [CONFIG, TENSORS] {
        manifest["files"][name] = json!(sha256_hex(&std::fs::read(at.join(name)).unwrap()));
    }
    manifest["digest"] = json!("");
    manifest["digest"] = json!(sha256_hex(manifest.to_string().as_bytes()));
    std::fs::write(path, serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
}

#[test]
fn a_manifest_that_contradicts_the_tensors_is_an_error_with_file_and_tensor() {
    let known = bert::<Flex>();
    let groups = known.groups.clone();
    let finished = finished(&known.model, known.model.view(), groups, &rows_heads_and_bytes());
    let (_folder, at) = save_known(&known, &finished);
    let whole = std::fs::read(at.join(MANIFEST)).unwrap();
    let expect = |edit: &dyn Fn(&mut Value), expected: &[&str]| {
        edited(&at, edit);
        let text = load::<BertForSequenceClassification<Flex>>(&at).expect_err("refused").to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        std::fs::write(at.join(MANIFEST), &whole).unwrap();
    };
    edited(&at, |_| {});
    load::<BertForSequenceClassification<Flex>>(&at).unwrap();
    let axis = |n: usize, key: &'static str, value: Value| {
        move |m: &mut Value| m["removed"]["groups"][0]["axes"][n][key] = value.clone()
    };
    let (weight, bias) = (format!("{}.weight", bert_rows(0)), format!("{}.bias", bert_rows(0)));
    // A packed weight, and a tensor as it is.
    expect(&axis(0, "kept", json!(31)), &[MANIFEST, &bert_rows(0), "[32, 48]", "[31, 48]"]);
    expect(&axis(1, "kept", json!(31)), &[TENSORS, &bias, "[32]", "[31]"]);
    expect(&axis(1, "kept", json!(0)), &[MANIFEST, &bias, "axis 0 is to have 0 of 40 entries"]);
    expect(&axis(1, "of", json!(41)), &[MANIFEST, &bias, "the tensor is [40] in the model"]);
    expect(&axis(1, "axis", json!(3)), &[MANIFEST, &bias, "axis 3"]);
    expect(&axis(1, "tensor", json!("no.such")), &[MANIFEST, "no.such", "the model has no such tensor"]);
    expect(&|m| drop(m["removed"]["groups"][0]["axes"].as_array_mut().unwrap().remove(0)), &[&bert_rows(0)]);
    expect(&|m| drop(m.as_object_mut().unwrap().shift_remove("removed")), &[&bert_rows(0)]);
    assert!(weight.ends_with("dense.weight"));
    let kept = |text: &'static str| move |m: &mut Value| m["removed"]["groups"][0]["kept"] = json!(text);
    expect(&kept("0-50"), &[MANIFEST, &bert_rows(0), "keeps 51 of 40 units"]);
    expect(&kept("5-1"), &[MANIFEST, "`5-1` is out of order"]);
    let heads = "bert.encoder.layer.1.attention.self.n_heads";
    expect(&|m| m["removed"]["numbers"][heads] = json!(0), &[MANIFEST, heads, "is 0, and 12 in the source"]);
    expect(&|m| m["removed"]["numbers"]["x.heads"] = json!(1), &[MANIFEST, "x.heads", "no such number"]);
}
