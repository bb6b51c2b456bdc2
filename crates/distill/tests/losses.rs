//! Every loss and its gradient against PyTorch, and the gradient against finite differences of plain loops.
#![allow(clippy::unwrap_used)]

mod plain;

use briquette_core::host_floats;
use briquette_distill::losses::{
    Reduction, cross_entropy, hidden_mse, logits_kl, logits_mse, probabilities_kl, probabilities_mse,
    scores_mse, soft_cross_entropy, value_relation_kl,
};
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use plain::{Case, cases};

type A = Autodiff<Flex>;

fn tensor<const D: usize>(shape: &[usize], data: &[f64]) -> Tensor<A, D> {
    let data: Vec<f32> = data.iter().map(|v| *v as f32).collect();
    Tensor::from_data(TensorData::new(data, shape.to_vec()), &Default::default())
}

/// The loss for the student's numbers in a row.
fn loss(case: &Case, student: Tensor<A, 1>) -> Tensor<A, 1> {
    fn both<const D: usize>(case: &Case, student: Tensor<A, 1>) -> (Tensor<A, D>, Tensor<A, D>) {
        let shape: [usize; D] = case.shape.clone().try_into().unwrap();
        (student.reshape(shape), tensor(&case.teacher_shape, &case.teacher))
    }
    match case.name.as_str() {
        "soft_cross_entropy" => {
            let (s, t) = both(case, student);
            let over = if case.over == "mean" { Reduction::Mean } else { Reduction::BatchMean };
            soft_cross_entropy(s, t, over)
        }
        "logits_kl" => {
            let (s, t) = both(case, student);
            logits_kl(s, t, case.temperature)
        }
        "logits_mse" => {
            let (s, t) = both(case, student);
            logits_mse(s, t)
        }
        "cross_entropy" => {
            let shape: [usize; 2] = case.shape.clone().try_into().unwrap();
            let targets: Vec<i32> = case.targets.iter().map(|t| *t as i32).collect();
            cross_entropy(
                student.reshape(shape),
                Tensor::from_data(TensorData::from(&targets[..]), &Default::default()),
            )
        }
        "hidden_mse" => {
            let (s, t) = both(case, student);
            hidden_mse(s, t)
        }
        "scores_mse" => {
            let (s, t) = both(case, student);
            scores_mse(s, t)
        }
        "probabilities_kl" => {
            let (s, t) = both(case, student);
            probabilities_kl(s, t)
        }
        "probabilities_mse" => {
            let (s, t) = both(case, student);
            probabilities_mse(s, t)
        }
        "value_relation_kl" => {
            let (s, t) = both(case, student);
            value_relation_kl(s, t)
        }
        other => panic!("no loss {other}"),
    }
}

/// Value and gradient of a loss as this crate computes them.
fn computed(case: &Case) -> (f64, Vec<f32>) {
    let student = tensor::<1>(&[case.student.len()], &case.student).require_grad();
    let value = loss(case, student.clone());
    assert_eq!(value.dims(), [1]);
    let gradient = student.grad(&value.backward()).unwrap();
    (f64::from(host_floats(value)[0]), host_floats(gradient))
}

/// Equal within `tolerance` of the largest gradient.
fn check_gradient(case: &Case, found: &[f32], wanted: &[f64], tolerance: f64) {
    let largest = wanted.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    assert!(largest > 1e-3, "{}: a gradient to compare with", case.name);
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (f64::from(*found) - wanted).abs();
        assert!(difference <= tolerance * largest, "{} at {i}: {found}, not {wanted}", case.name);
    }
}

#[test]
fn all_losses_are_pytorchs() {
    let cases = cases();
    assert_eq!(cases.len(), 11);
    for case in &cases {
        let (value, gradient) = computed(case);
        let wanted = case.value;
        assert!(
            (value - wanted).abs() <= 2e-6 * wanted.abs().max(1.0),
            "{}: {value}, not {wanted}",
            case.name
        );
        assert_eq!(gradient.len(), case.gradient.len());
        check_gradient(case, &gradient, &case.gradient, 2e-5);
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for case in &cases() {
        let (value, gradient) = computed(case);
        let wanted = plain::loss(case, &case.student);
        assert!(
            (value - wanted).abs() <= 2e-6 * wanted.abs().max(1.0),
            "{}: {value}, not {wanted}",
            case.name
        );
        // In float64 a step of 1e-5 leaves an error of the order of 1e-10.
        let slope = |i: usize| {
            let moved = |by: f64| {
                let mut student = case.student.clone();
                student[i] += by;
                plain::loss(case, &student)
            };
            (moved(1e-5) - moved(-1e-5)) / 2e-5
        };
        let slopes: Vec<f64> = (0..gradient.len()).map(slope).collect();
        check_gradient(case, &gradient, &slopes, 2e-5);
    }
}

#[test]
fn equal_models_differ_by_nothing() {
    let (logits, scores) =
        (tensor::<2>(&[2, 2], &[1.0, -2.0, 0.5, 3.0]), tensor::<4>(&[1, 1, 1, 2], &[1.0, -1e4]));
    let hidden = tensor::<3>(&[1, 1, 2], &[1.0, 2.0]);
    for zero in [
        logits_kl(logits.clone(), logits.clone(), 3.0),
        logits_mse(logits.clone(), logits),
        hidden_mse(hidden.clone(), hidden),
        scores_mse(scores.clone(), scores.clone()),
        probabilities_kl(scores.clone(), scores.clone()),
        probabilities_mse(scores.clone(), scores.clone()),
        value_relation_kl(scores.clone(), scores),
    ] {
        assert_eq!(host_floats(zero), [0.0]);
    }
}

/// Scores of a text that is padding but for one token stay finite, as do their gradients.
#[test]
fn rows_of_padding_are_finite() {
    let data = [0.3, -1e4, -9999.5, -1e4, -1e4, -1e4, -1e4, -1e4, -1e4];
    let scores = tensor::<4>(&[1, 1, 3, 3], &data).require_grad();
    let teacher = tensor::<4>(&[1, 1, 3, 3], &data.map(|v| v + 0.25));
    let loss = probabilities_kl(scores.clone(), teacher.clone()) + scores_mse(scores.clone(), teacher);
    assert!(host_floats(loss.clone())[0].is_finite());
    let gradient = host_floats(scores.grad(&loss.backward()).unwrap());
    assert!(gradient.iter().all(|v| v.is_finite()), "{gradient:?}");
}
