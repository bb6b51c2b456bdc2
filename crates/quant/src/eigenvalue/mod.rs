//! How sensitive blocks are to quantization: the largest eigenvalue of the loss's second derivative in each, by
//! power iteration (HAWQ, Dong et al. 2019, arXiv 1905.03696; DeepSpeed's MoQ).
//!
//! A block with a large eigenvalue sits in a sharp valley of the loss, where rounding its weights costs most;
//! mixture-of-quantization gives such blocks longer periods. The iteration needs products of the second derivative
//! with vectors only: [`exact`] ones by differentiating twice, or [`central_differences`] of gradients.

mod hessian;
mod power_iteration;
mod vectors;

pub use hessian::{central_differences, exact};
pub use power_iteration::{power_iteration, relative};
pub use vectors::{Vectors, values};

use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, ModelView, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// When and how precisely eigenvalues are computed: the recipe's root key `eigenvalue`, in DeepSpeed's words.
///
/// | key | default | why |
/// |---|---|---|
/// | `max_iter` | 100 | products of the second derivative with a vector, at most, for each block |
/// | `tol` | 0.01 | iteration ends when the eigenvalue changes by less than this share; 25 % more or less is what matters |
/// | `stability` | 1e-6 | added to a vector's norm before it is divided by it |
/// | `gas_boundary_resolution` | 1 | optimizer steps from one chance of computing eigenvalues to the next; they are computed when the precision of a layer is about to fall |
/// | `layer_name` | `"bert.encoder.layer"` | the list of blocks |
/// | `layer_num` | 0 | its length, 0 for as many as there are |
///
/// All defaults are DeepSpeed's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eigenvalue {
    /// Most iterations for a block.
    pub max_iter: usize,
    /// Relative change of the eigenvalue at which iteration ends.
    pub tol: f64,
    /// Added to norms before dividing by them.
    pub stability: f64,
    /// Optimizer steps between chances.
    pub gas_boundary_resolution: usize,
    /// Name of the list of blocks.
    pub layer_name: String,
    /// Its length; 0 for as many as there are.
    pub layer_num: usize,
}

impl Default for Eigenvalue {
    fn default() -> Self {
        Self {
            max_iter: 100,
            tol: 1e-2,
            stability: 1e-6,
            gas_boundary_resolution: 1,
            layer_name: "bert.encoder.layer".into(),
            layer_num: 0,
        }
    }
}

/// One block whose eigenvalue is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Block {
    /// The beginning of its layers' names, `bert.encoder.layer.0`.
    pub name: String,
    /// The beginning of its parameters' field paths in the Rust model.
    pub path: String,
}

impl Eigenvalue {
    /// Reads the object at `place`; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let read = Self::from_fields(&mut f, out);
        f.finish(out);
        (out.len() == before).then_some(read)
    }

    /// Takes the keys out of an object that may hold others; every mistake goes to `out`.
    pub fn from_fields(f: &mut Fields<'_>, out: &mut Diagnostics) -> Self {
        let default = Self::default();
        let mut number = |key: &'static str, or: f64| {
            let value = f.optional::<f64>(key, out).unwrap_or(or);
            if value < 0.0 {
                out.add(f.place_of(key), at_least("0", value));
            }
            value
        };
        let (tol, stability) = (number("tol", default.tol), number("stability", default.stability));
        let mut count = |key: &'static str, or: usize| {
            let value = f.optional::<usize>(key, out).unwrap_or(or);
            if value == 0 {
                out.add(f.place_of(key), at_least("1", 0.0));
            }
            value
        };
        Self {
            max_iter: count("max_iter", default.max_iter),
            gas_boundary_resolution: count("gas_boundary_resolution", default.gas_boundary_resolution),
            tol,
            stability,
            layer_name: f.optional("layer_name", out).unwrap_or(default.layer_name),
            layer_num: f.optional("layer_num", out).unwrap_or(default.layer_num),
        }
    }

    /// The blocks of `model` that are meant, in order.
    ///
    /// # Errors
    /// The keys that do not fit the model, each with what is wrong.
    pub fn blocks(&self, model: &ModelView) -> Result<Vec<Block>, (&'static str, Problem)> {
        let blocks = match model.block_list(&self.layer_name) {
            Ok(list) => (0..list.len).map(|n| block(&list.name, &list.path, n)).collect(),
            Err(problem) => by_names(model, &self.layer_name).ok_or(("layer_name", problem))?,
        };
        if self.layer_num != 0 && self.layer_num != blocks.len() {
            let expected = format!("{}, the number of layers in `{}`, or 0", blocks.len(), self.layer_name);
            return Err(("layer_num", Problem::Range { value: self.layer_num.to_string(), expected }));
        }
        Ok(blocks)
    }
}

fn at_least(least: &str, value: f64) -> Problem {
    Problem::Range { value: value.to_string(), expected: format!("at least {least}") }
}

fn block(name: &str, path: &str, number: usize) -> Block {
    Block { name: format!("{name}.{number}"), path: format!("{path}.{number}") }
}

/// The blocks of a model that states no lists, by the names of its layers: `list.3.rest`.
fn by_names(model: &ModelView, list: &str) -> Option<Vec<Block>> {
    let mut blocks = BTreeMap::new();
    for site in &model.sites {
        let number = |text: &str| text.split('.').next().and_then(|n| n.parse::<usize>().ok());
        let below = site.name.strip_prefix(list).and_then(|rest| rest.strip_prefix('.'));
        let Some(n) = below.and_then(number) else { continue };
        // Without a table of names, paths differ from names by underscores at the ends of components only.
        let depth = list.split('.').count();
        let path = site.path.split('.').take(depth).collect::<Vec<_>>().join(".");
        blocks.entry(n).or_insert_with(|| block(list, &path, n));
    }
    (!blocks.is_empty()).then(|| blocks.into_values().collect())
}

#[cfg(test)]
mod tests;
