//! Small random models: names, saving, older files, training, wrong input.
#![allow(clippy::unwrap_used)]

use briquette_checkpoint::{Dtype, NamedTensor, TensorFiles, module_tensors, write};
use briquette_core::{LayerKind, host_floats};
use briquette_kernels::{Code, PackedMatrix, pack_rows, rows_at_once};
use briquette_layer_reduce::{InitialiseError, initialise_from, reduce};
use briquette_models::bert::{BertConfig, BertForSequenceClassification};
use briquette_models::gpt2::Gpt2LmHead;
use briquette_models::resnet::CifarResNet;
use briquette_models::{
    CONFIG_FILE, Examples, Inputs, ModelConfig, ModelError, Pretrained, PretrainedConfig, Task, WEIGHTS_FILE,
    load, save,
};
use briquette_nn::{Compressible, LayerMut, LayerPath, Tapped, Wanted};
use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

fn bert_json() -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 20,
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
        "max_position_embeddings": 10, "classifier_dropout": null, "id2label": {"0": "a", "1": "b", "2": "c"}
    })
}

fn gpt2_json() -> Value {
    json!({
        "model_type": "gpt2", "vocab_size": 20, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2,
        "n_inner": null
    })
}

fn resnet_json() -> Value {
    json!({
        "model_type": "cifar-resnet", "depth": 8, "num_classes": 10, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25]
    })
}

fn bert_config() -> BertConfig {
    match ModelConfig::from_json(&bert_json()).unwrap() {
        ModelConfig::Bert(config) => config,
        other => panic!("{other:?}"),
    }
}

fn with(mut json: Value, key: &str, value: Value) -> Value {
    json[key] = value;
    json
}

fn problems(json: &Value) -> String {
    ModelConfig::from_json(json).unwrap_err().iter().map(|d| format!("{d}\n")).collect()
}

#[test]
fn unsupported_settings_are_refused_all_at_once() {
    let json = with(with(bert_json(), "is_decoder", json!(true)), "hidden_act", json!("swish"));
    let json = with(with(json, "num_attention_heads", json!(3)), "hidden_dropout_prob", json!(1.5));
    let text = problems(&json);
    assert!(text.contains("is_decoder: true is not false, the only supported value"), "{text}");
    assert!(text.contains("hidden_act: `swish` is not one of gelu, gelu_new"), "{text}");
    assert!(text.contains("num_attention_heads: 3 heads do not divide 8"), "{text}");
    assert!(text.contains("hidden_dropout_prob: 1.5 is not a probability below 1"), "{text}");
}

#[test]
fn each_setting_that_changes_the_computation_is_checked() {
    let check = |json: Value, key: &str, value: Value| {
        let text = problems(&with(json, key, value));
        assert!(text.contains(key), "{key}: {text}");
    };
    for (key, value) in [
        ("model_type", json!("t5")),
        ("architectures", json!(["BertForMaskedLM"])),
        ("position_embedding_type", json!("relative_key")),
        ("problem_type", json!("regression")),
        ("num_labels", json!(1)),
        ("pruned_heads", json!({"0": [1]})),
        ("add_cross_attention", json!(true)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!("many")),
        ("type_vocab_size", json!(0)),
        ("layer_norm_eps", json!(0.0)),
        ("pad_token_id", json!(20)),
        ("intermediate_size", Value::Null),
    ] {
        check(bert_json(), key, value);
    }
    for (key, value) in [
        ("tie_word_embeddings", json!(false)),
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("reorder_and_upcast_attn", json!(true)),
        ("activation_function", json!("silu")),
        ("n_inner", json!(0)),
        ("n_head", json!(5)),
        ("attn_pdrop", json!(-0.1)),
    ] {
        check(gpt2_json(), key, value);
    }
    for (key, value) in [
        ("depth", json!(21)),
        ("shortcut", json!("B")),
        ("image_mean", json!([0.1, 0.2])),
        ("image_std", json!([0.1, 0.0, 0.2])),
    ] {
        check(resnet_json(), key, value);
    }
    assert!(ModelConfig::from_json(&json!([1])).is_err());
    assert!(ModelConfig::from_json(&json!({})).is_err());
}

