//! Known matrices, known derivatives, and settings.

use super::*;
use briquette_core::{NameTable, host_floats};
use burn::backend::{Autodiff, Flex};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::prelude::*;
use serde_json::json;

type A = Autodiff<Flex>;
type A2 = Autodiff<A>;

fn settings() -> Eigenvalue {
    Eigenvalue { tol: 1e-6, max_iter: 1000, stability: 0.0, ..Eigenvalue::default() }
}

fn row(values: &[f32]) -> Tensor<Flex, 1> {
    Tensor::from_data(values, &Default::default())
}

/// Multiplies by a diagonal, in two parts.
fn diagonal(first: &'static [f32], second: &'static [f32]) -> impl Fn(&Vectors<Flex>) -> Vectors<Flex> {
    move |v| {
        let [a, b] = [first, second].map(row);
        Vectors::new(vec![a * v.parts()[0].clone(), b * v.parts()[1].clone()])
    }
}

#[test]
fn finds_the_largest_eigenvalue_of_a_known_matrix() {
    let like = Vectors::new(vec![row(&[0.0; 3]), row(&[0.0; 2])]);
    for (first, second, expected) in [
        (&[1.0f32, 5.0, 2.0], &[4.0f32, 0.5], 5.0),
        (&[1.0, -7.0, 2.0], &[4.0, 0.5], -7.0),
        (&[0.0, 0.0, 0.0], &[0.0, 0.0], 0.0),
    ] {
        for seed in 0..5 {
            let found = power_iteration(&like, seed, &settings(), diagonal(first, second));
            assert!((found - expected).abs() <= 1e-3 * expected.abs(), "{found} against {expected}");
        }
    }
}

#[test]
fn tolerance_and_limit_end_the_iteration() {
    let like = Vectors::new(vec![row(&[0.0; 3]), row(&[0.0; 2])]);
    let count = |settings: &Eigenvalue| {
        let mut products = 0;
        let multiply = diagonal(&[1.0, 5.0, 2.0], &[4.8, 0.5]);
        power_iteration(&like, 1, settings, |v| {
            products += 1;
            multiply(v)
        });
        products
    };
    let coarse = count(&Eigenvalue { tol: 0.1, ..settings() });
    let fine = count(&Eigenvalue { tol: 1e-4, ..settings() });
    assert!(coarse < fine, "{coarse} against {fine}");
    assert_eq!(count(&Eigenvalue { max_iter: 2, ..settings() }), 2);
    // A large constant beside the norm shrinks the vector, and with it what is measured.
    let short = |stability| {
        power_iteration(
            &like,
            1,
            &Eigenvalue { stability, max_iter: 3, ..settings() },
            diagonal(&[1.0, 5.0, 2.0], &[4.8, 0.5]),
        )
    };
    assert!(short(10.0) < 0.5 * short(0.0));
}

#[test]
fn what_is_no_number_counts_as_zero() {
    let like = Vectors::new(vec![row(&[0.0; 3]), row(&[0.0; 2])]);
    let broken = diagonal(&[3.0, f32::NAN, f32::INFINITY], &[2.0, 1.0]);
    let found = power_iteration(&like, 0, &settings(), broken);
    assert!((found - 3.0).abs() < 1e-3, "{found}");
    assert_eq!(power_iteration(&like, 0, &settings(), diagonal(&[f32::NAN; 3], &[f32::NAN; 2])), 0.0);
    assert_eq!(power_iteration(&Vectors::<Flex>::new(vec![]), 0, &settings(), Clone::clone), 0.0);
    assert_eq!(relative(&[2.0, -4.0, 0.0, f64::NAN]), [0.5, 1.0, 1.0, 1.0]);
    assert_eq!(relative(&[0.0, 0.0]), [1.0, 1.0]);
    assert!(relative(&[]).is_empty());
}

