//! Pruning by the library's methods on BERT, GPT-2 and ResNet, with groups that a trace finds: what was masked is
//! removed, and the smaller model computes the same.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_composer::{Composer, Finished, Plan, Recipe, Session, Trainable, Trained};
use briquette_core::{Left, ModelView, host_floats};
use briquette_graph::{Tracing, trace};
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::gpt2::Gpt2LmHead;
use briquette_models::resnet::CifarResNet;
use briquette_models::{Inputs, ModelConfig, ModelJob, Pretrained, PretrainedConfig, Task};
use briquette_tests::uneven;
use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::optim::{AdamWConfig, Optimizer};
use burn::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type A = Autodiff<Flex>;

struct Traced;

impl ModelJob<Tracing> for Traced {
    type Output = ModelView;

    fn run<M: Pretrained<Tracing>>(self, config: &M::Config) -> ModelView {
        let device = Default::default();
        let model = M::init(config, &device);
        let inputs = Inputs::dummy(&config.task(), 2, 3, &device).unwrap();
        let trace = trace(&model, &model.naming().layers, inputs, |m, inputs| m.logits(inputs)).unwrap();
        model.view().with_dependencies(trace.dependencies())
    }
}

/// A model with uneven weights, its traced view and inputs.
struct Known<B: Backend, M: Pretrained<B>> {
    model: M,
    view: ModelView,
    task: Task,
    inputs: Inputs<B>,
}

impl<B: Backend, M: Pretrained<B>> Known<B, M> {
    fn new(json: &Value) -> Self {
        let known = ModelConfig::from_json(json).unwrap();
        let view = known.run(Traced);
        let config = M::Config::pick(&known).unwrap().clone();
        let device = Default::default();
        let model = uneven(M::init(&config, &device)).without_dropout();
        let task = config.task();
        let inputs = Inputs::dummy(&task, 2, 7, &device).unwrap();
        Self { model, view, task, inputs }
    }

    fn logits(&self, model: &M) -> Vec<f32> {
        host_floats(model.logits(self.inputs.clone()))
    }
}

fn bert<B: Backend>() -> Known<B, BertForSequenceClassification<B>> {
    Known::new(&json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30,
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 40,
        "max_position_embeddings": 16
    }))
}

fn gpt2<B: Backend>() -> Known<B, Gpt2LmHead<B>> {
    Known::new(&json!({
        "model_type": "gpt2", "vocab_size": 30, "n_positions": 16, "n_embd": 48, "n_layer": 2, "n_head": 12
    }))
}

fn resnet<B: Backend>() -> Known<B, CifarResNet<B>> {
    Known::new(&json!({
        "model_type": "cifar-resnet", "depth": 8, "num_classes": 10, "shortcut": "A (stride-2 slice, zero-pad channels)",
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]
    }))
}

fn plan<B: Backend>(view: &ModelView, recipe: &Value) -> Plan<B> {
    Composer::builtin().plan(&Recipe::from_value(recipe), view).unwrap_or_else(|e| panic!("{e}"))
}

fn problems(view: &ModelView, recipe: &Value) -> Vec<String> {
    let found = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), view);
    found.err().into_iter().flat_map(|e| e.iter().map(|d| d.to_string()).collect::<Vec<_>>()).collect()
}

/// Largest difference, relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    let largest = a.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |d, (x, y)| d.max((x - y).abs())) / largest
}

fn step(method: &str, settings: Value) -> Value {
    json!({ method: settings })
}

fn steps(steps: &[Value]) -> Value {
    json!({ "steps": steps })
}

/// Units that stay, by group.
type Kept = BTreeMap<String, usize>;

/// Prunes without training; masked and shrunk compute the same.
fn pruned<M: Pretrained<Flex>>(known: &Known<Flex, M>, recipe: &Value) -> (Finished<Flex, M>, Kept) {
    let session = plan(&known.view, recipe).attach(&known.model, 0);
    let (whole, masked) = (known.logits(&known.model), known.logits(&session.view()));
    assert!(distance(&whole, &masked) > 1e-3, "the masks change something");
    let finished = session.finish().unwrap();
    let apart = distance(&masked, &known.logits(&finished.model));
    assert!(apart <= 1e-5, "{apart} apart: {recipe}");
    assert!(Module::num_params(&finished.model) < Module::num_params(&known.model));
    let removed = finished.removed.as_ref().unwrap();
    let kept = removed.groups.iter().map(|g| (g.kept.group.clone(), g.kept.units.len())).collect();
    (finished, kept)
}