#[test]
fn views_name_layers_as_checkpoints_do() {
    let names = |json: Value| -> Vec<String> {
        ModelConfig::from_json(&json).unwrap().view().sites.into_iter().map(|s| s.name).collect()
    };
    let bert = names(bert_json());
    assert_eq!(bert.len(), 3 + 2 * 6 + 2);
    assert_eq!(bert[0], "bert.embeddings.word_embeddings");
    assert_eq!(bert[3], "bert.encoder.layer.0.attention.self.query");
    assert_eq!(bert[6], "bert.encoder.layer.0.attention.output.dense");
    assert_eq!(bert[16], "classifier");
    let gpt2 = ModelConfig::from_json(&gpt2_json()).unwrap().view();
    assert_eq!(gpt2.sites[0].tied, ["lm_head"]);
    assert_eq!(gpt2.site("transformer.h.1.attn.c_attn").unwrap().shape, [24, 8]);
    let resnet = ModelConfig::from_json(&resnet_json()).unwrap().view();
    assert_eq!(resnet.sites[1].name, "layer1.0.conv1");
    assert_eq!(resnet.sites[1].kind, LayerKind::Conv2d);
    assert_eq!(resnet.norms[1], "layer1.0.bn1");
    assert!(resnet.sites.iter().all(|s| s.drop_in));
}

fn logits<M: Pretrained<Flex>>(model: &M, task: &Task) -> Vec<f32> {
    host_floats(model.logits(Inputs::dummy(task, 2, 5, &Default::default()).unwrap()))
}

fn round_trip<M: Pretrained<Flex>>(config: &M::Config) {
    let (dir, device) = (tempdir().unwrap(), Default::default());
    let model = M::init(config, &device);
    let before = logits(&model, &config.task());
    save(&model, config, dir.path(), &|_| Dtype::F32).unwrap();
    let read = ModelConfig::from_dir(dir.path()).unwrap();
    assert_eq!(read.to_json(), config.to_json());
    let back: M = load(config, dir.path(), &device).unwrap();
    assert_eq!(logits(&back, &config.task()), before);
}

#[test]
fn what_is_saved_is_loaded() {
    round_trip::<BertForSequenceClassification<Flex>>(&bert_config());
    let ModelConfig::Gpt2(config) = ModelConfig::from_json(&gpt2_json()).unwrap() else { panic!() };
    round_trip::<Gpt2LmHead<Flex>>(&config);
    let ModelConfig::ResNet(config) = ModelConfig::from_json(&resnet_json()).unwrap() else { panic!() };
    round_trip::<CifarResNet<Flex>>(&config);
}

/// A BERT of so many layers.
fn bert_of(layers: usize) -> BertConfig {
    let mut config = bert_config();
    config.num_hidden_layers = layers;
    config
}

/// All parameters by name, as they are written.
fn tensors(model: &BertForSequenceClassification<Flex>) -> BTreeMap<String, Vec<u8>> {
    let tensors = module_tensors(model, &model.naming(), &|_| Dtype::F32).unwrap();
    tensors.iter().map(|t| (t.name().to_string(), t.bytes().to_vec())).collect()
}

#[test]
fn a_model_that_lost_layers_is_saved_with_the_layers_it_has() {
    let (dir, device) = (tempdir().unwrap(), Default::default());
    let config = bert_of(12);
    let teacher = BertForSequenceClassification::<Flex>::init(&config, &device);
    briquette_core::materialize(&teacher);
    let mut by_hand = teacher.clone();
    by_hand.bert.encoder.layer = [1, 3, 11].map(|n: usize| teacher.bert.encoder.layer[n].clone()).to_vec();
    let mut model = teacher.clone();
    reduce(&mut model, "bert.encoder.layer", &[1, 3, 11]).unwrap();
    assert_eq!(tensors(&model), tensors(&by_hand));
    assert_eq!(logits(&model, &config.task()), logits(&by_hand, &config.task()));
    assert_eq!(model.view(), teacher.view().keep_layers("bert.encoder.layer", &[1, 3, 11]).unwrap());

    save(&model, &config, dir.path(), &|_| Dtype::F32).unwrap();
    let ModelConfig::Bert(read) = ModelConfig::from_dir(dir.path()).unwrap() else { panic!() };
    assert_eq!(read.num_hidden_layers, 3);
    let back: BertForSequenceClassification<Flex> = load(&read, dir.path(), &device).unwrap();
    assert_eq!(logits(&back, &config.task()), logits(&model, &config.task()));
}

