//! The report: sizes, errors, quality and speed before and after, for people and for programs.

use crate::artefact::{LayerRecord, Manifest};
use crate::sensitivity::SensitivityRow;
use briquette_checkpoint::TensorFiles;
use briquette_core::InputQuantization;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

mod kernels;
mod sparse;

pub use kernels::product_kernels;
pub use sparse::{SparseExecution, SparseReport, pattern_text, sparse_layers};

/// Bytes of a model's tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bytes {
    /// Sum over all tensors.
    pub total: u64,
    /// Sums by element type, as safetensors names it.
    pub by_dtype: BTreeMap<String, u64>,
}

impl Bytes {
    /// Of all tensors of a checkpoint.
    pub fn of(files: &TensorFiles) -> Self {
        let mut bytes = Self::default();
        for tensor in files.tensors() {
            let n = tensor.byte_len() as u64;
            bytes.total += n;
            *bytes.by_dtype.entry(tensor.dtype().to_string()).or_default() += n;
        }
        bytes
    }
}

/// One packed layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// Canonical shape `[out, in]`.
    pub shape: [usize; 2],
    /// Bits of a weight.
    pub bits: u32,
    /// Columns that share a scale.
    pub group: usize,
    /// Packed weight, scales, zero points and the correction of low rank.
    pub bytes: u64,
    /// The same weight in 32-bit floats.
    pub fp32_bytes: u64,
    /// Frobenius norm of the change, relative to that of the weight.
    pub relative_error: f64,
    /// How the layer's input is quantized, where it is.
    pub input: Option<InputQuantization>,
}

impl LayerReport {
    /// Of a packed layer whose tensors are in `files`.
    pub fn new(record: &LayerRecord, files: &TensorFiles, input: Option<InputQuantization>) -> Self {
        let prefixes = ["weight", "low_rank_"].map(|own| format!("{}.{own}", record.name));
        let own = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let bytes = files.tensors().filter(|t| own(t.name())).map(|t| t.byte_len() as u64);
        Self {
            name: record.name.clone(),
            shape: record.shape,
            bits: record.bits,
            group: record.group,
            bytes: bytes.sum(),
            fp32_bytes: 4 * (record.shape[0] * record.shape[1]) as u64,
            relative_error: record.relative_error,
            input,
        }
    }
}

/// What is left of parts that can only be removed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedReport {
    /// The first layer that makes their values.
    pub group: String,
    /// How many units there were: rows, heads, channels.
    pub of: usize,
    /// How many are left.
    pub kept: usize,
}

impl RemovedReport {
    /// Of every group that lost units.
    pub fn all(manifest: &Manifest) -> Vec<Self> {
        let groups = manifest.removed.iter().flat_map(|removed| &removed.groups);
        groups.map(|g| Self { group: g.group.clone(), of: g.of, kept: g.kept.0.len() }).collect()
    }
}

/// A quality measured on data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// `accuracy` (a fraction) or `perplexity`.
    pub metric: String,
    /// Of the model that went in.
    pub before: f64,
    /// Of the artefact, reloaded.
    pub after: f64,
    /// Number of examples or tokens.
    pub n: usize,
    /// The data file.
    pub data: String,
}

/// A forward pass timed, medians in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Examples at once.
    pub batch: usize,
    /// Tokens of each; 0 for images.
    pub seq: usize,
    /// Of the model that went in.
    pub before_ms: f64,
    /// Of the artefact, reloaded.
    pub after_ms: f64,
    /// What its packed linear layers computed with, and how many layers each.
    #[serde(default)]
    pub kernels: std::collections::BTreeMap<String, usize>,
}

/// Floating-point operations of one example, two for each multiplication of a sum of products.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Operations {
    /// Of the model that went in, without layers that the recipe drops.
    pub before: f64,
    /// Of what is left.
    pub after: f64,
}

/// How the model was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The data file.
    pub data: String,
    /// The teacher, where there was one.
    pub teacher: Option<String>,
    /// The settings, none of them left open.
    pub settings: Value,
    /// What was asked of the student, where there was a teacher.
    pub distillation: Option<Value>,
    /// Optimizer steps.
    pub steps: usize,
    /// Time it took, interruptions not counted.
    pub seconds: f64,
    /// The metric of the model in training after each epoch, where it was measured.
    pub measured: Vec<f64>,
}