fn expected<const N: usize>(kept: [(&str, usize); N]) -> Kept {
    kept.into_iter().map(|(name, units)| (name.to_string(), units)).collect()
}

#[test]
fn bert_loses_rows_heads_and_width() {
    let known = bert::<Flex>();
    let layer = "bert.encoder.layer.*";
    let rows = step("row_pruning", json!({"on": [format!("{layer}.intermediate.dense")], "keep": 0.6}));
    let output = format!("{layer}.attention.output.dense");
    let heads = step("head_pruning", json!({"on": [output], "keep": 0.6}));
    let width = step("width_pruning", json!({"on": ["bert.embeddings.word_embeddings"], "keep": 0.5}));
    let (finished, kept) = pruned(&known, &steps(&[rows.clone(), heads.clone(), width.clone()]));
    let name = |l: usize, rest: &str| format!("bert.encoder.layer.{l}.{rest}");
    let mut all = expected([("bert.embeddings.word_embeddings", 24)]);
    for l in 0..2 {
        all.insert(name(l, "intermediate.dense"), 24);
        all.insert(name(l, "attention.self.query"), 8);
    }
    assert_eq!(kept, all);
    let attention = &finished.model.bert.encoder.layer[0].attention;
    assert_eq!(attention.self_.query.weight.dims(), [24, 32]);
    for one in [rows, heads, width] {
        pruned(&known, &steps(&[one]));
    }
}

#[test]
fn every_importance_and_schedule_ends_in_a_smaller_model() {
    let known = bert::<Flex>();
    for more in [
        json!({"importance": "l2", "multiple_of": 16}),
        json!({"importance": "movement"}),
        json!({"importance": "random", "scope": "global"}),
        json!({"importance": "taylor", "schedule": {"start": 5}}),
        json!({"schedule": {"shape": "cubic", "end": 100}}),
        json!({"arithmetic": "deepspeed", "schedule": {"start": 7}}),
    ] {
        let mut settings = json!({"on": ["**.intermediate.dense"], "keep": 0.5});
        more.as_object().unwrap().iter().for_each(|(k, v)| settings[k] = v.clone());
        let (_, kept) = pruned(&known, &steps(&[step("row_pruning", settings)]));
        let of_all: usize = kept.values().sum();
        assert_eq!(of_all, if more.get("multiple_of").is_some() { 64 } else { 40 }, "{more}");
    }
}

#[test]
fn gpt2_loses_rows_heads_of_fused_projections_and_a_tied_width() {
    let known = gpt2::<Flex>();
    let rows = step("row_pruning", json!({"on": ["**.mlp.c_fc"], "keep": 0.6}));
    let heads = step("head_pruning", json!({"on": ["**.attn.c_proj"], "keep": 0.6, "heads": 12}));
    let by_query =
        step("head_pruning", json!({"on": ["**.attn.c_attn"], "keep_number": 5, "importance": "l2"}));
    let width = step("width_pruning", json!({"on": ["transformer.wte", "**.c_proj"], "keep": 0.75}));
    let (_, kept) = pruned(&known, &steps(&[rows, heads, width]));
    assert_eq!(kept["transformer.wte"], 36);
    assert_eq!(kept["transformer.h.1.mlp.c_fc"], 116);
    assert_eq!(kept["transformer.h.1.attn.c_attn"], 8);
    let (_, kept) = pruned(&known, &steps(&[by_query]));
    assert_eq!(kept["transformer.h.0.attn.c_attn"], 5);
}