#[test]
fn a_gpt2_loses_layers_as_its_view_says() {
    let json = with(gpt2_json(), "n_layer", json!(12));
    let ModelConfig::Gpt2(config) = ModelConfig::from_json(&json).unwrap() else { panic!() };
    let mut model = Gpt2LmHead::<Flex>::init(&config, &Default::default());
    let view = model.view();
    reduce(&mut model, "transformer.h", &[0, 10, 11]).unwrap();
    let reduced = view.keep_layers("transformer.h", &[0, 10, 11]).unwrap();
    assert_eq!(model.view(), reduced);
    assert_eq!(reduced.sites[0].tied, ["lm_head"]);
    assert_eq!(model.config_now(&config).n_layer, 3);
}

#[test]
fn a_student_of_its_own_takes_layers_and_modules_of_a_teacher() {
    let device = Default::default();
    let teacher = BertForSequenceClassification::<Flex>::init(&bert_of(6), &device);
    let student = BertForSequenceClassification::<Flex>::init(&bert_of(3), &device);
    briquette_core::materialize(&student);
    let (given, own) = (tensors(&teacher), tensors(&student));
    let copied = ["bert.pooler".to_string(), "bert.embeddings.layer_norm".to_string()];
    let student = initialise_from(student, &teacher, "bert.encoder.layer", &[1, 3, 5], &copied).unwrap();
    let mut taken = 0;
    for (name, bytes) in tensors(&student) {
        let from = match name.strip_prefix("bert.encoder.layer.") {
            Some(rest) => {
                let (n, rest) = rest.split_once('.').unwrap();
                Some(format!("bert.encoder.layer.{}.{rest}", 2 * n.parse::<usize>().unwrap() + 1))
            }
            None => (name.contains("pooler") || name.contains("embeddings.LayerNorm")).then(|| name.clone()),
        };
        taken += usize::from(from.is_some());
        assert_eq!(Some(&bytes), from.map_or(own.get(&name), |from| given.get(&from)), "{name}");
    }
    assert_eq!(taken, 3 * 16 + 2 + 2);
    let mut wide = bert_of(3);
    wide.intermediate_size = 16;
    let wide = BertForSequenceClassification::<Flex>::init(&wide, &device);
    let error = initialise_from(wide, &teacher, "bert.encoder.layer", &[1, 3, 5], &[]).unwrap_err();
    let InitialiseError::Parameters(mismatches) = error else { panic!("{error}") };
    assert_eq!(mismatches.len(), 3 * 3, "weights of two layers and a bias in each block");
}

