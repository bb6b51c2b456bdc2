//! `layer_by_layer`: layer-by-layer distillation.

use super::training::{count, number};
use briquette_core::Diagnostics;
use briquette_core::fields::Fields;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What enters a block while it learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockInput {
    /// What enters the teacher's block (ZeroQuant, arXiv 2206.01861, equation 3).
    Teacher,
    /// What the compressed blocks before it make of it, so that a block learns to undo their errors (ZeroQuant-V2,
    /// arXiv 2303.08302, section 3).
    Student,
}

/// Layer-by-layer distillation: the recipe's `layer_by_layer`. Each block learns to give what the teacher's gives,
/// one after the other and without labels.
///
/// | key | default | why |
/// |---|---|---|
/// | `steps` | 100 | of each block, as DeepSpeed |
/// | `batch` | 32 | likewise |
/// | `lr` | 5e-5 | ten times DeepSpeed's, which hardly moves a block in 100 steps; it falls linearly to zero |
/// | `weight_decay` | 0 | the original weights are the best known ones, and nothing should draw them to zero |
/// | `input` | `"student"` | errors do not pile up; `"teacher"` is ZeroQuant's own |
/// | `length` | 128 | tokens of a random text, where no data is given |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerByLayerSettings {
    /// Steps of each block.
    pub steps: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Share of a weight taken away per unit of learning rate.
    pub weight_decay: f64,
    /// What enters a block.
    pub input: BlockInput,
    /// Tokens of a random text.
    pub length: usize,
}

impl Default for LayerByLayerSettings {
    fn default() -> Self {
        Self { steps: 100, batch: 32, lr: 5e-5, weight_decay: 0.0, input: BlockInput::Student, length: 128 }
    }
}

impl LayerByLayerSettings {
    /// The block's key in a recipe.
    pub const KEY: &'static str = "layer_by_layer";

    /// Reads the block at `place`; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Self {
        let usual = Self::default();
        let Some(mut f) = Fields::open(value, place, out) else { return usual };
        let inputs = [("teacher", BlockInput::Teacher), ("student", BlockInput::Student)];
        let read = Self {
            steps: count(&mut f, "steps", out).unwrap_or(usual.steps),
            batch: count(&mut f, "batch", out).unwrap_or(usual.batch),
            lr: number(&mut f, "lr", |v| v > 0.0, "over 0", out).unwrap_or(usual.lr),
            weight_decay: number(&mut f, "weight_decay", |v| v >= 0.0, "at least 0", out)
                .unwrap_or(usual.weight_decay),
            input: f.choice("input", &inputs, out).unwrap_or(usual.input),
            length: count(&mut f, "length", out).unwrap_or(usual.length),
        };
        f.finish(out);
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_key_is_read_and_every_mistake_reported() {
        let value =
            json!({"steps": 5, "batch": 2, "lr": 1e-3, "weight_decay": 0.1, "input": "teacher", "length": 9});
        let mut out = Diagnostics::new();
        let read = LayerByLayerSettings::read(&value, "layer_by_layer", &mut out);
        assert!(out.is_empty());
        assert_eq!(serde_json::to_value(read).expect("plain data"), value);
        LayerByLayerSettings::read(&json!({"steps": 0, "lr": 0, "input": "no", "rate": 1}), "l", &mut out);
        assert_eq!(out.len(), 4);
    }
}
