//! Weights that are stored without their zeros, into a model.

use super::error::ArtefactError;
use super::sparse_decode::dense;
use super::sparse_record::SparseRecord;
use briquette_checkpoint::{Naming, TensorFiles};
use briquette_core::{LayerKind, ModelView, Site, from_canonical};
use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use std::collections::HashMap;
use std::path::Path;

/// The model with the weights that `records` of the manifest at `path` say are stored without their zeros.
///
/// # Errors
/// When the model has no such weights, or the tensors are damaged.
pub(super) fn expanded<B: Backend, M: Module<B>>(
    model: M,
    records: &[SparseRecord],
    naming: &Naming,
    files: &TensorFiles,
    path: &Path,
) -> Result<M, ArtefactError> {
    let view = ModelView::with_names(&model, &naming.layers);
    let mut weights = HashMap::new();
    for record in records.iter().filter(|record| record.format.is_sparse()) {
        let site = placed(record, &view).map_err(|reason| ArtefactError::Layer {
            path: path.into(),
            layer: record.name.clone(),
            reason,
        })?;
        weights.insert(format!("{}.weight", site.path), (site.kind, record));
    }
    if weights.is_empty() {
        return Ok(model);
    }
    let mut fill = Fill { at: Vec::new(), weights, files, problem: None };
    let model = model.map(&mut fill);
    fill.problem.map_or(Ok(model), Err)
}

/// The layer of a record, of its kind and shape.
fn placed<'a>(record: &SparseRecord, view: &'a ModelView) -> Result<&'a Site, String> {
    let Some(site) = view.site(&record.name) else { return Err("the model has no such layer".into()) };
    if (site.kind, site.shape) == (record.kind, record.shape) {
        return Ok(site);
    }
    Err(format!("is {} {:?} here and {} {:?} in the model", record.kind, record.shape, site.kind, site.shape))
}

struct Fill<'a> {
    at: Vec<String>,
    weights: HashMap<String, (LayerKind, &'a SparseRecord)>,
    files: &'a TensorFiles,
    problem: Option<ArtefactError>,
}

impl<B: Backend> ModuleMapper<B> for Fill<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some((kind, record)) = self.weights.get(&self.at.join(".")) else { return param };
        match dense(record, self.files) {
            Ok(values) => {
                let data = TensorData::new(values, record.shape);
                let weight = Tensor::<B, 2>::from_data(data, &param.lazy_device());
                let (id, native) = (param.id, param.lazy_shape().dims());
                param.transform_for_load(from_canonical(*kind, weight, native), id)
            }
            Err(problem) => {
                self.problem.get_or_insert(problem);
                param
            }
        }
    }
}