/// Saves a model with every tensor renamed by `rename` and some added.
fn save_as<M: Pretrained<Flex>>(
    model: &M,
    folder: &Path,
    rename: fn(&str) -> String,
    added: &[(&str, usize)],
) {
    let mut tensors: Vec<NamedTensor> = module_tensors(model, &model.naming(), &|_| Dtype::F32)
        .unwrap()
        .iter()
        .map(|t| {
            NamedTensor::new(rename(t.name()), t.dtype(), t.shape().to_vec(), t.bytes().to_vec()).unwrap()
        })
        .collect();
    for (name, n) in added {
        tensors.push(NamedTensor::new(*name, Dtype::I64, vec![*n], vec![0; 8 * n]).unwrap());
    }
    write(folder.join(WEIGHTS_FILE), &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn older_files_are_understood() {
    let (dir, device) = (tempdir().unwrap(), Default::default());
    let ModelConfig::Gpt2(config) = ModelConfig::from_json(&gpt2_json()).unwrap() else { panic!() };
    let model = Gpt2LmHead::<Flex>::init(&config, &device);
    let before = logits(&model, &config.task());
    let added = [("h.0.attn.bias", 4), ("h.0.attn.masked_bias", 1), ("lm_head.weight", 160)];
    save_as(&model, dir.path(), |name| name.replace("transformer.", ""), &added);
    let back: Gpt2LmHead<Flex> = load(&config, dir.path(), &device).unwrap();
    assert_eq!(logits(&back, &config.task()), before);

    let config = bert_config();
    let model = BertForSequenceClassification::<Flex>::init(&config, &device);
    let before = logits(&model, &config.task());
    let rename = |name: &str| name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta");
    save_as(&model, dir.path(), rename, &[("bert.embeddings.position_ids", 10)]);
    let back: BertForSequenceClassification<Flex> = load(&config, dir.path(), &device).unwrap();
    assert_eq!(logits(&back, &config.task()), before);

    save_as(&model, dir.path(), |name| name.replace("bert.", ""), &[]);
    let error = load::<Flex, BertForSequenceClassification<Flex>>(&config, dir.path(), &device).unwrap_err();
    assert!(error.to_string().contains("`bert.embeddings.word_embeddings.weight` is missing"), "{error}");

    let ModelConfig::ResNet(config) = ModelConfig::from_json(&resnet_json()).unwrap() else { panic!() };
    let model = CifarResNet::<Flex>::init(&config, &device);
    save_as(&model, dir.path(), str::to_string, &[("bn1.num_batches_tracked", 1)]);
    assert!(load::<Flex, CifarResNet<Flex>>(&config, dir.path(), &device).is_ok());
}

#[test]
fn checkpoints_store_gpt2_input_major() {
    let dir = tempdir().unwrap();
    let ModelConfig::Gpt2(config) = ModelConfig::from_json(&gpt2_json()).unwrap() else { panic!() };
    let model = Gpt2LmHead::<Flex>::init(&config, &Default::default());
    save(&model, &config, dir.path(), &|_| Dtype::F16).unwrap();
    let files = TensorFiles::open(dir.path()).unwrap();
    let weight = files.get("transformer.h.0.attn.c_attn.weight").unwrap();
    assert_eq!((weight.shape(), weight.dtype()), (&[8, 24][..], Dtype::F16));
    assert!(!files.contains("lm_head.weight"));
}

#[test]
fn padding_does_not_change_a_text() {
    let device = Default::default();
    let model = BertForSequenceClassification::<Flex>::init(&bert_config(), &device);
    let short = Tensor::<Flex, 2, Int>::from_data([[3, 4, 5]], &device);
    let padded = Tensor::<Flex, 2, Int>::from_data([[3, 4, 5, 0, 0]], &device);
    let mask = Tensor::<Flex, 2, Int>::from_data([[1, 1, 1, 0, 0]], &device);
    let (a, b) = (model.forward(short, None), model.forward(padded, Some(mask)));
    a.into_data().assert_approx_eq::<f32>(&b.into_data(), burn::tensor::Tolerance::absolute(1e-5));
}

#[test]
fn the_future_does_not_change_the_past() {
    let device = Default::default();
    let ModelConfig::Gpt2(config) = ModelConfig::from_json(&gpt2_json()).unwrap() else { panic!() };
    let model = Gpt2LmHead::<Flex>::init(&config, &device);
    let first =
        |ids: [[i32; 4]; 1]| model.forward(Tensor::from_data(ids, &device)).slice([0..1, 0..3, 0..20]);
    let (a, b) = (first([[1, 2, 3, 4]]), first([[1, 2, 3, 9]]));
    a.into_data().assert_approx_eq::<f32>(&b.into_data(), burn::tensor::Tolerance::absolute(1e-6));
}

#[test]
fn scaling_of_scores_is_honoured() {
    let dir = tempdir().unwrap();
    let config = |json: &Value| match ModelConfig::from_json(json).unwrap() {
        ModelConfig::Gpt2(config) => config,
        other => panic!("{other:?}"),
    };
    let scaled = config(&gpt2_json());
    let unscaled = config(&with(gpt2_json(), "scale_attn_weights", json!(false)));
    save(&Gpt2LmHead::<Flex>::init(&scaled, &Default::default()), &scaled, dir.path(), &|_| Dtype::F32)
        .unwrap();
    let [a, b] = [&scaled, &unscaled].map(|config| {
        let model: Gpt2LmHead<Flex> = load(config, dir.path(), &Default::default()).unwrap();
        logits(&model, &config.task())
    });
    assert_ne!(a, b);
}

type A = Autodiff<Flex>;

#[test]
fn dropout_acts_while_training_and_only_then() {
    let device = Default::default();
    let model = BertForSequenceClassification::<A>::init(&bert_config(), &device);
    briquette_core::materialize(&model);
    let task = bert_config().task();
    let run = || host_floats(model.logits(Inputs::dummy(&task, 2, 5, &device).unwrap()));
    assert_ne!(run(), run());
    let valid = model.valid();
    assert_eq!(logits(&valid, &task), logits(&valid, &task));
}

#[test]
fn every_parameter_has_a_gradient() {
    fn check<M: Pretrained<A> + AutodiffModule<A>>(config: &M::Config, unused: &[&str]) {
        let device = Default::default();
        let model = M::init(config, &device);
        briquette_core::materialize(&model);
        let loss =
            model.logits(Inputs::dummy(&config.task(), 2, 5, &device).unwrap()).powf_scalar(2.0).mean();
        let gradients = burn::optim::GradientsParams::from_grads(loss.backward(), &model);
        let view = model.view();
        let trainable = view.parameters.iter().filter(|p| p.trainable).count();
        assert_eq!(gradients.len(), trainable - unused.len(), "all but {unused:?}");
    }
    check::<BertForSequenceClassification<A>>(&bert_config(), &[]);
    let ModelConfig::Gpt2(config) = ModelConfig::from_json(&gpt2_json()).unwrap() else { panic!() };
    check::<Gpt2LmHead<A>>(&config, &[]);
    let ModelConfig::ResNet(config) = ModelConfig::from_json(&resnet_json()).unwrap() else { panic!() };
    check::<CifarResNet<A>>(&config, &[]);
}

#[test]
fn data_of_another_task_is_refused() {
    let dir = tempdir().unwrap();
    let text = dir.path().join("a.txt");
    fs::write(&text, "a").unwrap();
    let error = Examples::read(&text, &bert_config().task(), dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("a.txt: this model wants a `.tsv` file of sentences and labels"), "{error}");
    let table = dir.path().join("a.tsv");
    fs::write(&table, b"sentence\tlabel\nfine\t1\nbad \xff\t1\n").unwrap();
    let error = Examples::read(&table, &bert_config().task(), dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("a.tsv:3: not UTF-8"), "{error}");
    fs::write(&table, "sentence\tlabel\nfine\t1\n").unwrap();
    let error = Examples::read(&table, &bert_config().task(), dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(Examples::read(&table, &bert_config().task(), dir.path()).is_err());
    let error = Examples::read(dir.path().join("none.tsv"), &bert_config().task(), dir.path()).unwrap_err();
    assert!(error.to_string().contains("none.tsv"), "{error}");
}

/// A tokenizer whose words are `w0`, `w1`, ... and `[UNK]`.
fn tokenizer(folder: &Path, words: usize) {
    let mut vocabulary = serde_json::Map::from_iter([("[UNK]".to_string(), json!(0))]);
    (1..words).for_each(|i| drop(vocabulary.insert(format!("w{i}"), json!(i))));
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    });
    fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
}

#[test]
fn texts_must_fit_the_model() {
    let dir = tempdir().unwrap();
    let read = |name: &str, text: &str, task: &Task| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        Examples::read(&file, task, dir.path())
    };
    let bert = bert_config().task();
    tokenizer(dir.path(), 20);
    let long = format!("sentence\tlabel\n{}\t2\n", "w1 ".repeat(50));
    assert_eq!(read("a.tsv", &long, &bert).unwrap().len(), 1, "cut to the model's positions");
    let error = read("a.tsv", "sentence\tlabel\nw1\t0\n \t1\n", &bert).unwrap_err().to_string();
    assert!(error.ends_with("a.tsv:3: the tokenizer makes no token of the sentence"), "{error}");

    let gpt2 = ModelConfig::from_json(&gpt2_json()).unwrap().task();
    assert_eq!(read("a.txt", &"w1 w2\n".repeat(10), &gpt2).unwrap().len(), 3);
    let error = read("a.txt", &"w1 w2\n".repeat(3), &gpt2).unwrap_err().to_string();
    assert!(error.ends_with("a.txt: 6 tokens; one window takes 6 and the one after"), "{error}");
    let error = read("a.txt", "", &gpt2).unwrap_err().to_string();
    assert!(error.ends_with("a.txt: holds no examples"), "{error}");

    tokenizer(dir.path(), 30);
    let error = read("a.tsv", "sentence\tlabel\nw25\t0\n", &bert).unwrap_err().to_string();
    assert!(error.contains("it makes token 25, the model has 20 tokens"), "{error}");
}