/// Everything about one compression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model that went in.
    pub model: String,
    /// The backend everything ran on.
    pub backend: String,
    /// The device, in words.
    pub device: String,
    /// The only source of randomness.
    pub seed: u64,
    /// Tensors before.
    pub bytes_before: Bytes,
    /// Tensors after.
    pub bytes_after: Bytes,
    /// Methods that were carried out, each with the number of layers it acted on.
    pub methods: BTreeMap<String, usize>,
    /// Packed layers, in model order.
    pub layers: Vec<LayerReport>,
    /// Weights that lost single entries or small blocks, in model order.
    #[serde(default)]
    pub sparse: Vec<SparseReport>,
    /// What was removed for good.
    #[serde(default)]
    pub removed: Vec<RemovedReport>,
    /// Quality, where evaluation data was given.
    pub quality: Option<Quality>,
    /// Speed before and after.
    pub latency: Option<Latency>,
    /// Operations before and after, where the model was traced.
    #[serde(default)]
    pub operations: Option<Operations>,
    /// Training, where there was any.
    #[serde(default)]
    pub training: Option<Training>,
    /// What a scan of sensitivities has measured.
    #[serde(default)]
    pub sensitivity: Vec<SensitivityRow>,
    /// Seconds spent, by phase.
    pub seconds: BTreeMap<String, f64>,
}

/// The methods of an artefact's plan, each with the number of layers it acted on.
pub fn methods(manifest: &Manifest) -> BTreeMap<String, usize> {
    let steps = manifest.plan["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut methods = BTreeMap::new();
    for method in steps.iter().filter_map(|s| s["method"].as_str()) {
        *methods.entry(method.to_string()).or_default() += 1;
    }
    methods
}

impl Report {
    /// Packed bytes of all packed layers as a share of their 32-bit size; `None` where none is.
    pub fn packed_ratio(&self) -> Option<f64> {
        let sum = |of: fn(&LayerReport) -> u64| self.layers.iter().map(of).sum::<u64>() as f64;
        (!self.layers.is_empty()).then(|| sum(|l| l.bytes) / sum(|l| l.fp32_bytes))
    }

    /// The report as JSON text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has string keys only");
        text.push('\n');
        text
    }

    /// The summary table: one row for each thing that changed.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let mut row = |what: &str, before: String, after: String, change: String| {
            writeln!(out, "| {what:<22} | {before:>12} | {after:>12} | {change:>10} |")
                .expect("writing to a string does not fail");
        };
        row("", "before".into(), "after".into(), "change".into());
        row("---", "---:".into(), "---:".into(), "---:".into());
        let (a, b) = (self.bytes_before.total, self.bytes_after.total);
        row("tensors", megabytes(a), megabytes(b), times(b as f64 / a.max(1) as f64));
        if let Some(ratio) = self.packed_ratio() {
            let fp32: u64 = self.layers.iter().map(|l| l.fp32_bytes).sum();
            let packed: u64 = self.layers.iter().map(|l| l.bytes).sum();
            row("packed layers, as f32", megabytes(fp32), megabytes(packed), times(ratio));
        }
        if let Some(o) = &self.operations {
            let mega = |flops: f64| format!("{:.3} M", flops / 1e6);
            row("FLOPs", mega(o.before), mega(o.after), times(o.after / o.before.max(1.0)));
        }
        if let Some(q) = &self.quality {
            let change = format!("{:+.4}", q.after - q.before);
            row(&q.metric, format!("{:.4}", q.before), format!("{:.4}", q.after), change);
        }
        if let Some(l) = &self.latency {
            let what = format!("ms at {} x {}", l.batch, l.seq);
            let ratio = times(l.after_ms / l.before_ms.max(1e-9));
            row(&what, format!("{:.2}", l.before_ms), format!("{:.2}", l.after_ms), ratio);
        }
        out
    }

    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut out =
            format!("# {}\n\nOn {} ({}), seed {}.\n\n", self.model, self.device, self.backend, self.seed);
        let methods: Vec<String> = self.methods.iter().map(|(m, n)| format!("{m} on {n} layers")).collect();
        out.push_str(&format!("{}.\n\n", methods.join(", ")));
        out.push_str(&self.summary());
        if let Some(t) = &self.training {
            out.push_str(&training_lines(t));
        }
        if let Some(l) = self.latency.as_ref().filter(|l| l.after_ms > l.before_ms) {
            let slower = l.after_ms / l.before_ms.max(1e-9);
            let text = format!("\nThe compressed model is {slower:.2} times as slow as the original here.\n");
            out.push_str(&text);
        }
        for (kernel, layers) in self.latency.iter().flat_map(|l| &l.kernels) {
            out.push_str(&format!("\n{layers} packed layers: {kernel}.\n"));
        }
        out.push_str("\n## Bytes by element type\n\n| type | before | after |\n|---|---:|---:|\n");
        let types: std::collections::BTreeSet<&String> =
            self.bytes_before.by_dtype.keys().chain(self.bytes_after.by_dtype.keys()).collect();
        for dtype in types {
            let of = |b: &Bytes| b.by_dtype.get(dtype).copied().unwrap_or(0);
            let line = format!("| {dtype} | {} | {} |\n", of(&self.bytes_before), of(&self.bytes_after));
            out.push_str(&line);
        }
        if !self.removed.is_empty() {
            out.push_str("\n## Removed\n\n| units of | before | after |\n|---|---:|---:|\n");
            for group in &self.removed {
                out.push_str(&format!("| {} | {} | {} |\n", group.group, group.of, group.kept));
            }
        }
        out.push_str(&sparse::chapter(&self.sparse));
        if !self.sensitivity.is_empty() {
            out.push_str(&sensitivity_table(&self.sensitivity));
        }
        out.push_str("\n## Packed layers\n\n");
        out.push_str("| layer | shape | bits | columns a scale | bytes | relative error | input |\n");
        out.push_str("|---|---|---:|---:|---:|---:|---|\n");
        for layer in &self.layers {
            out.push_str(&layer_row(layer));
        }
        out
    }
}

