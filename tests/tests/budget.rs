//! Budgets of whole models: what a recipe asks for is what a trace of the smaller model counts.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_composer::sensitivity::curves;
use briquette_composer::{CalibrationError, Composer, Finished, Plan, Recipe, SensitivityRow, Session};
use briquette_core::{
    Cost, Dependencies, DimensionGroup, KeptUnits, Measure, ModelView, SensitivityCurve, host_floats,
};
use briquette_graph::{Tracing, trace};
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::resnet::CifarResNet;
use briquette_models::{Inputs, ModelConfig, ModelJob, Pretrained, PretrainedConfig};
use briquette_nn::remove;
use briquette_tests::uneven;
use burn::backend::Flex;
use burn::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a trace finds in a model that lost these units.
struct Traced<'a>(&'a [KeptUnits]);

impl ModelJob<Tracing> for Traced<'_> {
    type Output = (ModelView, Dependencies);

    fn run<M: Pretrained<Tracing>>(self, config: &M::Config) -> Self::Output {
        let device = Default::default();
        let mut model = M::init(config, &device);
        let inputs = Inputs::dummy(&config.task(), 2, 7, &device).unwrap();
        let find = |model: &M| {
            let trace = trace(model, &model.naming().layers, inputs.clone(), |m, i| m.logits(i)).unwrap();
            trace.dependencies()
        };
        if !self.0.is_empty() {
            let removal = find(&model).removal(self.0).unwrap();
            model = remove(model, &removal).unwrap().0;
        }
        (model.view(), find(&model))
    }
}

struct Known<M> {
    json: Value,
    model: M,
    view: ModelView,
    inputs: Inputs<Flex>,
}

impl<M: Pretrained<Flex>> Known<M> {
    fn new(json: Value) -> Self {
        let any = ModelConfig::from_json(&json).unwrap();
        let config = M::Config::pick(&any).unwrap().clone();
        let device = Default::default();
        let model = uneven(M::init(&config, &device));
        let inputs = Inputs::dummy(&config.task(), 2, 7, &device).unwrap();
        let (view, found) = any.run(Traced(&[]));
        Self { json, model, view: view.with_dependencies(found), inputs }
    }

    fn cost(&self) -> &Cost {
        self.view.dependencies.as_ref().unwrap().cost.as_ref().unwrap()
    }

    fn plan(&self, recipe: &Value) -> Plan<Flex> {
        Composer::builtin().plan(&Recipe::from_value(recipe), &self.view).unwrap_or_else(|e| panic!("{e}"))
    }

    fn problems(&self, recipe: &Value) -> Vec<String> {
        let found = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &self.view);
        found.err().into_iter().flat_map(|e| e.iter().map(|d| d.to_string()).collect::<Vec<_>>()).collect()
    }

    fn logits(&self, model: &M) -> Vec<f32> {
        host_floats(model.logits(self.inputs.clone()))
    }

    /// Finishes; masked and shrunk compute the same, and the smaller model costs what was predicted.
    fn finish(&self, session: Session<Flex, M>) -> (Finished<Flex, M>, Left) {
        let masked = self.logits(&session.view());
        let finished = session.finish().unwrap();
        let shrunk = self.logits(&finished.model);
        let largest = masked.iter().fold(0f32, |m, v| m.max(v.abs()));
        let apart = masked.iter().zip(&shrunk).fold(0f32, |d, (a, b)| d.max((a - b).abs())) / largest;
        assert!(apart <= 1e-5, "{apart} apart");
        let removed = finished.removed.as_ref().unwrap();
        let kept: Vec<KeptUnits> = removed.groups.iter().map(|g| g.kept.clone()).collect();
        let (_, now) = ModelConfig::from_json(&self.json).unwrap().run(Traced(&kept));
        let now = now.cost.unwrap();
        let share = |measure| {
            assert_eq!(now.whole(measure), self.cost().left(measure, &kept), "{measure}");
            now.whole(measure) / self.cost().whole(measure)
        };
        assert_eq!(now.whole(Measure::Parameters), Module::num_params(&finished.model) as f64);
        let left = Left {
            flops: share(Measure::Flops),
            parameters: share(Measure::Parameters),
            units: kept.into_iter().map(|k| (k.group, k.units)).collect(),
        };
        (finished, left)
    }

    fn left(&self, recipe: &Value) -> Left {
        self.finish(self.plan(recipe).attach(&self.model, 0)).1
    }
}

