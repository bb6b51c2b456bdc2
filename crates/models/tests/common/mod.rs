//! Where the real models and data are.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

use briquette_checkpoint::TensorFiles;
use std::path::{Path, PathBuf};

/// A file or folder of the shared data, or `None` and a line that says so where it is missing.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("BRIQUETTE_DATA").map_or(default, PathBuf::from);
    let found = root.join(path);
    if !found.exists() {
        eprintln!(
            "SKIPPED: {} is missing; set BRIQUETTE_DATA to the folder with models and data",
            found.display()
        );
        return None;
    }
    Some(found)
}

/// Inputs and outputs that PyTorch gave for a model.
pub(crate) fn reference(model: &Path) -> TensorFiles {
    TensorFiles::open(model.join("reference.safetensors")).unwrap()
}

/// Integers of a reference as burn wants them.
pub(crate) fn ints(files: &TensorFiles, name: &str) -> (Vec<i32>, Vec<usize>) {
    let tensor = files.get(name).unwrap();
    (tensor.to_i64().unwrap().into_iter().map(|v| v as i32).collect(), tensor.shape().to_vec())
}

/// The largest difference of two lists of numbers.
pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::NAN } else { m.max(d) })
}