#[test]
fn resnet_loses_channels_within_blocks_and_of_the_stream() {
    let known = resnet::<Flex>();
    let within = json!({"on": ["layer*.*.conv1"], "keep": 0.5});
    let (finished, kept) = pruned(&known, &steps(&[step("channel_pruning", within)]));
    assert_eq!(kept.values().sum::<usize>(), 8 + 16 + 32);
    assert_eq!(finished.model.layer2[0].conv1.weight.dims()[0], 16);
    let everywhere = json!({"on": ["*"], "keep": 0.5, "scope": "global", "max_sparsity": 0.9});
    let (_, kept) = pruned(&known, &steps(&[step("channel_pruning", everywhere)]));
    let all: usize = known.view.dependencies.as_ref().unwrap().groups.iter().map(|g| g.units).sum();
    assert_eq!(kept.values().sum::<usize>(), all / 2);
}

/// One step towards a target that the model does not reach.
fn train<M: Pretrained<A> + Trainable<A>>(
    known: &Known<A, M>,
    session: &mut Session<A, M>,
    optimizer: &mut impl Optimizer<Trained<A, M>, A>,
) {
    let logits = session.view().logits(known.inputs.clone());
    let target = Tensor::arange(0..logits.shape().num_elements() as i64, &logits.device());
    let target = target.float().sin().reshape(logits.dims());
    session.step((logits - target).square().mean().backward(), optimizer, 1e-2);
}

/// Trains with a recipe of DeepSpeed, then masked and shrunk compute the same.
fn trained<M>(known: &Known<A, M>, recipe: &Value, count: usize) -> Kept
where
    M: Pretrained<A> + Trainable<A> + AutodiffModule<A>,
    M::InnerModule: Pretrained<Flex>,
{
    let mut session = plan(&known.view, recipe).attach_training(&known.model, 0);
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..count {
        train(known, &mut session, &mut optimizer);
    }
    let inputs = Inputs::<Flex>::dummy(&known.task, 2, 7, &Default::default()).unwrap();
    let masked = host_floats(session.valid().logits(inputs.clone()));
    let finished = session.finish().unwrap();
    let shrunk = host_floats(finished.model.valid().logits(inputs));
    let apart = distance(&masked, &shrunk);
    assert!(apart <= 1e-5, "{apart} apart: {recipe}");
    let removed = finished.removed.unwrap();
    removed.groups.iter().map(|g| (g.kept.group.clone(), g.kept.units.len())).collect()
}

fn deepspeed(technique: &str, shared: Value, modules: Value, related: Value) -> Value {
    let mut shared = shared;
    shared["enabled"] = json!(true);
    let group = json!({"params": {"dense_ratio": 0.6}, "modules": modules, "related_modules": related});
    let block = json!({"shared_parameters": shared, "different_groups": {"g": group}});
    json!({"compression_training": { technique: block }})
}

#[test]
fn deepspeeds_recipes_train_and_shrink() {
    // The two that DeepSpeed cannot count or run afterwards, and the one whose normalization it gets wrong.
    let known = bert::<A>();
    let learned = || json!({"method": "topk", "schedule_offset": 2});
    let rows = deepspeed(
        "row_pruning",
        learned(),
        json!(["intermediate.dense"]),
        json!([["layer.\\w+.output.dense"]]),
    );
    assert_eq!(trained(&known, &rows, 5).values().copied().collect::<Vec<_>>(), [24, 24]);
    let mut shared = learned();
    shared["num_heads"] = json!(12);
    let names = json!([["self.query", "self.key", "self.value"]]);
    let heads = deepspeed("head_pruning", shared, json!(["attention.output.dense"]), names);
    assert_eq!(trained(&known, &heads, 5).values().copied().collect::<Vec<_>>(), [8, 8]);
    let known = resnet::<A>();
    for method in ["topk", "l1"] {
        let shared = json!({"method": method, "schedule_offset": 1});
        let names = json!([["layer\\d\\.\\d\\.conv2", "layer\\d\\.\\d\\.bn1"]]);
        let channels = deepspeed("channel_pruning", shared, json!(["layer\\d\\.\\d\\.conv1"]), names);
        assert_eq!(trained(&known, &channels, 3).values().copied().collect::<Vec<_>>(), [10, 20, 39]);
    }
}