#[test]
fn random_vectors_are_normal_and_repeat_with_the_seed() {
    let like = Vectors::new(vec![row(&[0.0; 4000]), row(&[0.0; 1000])]);
    let values = |seed| -> Vec<f32> {
        let v = Vectors::random(&like, seed);
        v.parts().iter().flat_map(|p| host_floats(p.clone())).collect()
    };
    let v = values(1);
    assert_eq!(v, values(1));
    assert_ne!(v, values(2));
    let mean = |f: fn(f32) -> f32| v.iter().map(|x| f(*x)).sum::<f32>() / 5000.0;
    assert!(mean(|x| x).abs() < 0.05 && (mean(|x| x * x) - 1.0).abs() < 0.08);
    let within_one = mean(|x| f32::from(x.abs() < 1.0));
    assert!((within_one - 0.683).abs() < 0.03, "{within_one}");
}

/// A product and a sum: everything in it can be differentiated twice.
#[derive(Module, Debug)]
struct Dense<B: Backend> {
    weight: Param<Tensor<B, 2>>,
    bias: Param<Tensor<B, 1>>,
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    layers: Vec<Dense<B>>,
}

impl<B: Backend> Net<B> {
    fn new() -> Self {
        let device = Default::default();
        let dense = |from: usize, rows: usize, columns: usize| Dense {
            weight: Param::from_tensor(waves([rows, columns], from, &device)),
            bias: Param::from_tensor(waves([columns], from + 50, &device)),
        };
        Self { layers: vec![dense(1, 4, 6), dense(100, 6, 5), dense(200, 5, 3)] }
    }

    fn loss(&self) -> Tensor<B, 1> {
        let device = Default::default();
        let mut x = waves::<B, 2>([8, 4], 300, &device) * 2.0;
        for (n, layer) in self.layers.iter().enumerate() {
            x = x.matmul(layer.weight.val()) + layer.bias.val().unsqueeze();
            if n < 2 {
                x = x.tanh();
            }
        }
        (x - waves([8, 3], 400, &device)).square().mean()
    }
}