/// Shares of the whole model, and which units stay.
#[derive(Debug, PartialEq)]
struct Left {
    flops: f64,
    parameters: f64,
    units: BTreeMap<String, Vec<usize>>,
}

fn resnet() -> Known<CifarResNet<Flex>> {
    Known::new(json!({
        "model_type": "cifar-resnet", "depth": 20, "num_classes": 10, "shortcut": "A (stride-2 slice, zero-pad channels)",
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]
    }))
}

fn bert() -> Known<BertForSequenceClassification<Flex>> {
    Known::new(json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30,
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 96,
        "max_position_embeddings": 16
    }))
}

fn everything(more: Value) -> Value {
    let mut settings = json!({"on": ["*"], "budget": {"flops": 0.5}});
    more.as_object().unwrap().iter().for_each(|(k, v)| settings[k] = v.clone());
    json!({"steps": [{"structure_pruning": settings}]})
}

#[test]
fn half_the_operations_of_resnet_20_through_its_shortcuts() {
    let known = resnet();
    let text = include_str!("../../recipes/resnet20_half_flops.json");
    let recipe: Value = serde_json::from_str(text).unwrap();
    let plan = known.plan(&recipe);
    assert_eq!(plan.training().epochs, Some(15));
    // The stream and nine convolutions within blocks.
    assert_eq!(plan.cuts().len(), 10);
    let (finished, left) = known.finish(plan.attach(&known.model, 0));
    assert!((0.49..=0.5).contains(&left.flops), "{}", left.flops);
    assert!(left.units.contains_key("conv1"), "the stream loses channels");
    let widths: Vec<usize> = [&finished.model.layer1, &finished.model.layer2, &finished.model.layer3]
        .map(|stage| stage[0].conv2.weight.dims()[0])
        .to_vec();
    assert!(widths[0] < 16 && widths[1] < 32 && widths[2] < 64, "{widths:?}");
    for (width, of) in widths.iter().zip([16, 32, 64]) {
        assert!(*width * 5 >= of, "a layer keeps a fifth: {widths:?}");
    }
}

#[test]
fn rows_heads_and_width_of_bert_share_a_budget() {
    let known = bert();
    let left = known.left(&everything(json!({})));
    assert!((0.49..=0.5).contains(&left.flops), "{}", left.flops);
    let heads = |left: &Left| left.units.keys().filter(|name| name.ends_with("query")).count();
    assert!(heads(&left) > 0 && left.units.len() > heads(&left), "{left:?}");
    let left = known.left(&everything(json!({"budget": {"flops": 0.3}})));
    assert!((0.29..=0.3).contains(&left.flops), "{}", left.flops);
    assert!(left.units.contains_key("bert.embeddings.word_embeddings"), "{left:?}");
    let few = json!({
        "except": ["bert.embeddings.*", "**.output.dense", "bert.pooler.dense"],
        "budget": {"flops": 0.3}
    });
    let without_width = known.left(&everything(few));
    assert!(!without_width.units.contains_key("bert.embeddings.word_embeddings"), "{without_width:?}");
    assert!((0.29..=0.3).contains(&without_width.flops), "{}", without_width.flops);
    let parameters = known.left(&everything(json!({"budget": {"parameters": 0.5}})));
    assert!((0.49..=0.5).contains(&parameters.parameters), "{}", parameters.parameters);
    assert_ne!(parameters.units, left.units);
}

#[test]
fn every_option_changes_the_choice() {
    let known = bert();
    let usual = known.left(&everything(json!({})));
    assert_eq!(usual, known.left(&everything(json!({}))), "the same twice");
    for more in [
        json!({"importance": "l2"}),
        json!({"importance": "random"}),
        json!({"max_sparsity": 0.45}),
        json!({"multiple_of": 8}),
        json!({"budget": {"flops": 0.7}}),
    ] {
        let left = known.left(&everything(more.clone()));
        assert_ne!(usual.units, left.units, "{more}");
        let most = if more.get("budget").is_some() { 0.7 } else { 0.5 };
        assert!(left.flops <= most, "{more}: {}", left.flops);
        for (group, units) in &left.units {
            let of = known.view.dependencies.as_ref().unwrap();
            let group = of.groups.iter().find(|g| g.name == *group).unwrap();
            let each = if group.name.ends_with("query") { 4 } else { 1 };
            if more.get("multiple_of").is_some() {
                assert!((units.len() * each).is_multiple_of(8), "{}: {}", group.name, units.len());
            }
            if more.get("max_sparsity").is_some() {
                assert!(units.len() as f64 >= 0.55 * group.units as f64, "{}: {}", group.name, units.len());
            }
        }
    }
}