fn training_lines(t: &Training) -> String {
    let teacher = t.teacher.as_ref().map_or(String::new(), |name| format!(", taught by {name}"));
    let rate = t.steps as f64 / t.seconds.max(1e-9);
    let mut out = format!(
        "\nTrained on {}{teacher}: {} steps in {:.1} s ({rate:.2} steps a second).",
        t.data, t.steps, t.seconds
    );
    if !t.measured.is_empty() {
        let values: Vec<String> = t.measured.iter().map(|v| format!("{v:.4}")).collect();
        out.push_str(&format!(" After each epoch: {}.", values.join(", ")));
    }
    out.push('\n');
    out
}

fn sensitivity_table(rows: &[SensitivityRow]) -> String {
    let mut out = "\n## Sensitivity\n\nEach compressed alone, without training.\n\n".to_string();
    out.push_str(
        "| group or layer | method | units | kept | relative error | divergence | accuracy | FLOPs saved |\n",
    );
    out.push_str("|---|---|---:|---:|---:|---:|---:|---:|\n");
    for row in rows {
        let [units, kept] =
            row.units.map_or([String::new(), String::new()], |units| units.map(|n| n.to_string()));
        let accuracy = row.accuracy.map_or(String::new(), |a| format!("{a:+.4}"));
        let saved = row.flops_saved.map_or(String::new(), |s| format!("{:.2} %", 100.0 * s));
        let (name, method, error, divergence) = (&row.name, &row.method, row.error, row.divergence);
        out.push_str(&format!(
            "| {name} | {method} | {units} | {kept} | {error:.5} | {divergence:.6} | {accuracy} | {saved} |\n"
        ));
    }
    out
}

fn layer_row(l: &LayerReport) -> String {
    let input = match &l.input {
        Some(q) => format!("{} bits, {}", q.bits, range(q)),
        None => "float".into(),
    };
    let [rows, columns] = l.shape;
    let error = l.relative_error;
    format!(
        "| {} | {rows} x {columns} | {} | {} | {} | {error:.5} | {input} |\n",
        l.name, l.bits, l.group, l.bytes
    )
}

