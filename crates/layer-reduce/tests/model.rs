//! Settings, reduction and initialisation on a small model.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_core::{Diagnostics, ModelView, host_floats, materialize, stop};
use briquette_layer_reduce::{
    InitialiseError, Kept, LayerReduction, Mismatch, ReduceError, ReducedLayers, initialise_from, reduce,
};
use briquette_nn::{Compressible, Linear, LinearConfig, model_view};
use burn::backend::{Autodiff, Flex};
use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType};
use serde_json::{Value, json};

type A = Autodiff<Flex>;

#[derive(Module, Debug, Compressible)]
struct Block<B: Backend> {
    fc: Linear<B>,
    norm: BatchNorm<B>,
}

/// The list is called otherwise than its field, and begins like what stands beside it.
#[derive(Module, Debug, Compressible)]
struct Net<B: Backend> {
    words: Linear<B>,
    #[compressible(name = "encoder.layer")]
    stack: Vec<Block<B>>,
    #[compressible(name = "encoder.layer_norm")]
    norm: BatchNorm<B>,
    dropout: Dropout,
    head_: Linear<B>,
}

/// Every parameter, running statistics included, holds a number of its own, counted from `first`.
fn net<B: Backend>(blocks: usize, width: usize, first: i64) -> Net<B> {
    struct Number(i64);
    impl<B: Backend> ModuleMapper<B> for Number {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            self.0 += 1;
            param.map(|t| {
                let trained = t.is_require_grad();
                t.zeros_like().add_scalar(self.0).set_require_grad(trained)
            })
        }
    }
    let d = Default::default();
    let block = || Block { fc: LinearConfig::new(4, width).init(&d), norm: BatchNormConfig::new(4).init(&d) };
    let net = Net {
        words: LinearConfig::new(3, 4).init(&d),
        stack: (0..blocks).map(|_| block()).collect(),
        norm: BatchNormConfig::new(4).init(&d),
        dropout: DropoutConfig::new(0.1).init(),
        head_: LinearConfig::new(4, 2).init(&d),
    };
    materialize(&net);
    net.map(&mut Number(first - 1))
}

/// The number that each parameter holds.
fn numbers<B: Backend>(net: &Net<B>) -> Vec<f32> {
    struct Collect(Vec<f32>);
    impl<B: Backend> ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push(host_floats(param.val())[0]);
        }
    }
    let mut collect = Collect(Vec::new());
    net.visit(&mut collect);
    collect.0
}

/// Parameters before the stack and in each block.
const WORDS: usize = 2;
const BLOCK: usize = 6;

fn resolve(view: &ModelView, settings: &Value) -> Result<ReducedLayers, Vec<String>> {
    let mut out = Diagnostics::new();
    let read = LayerReduction::read(settings, "r", &mut out).expect("well-formed settings");
    let resolved = read.resolve(view, &|key| format!("r.{key}"), &mut out);
    resolved.ok_or_else(|| out.iter().map(|d| d.to_string()).collect())
}

fn refused(settings: Value) -> Vec<String> {
    resolve(&model_view(&net::<Flex>(6, 4, 1)), &settings).expect_err("mistakes")
}

#[test]
fn settings_are_resolved_for_a_model() {
    let view = model_view(&net::<Flex>(6, 4, 1));
    let of = |settings: Value| resolve(&view, &settings).unwrap();
    let plain = of(json!({"layers": "encoder.layer", "keep": [1, 3, 5]}));
    assert_eq!((plain.list.as_str(), plain.path.as_str(), plain.of), ("encoder.layer", "stack", 6));
    assert_eq!(plain.indices(), Some(&[1, 3, 5][..]));
    let beside = ["words.weight", "words.bias", "norm.gamma", "norm.beta", "norm.running_mean"];
    assert_eq!(plain.copied[..5], beside);
    assert_eq!(plain.copied[5..], ["norm.running_var", "head_.weight", "head_.bias"]);
    assert_eq!(plain.to_string(), "encoder.layer: layers 1, 3, 5 of 6 stay");
    assert_eq!(plain.to_json(), json!({"list": "encoder.layer", "kept": [1, 3, 5], "of": 6}));

    let counted = |choice: &str| {
        of(json!({"layers": "encoder.layer", "keep": {"count": 2, "choice": choice}, "copy": []})).kept
    };
    assert_eq!(counted("evenly_spaced"), Kept::Indices(vec![2, 5]));
    assert_eq!(counted("first"), Kept::Indices(vec![0, 1]));
    assert_eq!(counted("last"), Kept::Indices(vec![4, 5]));
    assert_eq!(counted("block_influence"), Kept::ByInfluence(2));

    let some = of(json!({
        "layers": "encoder.layer", "keep": {"count": 2, "choice": "block_influence"},
        "copy": ["encoder.layer_norm.weight", "head"],
    }));
    assert_eq!(some.copied, ["norm.gamma", "head_.weight", "head_.bias"]);
    let text = "encoder.layer: the 2 most influential of 6 layers stay; a teacher gives \
                encoder.layer_norm.weight, head too";
    assert_eq!(some.to_string(), text);
    assert_eq!(some.view(&view), view.keep_layers("encoder.layer", &[0, 1]));
}