#[test]
fn mistakes_have_their_place() {
    let known = bert();
    let of = |more: Value| known.problems(&everything(more));
    let place = "steps[0].structure_pruning";
    assert_eq!(
        of(json!({"budget": {"flops": 0.01}})),
        [format!(
            "{place}.budget: 0.01 is not at least 0.055: that of the model's FLOPs is left when every named group keeps \
             0.200 of its units"
        )]
    );
    let recipe = json!({"steps": [
        {"row_pruning": {"on": ["**.intermediate.dense"], "budget": {"flops": 0.8}}},
        {"head_pruning": {"on": ["**.attention.output.dense"], "keep": 0.5}}]});
    assert_eq!(
        known.problems(&recipe),
        [
            "steps[0].row_pruning.budget: speaks of the whole model, and steps[1].head_pruning removes units as well: let \
          `structure_pruning` remove both"
        ]
    );
    let outputs = of(json!({"on": ["classifier"]}));
    assert!(
        outputs[0].starts_with(&format!("{place}.on: classifier: its outputs cannot be removed: ")),
        "{outputs:?}"
    );
    let mut untraced = known.view.clone();
    untraced.dependencies.as_mut().unwrap().cost = None;
    let found = Composer::<Flex>::builtin().plan(&Recipe::from_value(&everything(json!({}))), &untraced);
    let text = found.err().unwrap().to_string();
    assert!(text.contains("the model was not traced: nothing says what it costs"), "{text}");
}

#[test]
fn curves_decide_how_much_of_each_group_goes() {
    let known = resnet();
    let recipe = everything(json!({"allocate": "sensitivity"}));
    let open = known.plan(&recipe);
    assert!(open.needs_sensitivity() && open.sensitivity().is_some());
    // Nothing is chosen before the curves are known.
    let session = open.attach(&known.model, 0);
    assert_eq!(known.logits(&session.view()), known.logits(&known.model));
    let error = session.finish().err().unwrap().to_string();
    assert!(error.starts_with("the sensitivity of conv1, layer1.0.conv1, "), "{error}");
    let missing = open.clone().with_sensitivity(&[]).err().unwrap().to_string();
    assert_eq!(missing, "the sensitivity of `conv1` was not measured");
    let groups = &known.view.dependencies.as_ref().unwrap().groups;
    let height = |group: &DimensionGroup| if group.name == "conv1" { 10.0 } else { 1.0 };
    let curves: Vec<SensitivityCurve> = groups.iter().map(|group| curve(group, height(group))).collect();
    let of = |curves: &[SensitivityCurve]| {
        let plan = open.clone().with_sensitivity(curves).unwrap();
        assert!(!plan.needs_sensitivity());
        known.finish(plan.attach(&known.model, 0)).1
    };
    let even = of(&curves);
    assert!((0.49..=0.5).contains(&even.flops), "{}", even.flops);
    // One block that does not mind, and one that minds a lot.
    let mut uneven = curves;
    let at = |name: &str| groups.iter().position(|g| g.name == name).unwrap();
    uneven[at("layer2.1.conv1")] = curve(&groups[at("layer2.1.conv1")], 1e-3);
    uneven[at("layer2.2.conv1")] = curve(&groups[at("layer2.2.conv1")], 1e3);
    let told = of(&uneven);
    assert!((0.49..=0.5).contains(&told.flops), "{}", told.flops);
    assert_eq!(told.units["layer2.1.conv1"].len(), 7, "no more than a fifth: {even:?} {told:?}");
    assert!(!told.units.contains_key("layer2.2.conv1"), "nothing");
    assert!((8..32).contains(&even.units["layer2.2.conv1"].len()), "{even:?}");
}

/// An error of `height` with a quarter of the units, a quarter of it with half of them.
fn curve(group: &DimensionGroup, height: f64) -> SensitivityCurve {
    let points = vec![(group.units / 2, height / 4.0), (group.units / 4, height)];
    SensitivityCurve { group: group.name.clone(), units: group.units, points }
}

