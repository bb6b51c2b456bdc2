//! Pruned weights: what their zeros save in the file and when they run.

use crate::artefact::{Manifest, SparseFormat};
use briquette_core::{LayerKind, SparsePattern};
use briquette_kernels::runs_sparse;
use briquette_nn::{Compressible, LayerMut, visit_layers};
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// How a layer computes with a weight that has zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SparseExecution {
    /// Zeros are left out.
    Sparse,
    /// Zeros are multiplied, because that is faster at this pattern and this share of zeros.
    DenseIsFaster,
    /// Zeros are multiplied or looked up: no other way is there for this kind of layer on this backend.
    Dense,
    /// Zeros are codes like all others.
    Codes,
}

/// One weight that lost single entries or small blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparseReport {
    /// Name of its layer.
    pub name: String,
    /// Canonical shape `[out, in]`.
    pub shape: [usize; 2],
    /// What the kept entries have in common.
    pub pattern: SparsePattern,
    /// How many entries are kept.
    pub kept: usize,
    /// Its form in the file.
    pub format: SparseFormat,
    /// Bytes with zeros, in the type that the file has.
    pub dense_bytes: u64,
    /// Bytes in the file, without scales where it was quantized.
    pub stored_bytes: u64,
    /// How it runs on the backend of the report.
    pub execution: SparseExecution,
}

impl SparseReport {
    /// Of every weight of an artefact that lost entries; `model` was loaded from it.
    pub fn all<B: Backend, M: Module<B> + Compressible<B>>(manifest: &Manifest, model: &M) -> Vec<Self> {
        let sparse = sparse_layers(model);
        let execution = |name: &str, kind: LayerKind, format| match (kind, format) {
            (_, SparseFormat::Codes) => SparseExecution::Codes,
            _ if sparse.contains(name) => SparseExecution::Sparse,
            (LayerKind::Linear, _) if runs_sparse::<B>() => SparseExecution::DenseIsFaster,
            _ => SparseExecution::Dense,
        };
        let report = |r: &crate::artefact::SparseRecord| Self {
            name: r.name.clone(),
            shape: r.shape,
            pattern: r.pattern,
            kept: r.kept,
            format: r.format,
            dense_bytes: r.dense_bytes,
            stored_bytes: r.stored_bytes(),
            execution: execution(&r.name, r.kind, r.format),
        };
        manifest.sparse.iter().map(report).collect()
    }

    /// Share of the entries that is gone.
    fn sparsity(&self) -> f64 {
        1.0 - self.kept as f64 / (self.shape[0] * self.shape[1]).max(1) as f64
    }

    fn row(&self) -> String {
        let ([rows, columns], pattern) = (self.shape, pattern_text(self.pattern));
        let form = match self.format {
            SparseFormat::Bitmask | SparseFormat::TwoOfFour => "bits and entries",
            SparseFormat::Blocks => "bits and blocks",
            SparseFormat::Dense => "dense, which is smaller",
            SparseFormat::Codes => "codes, zeros among them",
        };
        let runs = match self.execution {
            SparseExecution::Sparse => "without zeros",
            SparseExecution::DenseIsFaster => "dense, which is faster",
            SparseExecution::Dense | SparseExecution::Codes => "dense",
        };
        let (sparsity, dense, stored) = (self.sparsity(), self.dense_bytes, self.stored_bytes);
        format!(
            "| {} | {rows} x {columns} | {pattern} | {sparsity:.3} | {form} | {dense} | {stored} | {runs} |\n",
            self.name
        )
    }
}

/// Names of the linear layers of a model that compute without zeros.
pub fn sparse_layers<B: Backend, M: Module<B> + Compressible<B>>(model: &M) -> HashSet<String> {
    let mut names = HashSet::new();
    visit_layers(&mut model.clone(), |at, layer| {
        if let LayerMut::Linear(linear) = layer
            && linear.sparse().is_some()
        {
            names.insert(at.name().to_string());
        }
    });
    names
}

/// A pattern in the notation of recipes.
pub fn pattern_text(pattern: SparsePattern) -> String {
    match pattern {
        SparsePattern::Unstructured => "unstructured".into(),
        SparsePattern::Block { rows, columns } => format!("{rows}x{columns}"),
        SparsePattern::RunOf { kept, of } => format!("{kept}:{of}"),
    }
}

/// The chapter of the report on these weights; empty where there are none.
pub(super) fn chapter(layers: &[SparseReport]) -> String {
    let Some(stored) = layers.iter().map(|l| l.stored_bytes).reduce(|a, b| a + b) else {
        return String::new();
    };
    let dense: u64 = layers.iter().map(|l| l.dense_bytes).sum();
    let count = |execution| layers.iter().filter(|l| l.execution == execution).count();
    let mut out = format!(
        "\n## Pruned weights\n\n{dense} bytes with their zeros, {stored} in the file. Execution without zeros: {} of {} \
         layers; {} run dense because dense is faster at their pattern and sparsity, {} because nothing else is there \
         for them on this backend, {} as codes with zeros among them.\n\n",
        count(SparseExecution::Sparse),
        layers.len(),
        count(SparseExecution::DenseIsFaster),
        count(SparseExecution::Dense),
        count(SparseExecution::Codes),
    );
    out.push_str("| layer | shape | pattern | zeros | form | dense bytes | stored bytes | runs |\n");
    out.push_str("|---|---|---|---:|---|---:|---:|---|\n");
    layers.iter().for_each(|layer| out.push_str(&layer.row()));
    out
}