#[test]
fn settings_that_do_not_fit_the_model() {
    let list = |keep: Value| refused(json!({"layers": "encoder.layer", "keep": keep}));
    assert_eq!(
        refused(json!({"layers": "encoder", "keep": [9]})),
        ["r.layers: `encoder` is not a list of layers; the model has `encoder.layer`"]
    );
    assert_eq!(
        list(json!([1, 7, 7, 3])),
        [
            "r.keep: 7 is not a layer of `encoder.layer`, which has 6, counted from 0",
            "r.keep: 7 is not a layer of `encoder.layer`, which has 6, counted from 0",
            "r.keep: layer 7 is kept twice",
            "r.keep: layer 3 stands after layer 7; layers are kept in their order",
        ]
    );
    let all = "`encoder.layer` has 6 layers; keeping 6 reduces nothing";
    assert_eq!(list(json!([0, 1, 2, 3, 4, 5])), [format!("r.keep: {all}")]);
    assert_eq!(list(json!({"count": 6})), [format!("r.keep.count: {all}")]);
    assert_eq!(
        list(json!({"count": 7, "choice": "last"})),
        ["r.keep.count: 7 is not at most 6, the number of layers of `encoder.layer`"]
    );
    let copy = ["heads", "dropout", "encoder", "encoder.layer", "encoder.layer.2.fc", "head", "head.bias"];
    let nothing = "is not a parameter of the model or a module that has some";
    let holds = "holds the layers of `encoder.layer`; name what stands beside them";
    assert_eq!(
        refused(json!({"layers": "encoder.layer", "keep": [6], "copy": copy})),
        [
            "r.keep: 6 is not a layer of `encoder.layer`, which has 6, counted from 0".to_string(),
            format!("r.copy[0]: `heads` {nothing}, did you mean `head`?"),
            format!("r.copy[1]: `dropout` {nothing}"),
            format!("r.copy[2]: `encoder` {holds}"),
            format!("r.copy[3]: `encoder.layer` {holds}"),
            "r.copy[4]: `encoder.layer.2.fc` is of `encoder.layer`, whose kept layers are taken anyway"
                .into(),
            "r.copy[6]: already claimed by r.copy[5]".into(),
        ]
    );
}

#[test]
fn layers_of_different_shapes_cannot_be_chosen_by_data() {
    let mut model = net::<Flex>(3, 4, 1);
    model.stack[1].fc = LinearConfig::new(4, 5).init(&Default::default());
    let by = |choice: &str| {
        resolve(
            &model_view(&model),
            &json!({"layers": "encoder.layer", "keep": {"count": 1, "choice": choice}}),
        )
    };
    assert_eq!(
        by("block_influence").expect_err("they differ"),
        [
            "r.keep.choice: layers chosen by influence must be alike; `fc` of layer 1 differs from that of layer 0"
        ]
    );
    assert!(by("last").is_ok());
}

#[test]
fn a_reduced_model_has_the_kept_blocks_and_all_else() {
    let mut model = net::<Flex>(12, 4, 1);
    let view = model_view(&model);
    reduce(&mut model, "stack", &[1, 11]).unwrap();
    assert_eq!(model_view(&model), view.keep_layers("encoder.layer", &[1, 11]).unwrap());
    let block = |n: usize| (0..BLOCK).map(move |i| (WORDS + n * BLOCK + i + 1) as f32);
    let after = WORDS + 12 * BLOCK;
    let beside = (after..after + 6).map(|i| (i + 1) as f32);
    let wanted: Vec<f32> = [1.0, 2.0].into_iter().chain(block(1)).chain(block(11)).chain(beside).collect();
    assert_eq!(numbers(&model), wanted);
}

#[test]
fn a_refused_reduction_changes_nothing() {
    let mut model = net::<Flex>(3, 4, 1);
    let before = numbers(&model);
    let path = || "stack".to_string();
    let mut refused = |list: &str, indices: &[usize]| reduce(&mut model, list, indices).expect_err("refused");
    assert_eq!(refused("encoder.layer", &[0]), ReduceError::NoList { path: "encoder.layer".into() });
    assert_eq!(refused("stack", &[0, 3]), ReduceError::NoBlock { path: path(), len: 3, index: 3 });
    for indices in [vec![], vec![1, 1], vec![2, 0]] {
        assert_eq!(refused("stack", &indices), ReduceError::Order { path: path(), indices });
    }
    assert_eq!(numbers(&model), before);
}