#[test]
fn each_group_is_measured_alone() {
    let known = bert();
    let recipe = json!({"sensitivity": {"keep": [0.75, 0.25], "groups": "all"}});
    let plan = known.plan(&recipe);
    let before = known.logits(&known.model);
    let rows = scan(&known, &plan);
    let groups = &known.view.dependencies.as_ref().unwrap().groups;
    assert_eq!(rows.len(), 2 * groups.len());
    for (pair, group) in rows.chunks(2).zip(groups) {
        assert_eq!(pair[0].name, group.name);
        let count = |n: usize| (3 * n).div_ceil(4);
        assert_eq!(pair[0].units, Some([group.units, count(group.units)]));
        let [few, many] = [&pair[1], &pair[0]];
        assert!(many.error > 0.0 && few.divergence > 0.0 && few.accuracy.is_some(), "{few:?} {many:?}");
        assert!(few.flops_saved > many.flops_saved && many.parameters_saved > Some(0.0), "{few:?} {many:?}");
    }
    assert_eq!(known.logits(&known.model), before, "the model is as it was");
    // One point by hand.
    let name = "bert.encoder.layer.1.intermediate.dense";
    let alone = json!({"steps": [{"row_pruning": {"on": [name], "keep": 0.25}}]});
    let (masked, _) = known.finish(known.plan(&alone).attach(&known.model, 0));
    let changed = known.logits(&masked.model);
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let error =
        square(&mut changed.iter().zip(&before).map(|(a, b)| a - b)) / square(&mut before.iter().copied());
    let row = rows.iter().find(|row| row.name == name && row.units == Some([96, 24])).unwrap();
    assert!((row.error - error.sqrt()).abs() < 1e-4, "{} {}", row.error, error.sqrt());
    let curves = curves(&rows);
    assert_eq!(curves.len(), groups.len());
    assert!(curves.iter().all(|curve| curve.points.len() == 2));
}

#[test]
fn steps_on_layers_are_measured_one_by_one() {
    let known = bert();
    let recipe = json!({
        "steps": [
            {"row_pruning": {"on": ["**.0.intermediate.dense"], "keep": 0.9, "importance": "activation"}},
            {"sparse_pruning": {"on": ["**.query"], "sparsity": 0.9}},
            {"weight_quantization": {"on": ["**.key", "**.value"], "bits": 2}}],
        "sensitivity": {"keep": [0.5]}
    });
    let rows = scan(&known, &known.plan(&recipe));
    let found: Vec<(&str, &str)> = rows.iter().map(|row| (row.method.as_str(), row.name.as_str())).collect();
    let layer = |l: usize, rest: &str| format!("bert.encoder.layer.{l}.attention.self.{rest}");
    let mut expected = vec![("row_pruning", "bert.encoder.layer.0.intermediate.dense".to_string())];
    for l in 0..2 {
        expected.push(("sparse_pruning", layer(l, "query")));
        expected.extend(["key", "value"].map(|rest| ("weight_quantization", layer(l, rest))));
    }
    assert_eq!(found, expected.iter().map(|(m, n)| (*m, n.as_str())).collect::<Vec<_>>());
    assert_eq!(rows[0].units, Some([96, 48]));
    assert!(rows.iter().all(|row| row.error > 0.0), "{rows:?}");
    assert!(rows[1..].iter().all(|row| row.units.is_none() && row.flops_saved.is_none()));
    let everything = known.plan(&json!({"steps": recipe["steps"], "sensitivity": {"groups": "all"}}));
    assert!(scan(&known, &everything).iter().all(|row| row.units.is_some()));
    let nothing =
        json!({"steps": [{"activation_quantization": {"on": ["**.key"], "bits": 8}}], "sensitivity": {}});
    let found = known.problems(&nothing);
    assert!(found[0].starts_with("sensitivity: there is nothing to scan: "), "{found:?}");
}

/// One batch of two examples.
fn scan<M: Pretrained<Flex>>(known: &Known<M>, plan: &Plan<Flex>) -> Vec<SensitivityRow> {
    let settings = plan.sensitivity().unwrap();
    let mut scan = plan.scan(&known.model, &settings, 0).unwrap();
    let run = |model: &M| {
        known.logits(model);
        Ok::<(), CalibrationError>(())
    };
    scan.observe(run).unwrap();
    let mut points = 0;
    let labels = Tensor::from_ints([0, 1], &Default::default());
    let logits = |model: &M| Ok::<_, CalibrationError>(model.logits(known.inputs.clone()));
    scan.show(Some(labels), logits, &mut || points += 1).unwrap();
    assert_eq!(points, scan.len());
    scan.finish().unwrap()
}