#[test]
fn masks_grow_and_follow_scores_while_training() {
    let known = bert::<A>();
    for more in [
        json!({"importance": "movement", "schedule": {"shape": "cubic", "start": 1, "end": 5, "every": 1}}),
        json!({"importance": "taylor", "schedule": {"start": 2}}),
        json!({"importance": "l1", "scope": "global", "schedule": {"shape": "linear", "end": 4, "every": 2}}),
    ] {
        let mut settings = json!({"on": ["**.intermediate.dense"], "keep": 0.5});
        more.as_object().unwrap().iter().for_each(|(k, v)| settings[k] = v.clone());
        let kept = trained(&known, &steps(&[step("row_pruning", settings)]), 7);
        assert_eq!(kept.values().sum::<usize>(), 40, "{more}");
    }
    let width = json!({"on": ["bert.embeddings.word_embeddings"], "keep": 0.75, "importance": "movement"});
    assert_eq!(trained(&known, &steps(&[step("width_pruning", width)]), 4).values().sum::<usize>(), 36);
}

#[test]
fn learned_scores_are_trained_through_all_that_reads_the_units() {
    let known = bert::<A>();
    let settings = json!({"on": ["**.intermediate.dense"], "keep": 0.5, "importance": "movement"});
    let mut session =
        plan(&known.view, &steps(&[step("row_pruning", settings)])).attach_training(&known.model, 0);
    let scores = |session: &Session<A, _>| host_floats(session.parts().state.learned(0));
    let (first, mut optimizer) = (scores(&session), AdamWConfig::new().init());
    train(&known, &mut session, &mut optimizer);
    let moved = scores(&session).iter().zip(&first).filter(|(a, b)| a != b).count();
    // Units that are masked learn too.
    assert_eq!(moved, 40);
}

#[test]
fn rows_heads_sparsity_and_eight_bits_in_one_recipe() {
    let known = bert::<Flex>();
    let recipe = steps(&[
        step("row_pruning", json!({"on": ["**.intermediate.dense"], "keep": 0.6})),
        step("head_pruning", json!({"on": ["**.attention.output.dense"], "keep": 0.6})),
        step("sparse_pruning", json!({"on": ["**.output.dense", "**.intermediate.dense"], "pattern": "2:4"})),
        step("weight_quantization", json!({"on": ["bert.encoder.**"], "bits": 8})),
        step("activation_quantization", json!({"on": ["bert.encoder.**"], "bits": 8})),
    ]);
    // Neurons go one by one and would take parts of runs with them; heads are runs of four columns themselves.
    let text = "removed columns cut through the pattern's blocks of 4 columns";
    let line =
        |layer: usize| format!("steps[2].sparse_pruning: bert.encoder.layer.{layer}.output.dense: {text}");
    assert_eq!(problems(&known.view, &recipe), [line(0), line(1)]);
    let mut recipe = recipe;
    recipe["steps"][2] =
        step("sparse_pruning", json!({"on": ["**.output.dense", "**.intermediate.dense"], "sparsity": 0.5}));
    let finished = plan(&known.view, &recipe).attach(&known.model, 0).finish().unwrap();
    let layer = |name: &str| {
        let found = finished.layers.iter().find(|l| l.site.name == format!("bert.encoder.layer.0.{name}"));
        found.unwrap_or_else(|| panic!("nothing is said of {name}"))
    };
    for (name, shape) in [
        ("intermediate.dense", [24, 48]),
        ("output.dense", [48, 24]),
        ("attention.output.dense", [48, 32]),
        ("attention.self.query", [32, 48]),
    ] {
        let coded = layer(name).coded().unwrap();
        assert_eq!(coded.shape, shape, "{name}");
        let sparse = layer(name).left.iter().find_map(|(_, left)| match left {
            Left::Sparse(sparse) => Some(sparse),
            _ => None,
        });
        assert_eq!(sparse.is_some(), name != "attention.self.query", "{name}");
        if let Some(sparse) = sparse {
            assert_eq!(sparse.shape, shape);
            let values = coded.values();
            assert!(values.iter().zip(&sparse.kept).all(|(v, kept)| *kept || *v == 0.0), "{name}");
        }
    }
    let apart = distance(&known.logits(&finished.model), &known.logits(&known.model));
    assert!(apart > 1e-3, "it is another model");
}

