//! The losses as plain loops in float64, and the cases of `golden/losses.json`.

use serde_json::Value;
use std::path::Path;

/// One entry of the file; what a loss does not have is empty.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) student: Vec<f64>,
    pub(crate) teacher_shape: Vec<usize>,
    pub(crate) teacher: Vec<f64>,
    pub(crate) targets: Vec<usize>,
    pub(crate) temperature: f64,
    pub(crate) over: String,
    pub(crate) value: f64,
    pub(crate) gradient: Vec<f64>,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().map(|v| v.as_f64().unwrap()).collect()
}

fn sizes(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|v| v as usize).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/losses.json");
    let entries: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let case = |entry: &Value| Case {
        name: entry["name"].as_str().unwrap().into(),
        shape: sizes(&entry["student"]["shape"]),
        student: numbers(&entry["student"]["data"]),
        teacher_shape: sizes(&entry["teacher"]["shape"]),
        teacher: numbers(&entry["teacher"]["data"]),
        targets: sizes(&entry["targets"]["data"]),
        temperature: entry["temperature"].as_f64().unwrap_or(1.0),
        over: entry["over"].as_str().unwrap_or_default().into(),
        value: entry["value"].as_f64().unwrap(),
        gradient: numbers(&entry["gradient"]),
    };
    entries.iter().map(case).collect()
}

/// The loss of a case with other numbers of the student.
pub(crate) fn loss(case: &Case, student: &[f64]) -> f64 {
    let columns = *case.shape.last().unwrap();
    let teacher = &case.teacher;
    match case.name.as_str() {
        "soft_cross_entropy" => {
            let divisor = if case.over == "mean" { columns as f64 } else { 1.0 };
            let row = |s: &[f64], t: &[f64]| -dot(&exp(&log_softmax(t)), &log_softmax(s));
            mean_of_rows(student, teacher, columns, row) / divisor
        }
        "logits_kl" => {
            let t = case.temperature;
            let soften = |x: &[f64]| -> Vec<f64> { x.iter().map(|v| v / t).collect() };
            mean_of_rows(&soften(student), &soften(teacher), columns, divergence) * t * t
        }
        "probabilities_kl" => mean_of_rows(student, teacher, columns, divergence),
        "cross_entropy" => {
            let rows = student.chunks(columns).zip(&case.targets);
            let sum: f64 = rows.map(|(row, target)| -log_softmax(row)[*target]).sum();
            sum / case.targets.len() as f64
        }
        "logits_mse" | "hidden_mse" | "scores_mse" => {
            mean_of_rows(student, teacher, columns, |s, t| squared(s, t) / columns as f64)
        }
        "probabilities_mse" => {
            let row = |s: &[f64], t: &[f64]| squared(&exp(&log_softmax(s)), &exp(&log_softmax(t)));
            mean_of_rows(student, teacher, columns, row) / columns as f64
        }
        "value_relation_kl" => {
            let (s, t) = (relation(&case.shape, student), relation(&case.teacher_shape, teacher));
            mean_of_rows(&s, &t, case.shape[2], divergence)
        }
        other => panic!("no loss {other}"),
    }
}

fn mean_of_rows(s: &[f64], t: &[f64], columns: usize, row: impl Fn(&[f64], &[f64]) -> f64) -> f64 {
    let rows = s.chunks(columns).zip(t.chunks(columns));
    let n = s.len() / columns;
    rows.map(|(s, t)| row(s, t)).sum::<f64>() / n as f64
}

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::MIN, f64::max);
    let log_sum = x.iter().map(|v| (v - largest).exp()).sum::<f64>().ln() + largest;
    x.iter().map(|v| v - log_sum).collect()
}

fn exp(x: &[f64]) -> Vec<f64> {
    x.iter().map(|v| v.exp()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// `KL(softmax(t) || softmax(s))`.
fn divergence(s: &[f64], t: &[f64]) -> f64 {
    let (log_s, log_t) = (log_softmax(s), log_softmax(t));
    let each = log_t.iter().zip(&log_s).map(|(t, s)| t.exp() * (t - s));
    each.sum()
}

/// `V V^T / sqrt(d)` of each head.
fn relation(shape: &[usize], values: &[f64]) -> Vec<f64> {
    let (seq, d) = (shape[2], shape[3]);
    let mut out = Vec::new();
    for head in values.chunks(seq * d) {
        for a in head.chunks(d) {
            out.extend(head.chunks(d).map(|b| dot(a, b) / (d as f64).sqrt()));
        }
    }
    out
}