fn waves<B: Backend, const D: usize>(shape: [usize; D], from: usize, device: &B::Device) -> Tensor<B, D> {
    let value = |i: usize| ((i + from) as f32 * 0.7311).sin() * 0.8;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn gradients_of(net: &Net<A>) -> GradientsParams {
    GradientsParams::from_grads(net.loss().backward(), net)
}

/// A vector in the shapes of a block's parameters.
fn vector(net: &Net<A>, block: &str) -> Vectors<Flex> {
    Vectors::random(&vectors::values(net, block), 7)
}

#[test]
fn exact_products_and_differences_agree() {
    let net = Net::<A>::new();
    for block in ["", "layers.0", "layers.1", "layers.2"] {
        let v = vector(&net, block);
        let exact = exact::<A2, Net<A>>(&net, block, &v, Net::loss);
        let differences = central_differences(&net, block, &v, gradients_of);
        assert_eq!(exact.parts().len(), if block.is_empty() { 6 } else { 2 });
        let apart = exact.minus(&differences).norm() / exact.norm();
        assert!(apart < 1e-3, "{block}: {apart}");
        let eigenvalue = |product: &mut dyn FnMut(&Vectors<Flex>) -> Vectors<Flex>| {
            power_iteration(&v, 3, &settings(), product)
        };
        let a = eigenvalue(&mut |v| super::exact::<A2, Net<A>>(&net, block, v, Net::loss));
        let b = eigenvalue(&mut |v| central_differences(&net, block, v, gradients_of));
        assert!((a - b).abs() < 1e-3 * a.abs(), "{block}: {a} against {b}");
    }
}

#[test]
fn a_blocks_eigenvalue_is_that_of_its_own_parameters() {
    let net = Net::<A>::new();
    let v = vector(&net, "layers.1");
    let of = |block: &str, v: &Vectors<Flex>| central_differences(&net, block, v, gradients_of);
    // The whole vector with zeros elsewhere gives the same in the block.
    let zeros = vectors::values(&net, "").scaled(0.0);
    let mut parts = zeros.parts().to_vec();
    parts[2..4].clone_from_slice(v.parts());
    let whole = of("", &Vectors::new(parts));
    let block = of("layers.1", &v);
    let apart = Vectors::new(whole.parts()[2..4].to_vec()).minus(&block).norm() / block.norm();
    assert!(apart < 1e-3, "{apart}");
}

#[test]
fn products_are_symmetric() {
    let net = Net::<A>::new();
    let like = vectors::values(&net, "");
    let (a, b) = (Vectors::random(&like, 1), Vectors::random(&like, 2));
    let product = |v: &Vectors<Flex>| exact::<A2, Net<A>>(&net, "", v, Net::loss);
    let (left, right) = (product(&a).dot(&b), product(&b).dot(&a));
    assert!((left - right).abs() < 1e-4 * left.abs().max(1.0), "{left} against {right}");
}

#[test]
fn the_module_stays_as_it_was() {
    let net = Net::<A>::new();
    let before = vectors::values(&net, "").parts().to_vec();
    central_differences(&net, "", &vector(&net, ""), gradients_of);
    for (a, b) in before.iter().zip(vectors::values(&net, "").parts()) {
        assert_eq!(a.to_data(), b.to_data());
    }
    let silent = central_differences(&net, "", &vector(&net, "").scaled(0.0), gradients_of);
    assert_eq!(silent.norm(), 0.0);
    assert!(central_differences(&net, "nowhere", &Vectors::new(vec![]), gradients_of).parts().is_empty());
}

#[test]
fn settings_read() {
    let read = |value: Value| {
        let mut out = Diagnostics::new();
        let read = Eigenvalue::read(&value, "eigenvalue", &mut out);
        (read, out.iter().map(|d| d.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(read(json!({})).0, Some(Eigenvalue::default()));
    let all = json!({"max_iter": 5, "tol": 0.1, "stability": 0.0, "gas_boundary_resolution": 3,
                     "layer_name": "h", "layer_num": 2});
    let expected = Eigenvalue {
        max_iter: 5,
        tol: 0.1,
        stability: 0.0,
        gas_boundary_resolution: 3,
        layer_name: "h".into(),
        layer_num: 2,
    };
    assert_eq!(read(all).0, Some(expected));
    let bad = json!({"max_iter": 0, "tol": -1.0, "stability": "x", "layer_num": -1, "layers": 2});
    assert_eq!(
        read(bad).1,
        [
            "eigenvalue.tol: -1 is not at least 0",
            "eigenvalue.stability: expected a number, found \"x\"",
            "eigenvalue.max_iter: 0 is not at least 1",
            "eigenvalue.layer_num: expected a non-negative integer, found -1",
            "eigenvalue.layers: unknown key `layers`",
        ]
    );
}

#[derive(Module, Debug)]
struct Stack<B: Backend> {
    self_: Vec<Linear<B>>,
}

#[test]
fn blocks_of_a_model() {
    let linear = || LinearConfig::new(2, 2).init::<Flex>(&Default::default());
    let model = Stack { self_: vec![linear(), linear()] };
    let mut names = NameTable::default();
    names.insert("self_", "body", false);
    names.insert_list("self_", 2);
    let listed = ModelView::with_names(&model, &names);
    let plain = ModelView::of(&model);
    let of =
        |layer_name: &str, layer_num| Eigenvalue { layer_name: layer_name.into(), layer_num, ..settings() };
    let block = |name: &str, path: &str| Block { name: name.into(), path: path.into() };
    let expected = vec![block("body.0", "self_.0"), block("body.1", "self_.1")];
    assert_eq!(of("body", 0).blocks(&listed), Ok(expected));
    let expected = vec![block("self.0", "self_.0"), block("self.1", "self_.1")];
    assert_eq!(of("self", 2).blocks(&plain), Ok(expected));
    let (key, problem) = of("self", 3).blocks(&plain).expect_err("another number");
    assert_eq!(
        (key, problem.to_string().as_str()),
        ("layer_num", "3 is not 2, the number of layers in `self`, or 0")
    );
    let (key, problem) = of("head", 0).blocks(&listed).expect_err("no such list");
    assert_eq!(key, "layer_name");
    assert_eq!(problem.to_string(), "`head` is not a list of layers; the model has `body`");
}