fn range(q: &InputQuantization) -> String {
    match q.range {
        briquette_core::InputRange::Dynamic => "dynamic".into(),
        briquette_core::InputRange::Static { min, max } => format!("static {min:.3} .. {max:.3}"),
        briquette_core::InputRange::Pending => "not calibrated".into(),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.3} MB", bytes as f64 / 1e6)
}

fn times(ratio: f64) -> String {
    format!("x {ratio:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let bytes = |total| Bytes { total, by_dtype: BTreeMap::from([("F16".into(), total)]) };
        Report {
            model: "m".into(),
            backend: "cpu".into(),
            device: "a processor".into(),
            seed: 0,
            bytes_before: bytes(2_000_000),
            bytes_after: bytes(1_000_000),
            methods: BTreeMap::from([("weight_quantization".into(), 1)]),
            layers: vec![LayerReport {
                name: "fc".into(),
                shape: [10, 100],
                bits: 8,
                group: 100,
                bytes: 1040,
                fp32_bytes: 4000,
                relative_error: 0.003,
                input: None,
            }],
            sparse: vec![SparseReport {
                name: "up".into(),
                shape: [10, 100],
                pattern: briquette_core::SparsePattern::Block { rows: 5, columns: 1 },
                kept: 200,
                format: crate::artefact::SparseFormat::Blocks,
                dense_bytes: 2000,
                stored_bytes: 442,
                execution: SparseExecution::DenseIsFaster,
            }],
            removed: vec![RemovedReport { group: "up".into(), of: 40, kept: 32 }],
            quality: None,
            latency: Some(Latency {
                batch: 1,
                seq: 16,
                before_ms: 1.0,
                after_ms: 2.0,
                kernels: [("int8 tiles".into(), 3)].into(),
            }),
            operations: Some(Operations { before: 8e6, after: 4e6 }),
            training: Some(Training {
                data: "train.tsv".into(),
                teacher: Some("t".into()),
                settings: Value::Null,
                distillation: None,
                steps: 10,
                seconds: 5.0,
                measured: vec![0.5, 0.75],
            }),
            sensitivity: vec![SensitivityRow {
                name: "up".into(),
                method: "row_pruning".into(),
                units: Some([40, 20]),
                error: 0.25,
                divergence: 0.0125,
                accuracy: Some(-0.03125),
                flops_saved: Some(0.125),
                parameters_saved: Some(0.25),
            }],
            seconds: BTreeMap::new(),
        }
    }

    #[test]
    fn markdown_says_when_compression_made_it_slower() {
        let text = report().to_markdown();
        assert!(text.contains("3 packed layers: int8 tiles."), "{text}");
        assert!(text.contains("2.00 times as slow"), "{text}");
        assert!(text.contains("weight_quantization on 1 layers"), "{text}");
        let line = "train.tsv, taught by t: 10 steps in 5.0 s (2.00 steps a second). After each epoch: 0.5000, 0.7500.";
        assert!(text.contains(line), "{text}");
        let flops = text.lines().find(|line| line.starts_with("| FLOPs")).expect("a row");
        assert_eq!(
            flops.split_whitespace().collect::<Vec<_>>().join(" "),
            "| FLOPs | 8.000 M | 4.000 M | x 0.500 |"
        );
        assert!(text.contains("| up | 40 | 32 |"), "{text}");
        let line = "2000 bytes with their zeros, 442 in the file. Execution without zeros: 0 of 1 layers; 1 run dense";
        assert!(text.contains(line), "{text}");
        let line = "| up | 10 x 100 | 5x1 | 0.800 | bits and blocks | 2000 | 442 | dense, which is faster |";
        assert!(text.contains(line), "{text}");
        let line = "| up | row_pruning | 40 | 20 | 0.25000 | 0.012500 | -0.0312 | 12.50 % |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| fc | 10 x 100 | 8 | 100 | 1040 | 0.00300 | float |"), "{text}");
    }

    #[test]
    fn json_round_trip() {
        let r = report();
        assert_eq!(serde_json::from_str::<Report>(&r.to_json()).expect("our own JSON"), r);
        assert_eq!(r.packed_ratio(), Some(0.26));
    }
}