#[test]
fn a_student_takes_blocks_by_number_and_modules_by_path() {
    let (student, teacher) = (net::<A>(2, 4, 1001), net::<A>(4, 4, 1));
    let (own, given) = (numbers(&student), numbers(&teacher));
    let copied = ["norm".to_string(), "head_.weight".to_string()];
    let student = initialise_from(student, &teacher, "stack", &[1, 3], &copied).unwrap();
    let (ours, theirs) = (WORDS + 2 * BLOCK, WORDS + 4 * BLOCK);
    let wanted: Vec<f32> = [
        &own[..WORDS],
        &given[WORDS + BLOCK..WORDS + 2 * BLOCK],
        &given[WORDS + 3 * BLOCK..theirs],
        &given[theirs..theirs + 4],
        &given[theirs + 4..theirs + 5],
        &own[ours + 5..],
    ]
    .concat();
    assert_eq!(numbers(&student), wanted);
    assert_eq!(numbers(&teacher), given);
}

#[test]
fn ids_element_types_and_requirements_of_gradients_stay_the_students() {
    let (mut student, teacher) = (net::<A>(1, 4, 1001), net::<A>(2, 4, 1));
    student.words.weight = student.words.weight.map(|t| stop(t).cast(FloatDType::F16).set_require_grad(true));
    student.stack[0].fc.weight = student.stack[0].fc.weight.clone().set_require_grad(false);
    let (id, frozen) = (student.words.weight.id, student.stack[0].fc.weight.id);
    let everything = ["words".to_string(), "norm".to_string(), "head_".to_string()];
    let student = initialise_from(student, &teacher, "stack", &[1], &everything).unwrap();
    let words = &student.words.weight;
    assert_eq!((words.id, words.val().dtype(), words.is_require_grad()), (id, DType::F16, true));
    let fc = &student.stack[0].fc.weight;
    assert_eq!((fc.id, fc.is_require_grad()), (frozen, false));
    assert!(student.head_.weight.is_require_grad());
    assert_eq!(host_floats(words.val())[0], 1.0);
}

#[test]
fn parameters_that_a_student_shares_stay_shared() {
    let teacher = net::<Flex>(2, 4, 1);
    let mut student = net::<Flex>(1, 4, 1001);
    // The head's bias is the words'; only the latter is asked for.
    student.head_ = LinearConfig::new(4, 4).init(&Default::default());
    student.head_.bias = student.words.bias.clone();
    let student = initialise_from(student, &teacher, "stack", &[0], &["words".into()]).unwrap();
    let bias = |linear: &Linear<Flex>| host_floats(linear.bias.as_ref().unwrap().val());
    assert_eq!(bias(&student.head_), bias(&teacher.words));
}

#[test]
fn everything_that_does_not_fit_is_listed() {
    let from = |student: Net<Flex>, list: &str, kept: &[usize], copied: &[String]| {
        initialise_from(student, &net::<Flex>(3, 4, 1), list, kept, copied).expect_err("does not fit")
    };
    let path = || "stack".to_string();
    let none = InitialiseError::NoList { model: "student", path: "norm".into() };
    assert_eq!(from(net(2, 4, 1), "norm", &[0, 1], &[]), none);
    let count = InitialiseError::Count { path: path(), student: 2, taken: 1 };
    assert_eq!(from(net(2, 4, 1), "stack", &[0], &[]), count);
    let block = InitialiseError::NoBlock { path: path(), len: 3, index: 3 };
    assert_eq!(from(net(2, 4, 1), "stack", &[0, 3], &[]), block);
    let mut student = net(1, 5, 1);
    student.words = LinearConfig::new(3, 4).with_bias(false).init(&Default::default());
    student.head_ = LinearConfig::new(4, 3).init(&Default::default());
    let copied = ["words.bias".to_string(), "head_".to_string(), "tail".to_string()];
    let found = from(student, "stack", &[2], &copied);
    let mismatch = |path: &str, student: Option<&[usize]>, from: &str, teacher: Option<&[usize]>| Mismatch {
        path: path.into(),
        student: student.map(<[usize]>::to_vec),
        from: from.into(),
        teacher: teacher.map(<[usize]>::to_vec),
    };
    let all = vec![
        mismatch("stack.0.fc.weight", Some(&[4, 5]), "stack.2.fc.weight", Some(&[4, 4])),
        mismatch("stack.0.fc.bias", Some(&[5]), "stack.2.fc.bias", Some(&[4])),
        mismatch("head_.weight", Some(&[4, 3]), "head_.weight", Some(&[4, 2])),
        mismatch("head_.bias", Some(&[3]), "head_.bias", Some(&[2])),
        mismatch("words.bias", None, "words.bias", Some(&[4])),
        mismatch("tail", None, "tail", None),
    ];
    assert_eq!(found, InitialiseError::Parameters(all));
    let text = found.to_string();
    assert!(text.starts_with("6 parameters of student and teacher do not fit:\n  `stack.0.fc.weight` is"));
    assert!(text.ends_with("`tail` is missing in the student, `tail` missing in the teacher"), "{text}");
}