#[test]
fn mistakes_name_the_layers() {
    let known = bert::<Flex>();
    let g = "compression_training.row_pruning.different_groups.g";
    let shared = json!({"schedule_offset": 0});
    // Unanchored, the pattern means the attention's output as well.
    let rows = deepspeed("row_pruning", shared, json!(["intermediate.dense"]), json!([["output.dense"]]));
    let found = problems(&known.view, &rows);
    let text =
        "pattern `re:output.dense` means 4 layers, for 2 layers that lose something; they pair one to one";
    assert_eq!(found[0], format!("{g}.related_modules: {text}"));
    let heads =
        steps(&[step("head_pruning", json!({"on": ["**.attention.output.dense"], "keep": 0.5, "heads": 8}))]);
    assert_eq!(
        problems(&known.view, &heads)[0],
        "steps[0].head_pruning.heads: bert.encoder.layer.0.attention.output.dense: 8 is not the 12 heads, or groups of \
         heads, that the model has"
    );
    let classifier = steps(&[step("row_pruning", json!({"on": ["classifier"], "keep": 0.5}))]);
    let found = problems(&known.view, &classifier);
    assert!(
        found[0].starts_with("steps[0].row_pruning.on: classifier: its rows cannot be removed: "),
        "{found:?}"
    );
    let twice = steps(&[
        step("width_pruning", json!({"on": ["bert.embeddings.word_embeddings"], "keep": 0.5})),
        step("width_pruning", json!({"on": ["**.output.dense"], "keep": 0.5})),
    ]);
    let found = problems(&known.view, &twice);
    assert!(
        found.iter().any(|line| line.contains("are removed by steps[0].width_pruning already")),
        "{found:?}"
    );
}

#[test]
fn a_plan_shows_what_is_left() {
    let known = bert::<Flex>();
    let recipe = steps(&[step("row_pruning", json!({"on": ["**.intermediate.dense"], "keep": 0.6}))]);
    let plan = plan::<Flex>(&known.view, &recipe);
    let text = plan.to_string();
    let line = |name: &str| {
        let found = text.lines().find(|l| l.starts_with(&format!("bert.encoder.layer.0.{name} "))).unwrap();
        found.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("intermediate.dense"), "40x48 left 24x48");
    assert_eq!(
        line("output.dense"),
        "48x40 left 48x24, row_pruning(group=bert.encoder.layer.0.intermediate.dense units=40 kept=24 importance=l1)"
    );
    assert_eq!(line("attention.output.dense"), "48x48 unchanged");
    assert_eq!(plan.to_json()["shapes_left"]["bert.encoder.layer.1.output.dense"], json!([48, 24]));
}

#[test]
fn units_that_are_only_masked_stay_as_zeros() {
    // Without `related_modules` DeepSpeed removes nothing.
    let known = bert::<Flex>();
    let mut recipe = deepspeed(
        "row_pruning",
        json!({"schedule_offset": 0}),
        json!(["intermediate.dense"]),
        json!([["layer.\\w+.output.dense"]]),
    );
    let group = &mut recipe["compression_training"]["row_pruning"]["different_groups"]["g"];
    group.as_object_mut().unwrap().shift_remove("related_modules");
    let session = plan::<Flex>(&known.view, &recipe).attach(&known.model, 0);
    assert!(!session.can_shrink());
    let masked = known.logits(&session.view());
    let finished = session.finish().unwrap();
    assert!(finished.removed.is_none());
    assert_eq!(Module::num_params(&finished.model), Module::num_params(&known.model));
    assert_eq!(known.logits(&finished.model), masked);
    let weight = host_floats(finished.model.bert.encoder.layer[0].output.dense.weight.val());
    let gone = weight.chunks(48).filter(|column| column.iter().all(|v| *v == 0.0)).count();
    assert_eq!(gone, 16, "of 40 inputs 24 stay");
}