#[test]
fn dummy_inputs_respect_the_model() {
    let task = bert_config().task();
    let dummy = |batch, seq| Inputs::<Flex>::dummy(&task, batch, seq, &Default::default());
    assert!(dummy(1, 10).is_ok());
    assert!(matches!(dummy(1, 11), Err(ModelError::Batch(_))));
    assert!(matches!(dummy(0, 5), Err(ModelError::Batch(_))));
    assert!(matches!(dummy(1, 0), Err(ModelError::Batch(_))));
}

#[test]
fn folders_without_a_configuration() {
    let dir = tempdir().unwrap();
    let message = || ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message().contains(CONFIG_FILE));
    fs::write(dir.path().join(CONFIG_FILE), "{").unwrap();
    assert!(message().contains("EOF"));
    fs::write(dir.path().join(CONFIG_FILE), r#"{"model_type": "llama"}"#).unwrap();
    assert!(
        message().contains("model_type: `llama` is not one of bert, gpt2, cifar-resnet"),
        "{}",
        message()
    );
}

/// A packed model is run on some of many texts at a time; what it says of each stays the same.
#[test]
fn many_texts_of_a_packed_bert() {
    let device = Default::default();
    let mut model = BertForSequenceClassification::<Flex>::init(&bert_config(), &device);
    let mut pack = |_: &LayerPath, layer: LayerMut<'_, Flex>| {
        if let LayerMut::Linear(layer) = layer {
            let [out, columns] = layer.shape();
            let codes: Vec<u8> = (0..out * columns).map(|i| (i * 37 % 251) as u8).collect();
            let words = pack_rows(&codes, out, columns, 8);
            let shape = [out, columns];
            let scales = vec![0.004; out];
            layer.set_packed(PackedMatrix::new(
                words,
                scales,
                vec![],
                8,
                Code::Symmetric,
                shape,
                columns,
                &device,
            ));
        }
    };
    model.layers_mut(&mut LayerPath::root(), &mut pack);
    let seq = 10;
    let texts = 2 * rows_at_once::<Flex>().unwrap() / seq + 3;
    let ids: Vec<i32> = (0..texts * seq).map(|i| (i * 7 % 19) as i32).collect();
    let mask: Vec<i32> = (0..texts * seq).map(|i| i32::from(i % seq <= i / seq % seq)).collect();
    let [ids, mask] =
        [ids, mask].map(|v| Tensor::<Flex, 2, Int>::from_data(TensorData::new(v, [texts, seq]), &device));
    for mask in [None, Some(mask)] {
        let all = model.tapped(Inputs::Tokens { ids: ids.clone(), mask: mask.clone() }, Wanted::default());
        let (found, wanted) = (host_floats(model.forward(ids.clone(), mask)), host_floats(all.logits));
        assert_eq!(found.len(), texts * 3);
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1.0), "{i}: {found}, not {wanted}");
        }
        assert!(wanted.chunks(3).any(|scores| (scores[0] - wanted[0]).abs() > 1e-3), "texts differ");
    }
}
