//! `config.json` of a CIFAR ResNet.

use crate::config::{Keys, ModelConfig, PretrainedConfig, overlay};
use crate::task::Task;
use serde_json::{Map, Value};

/// What a CIFAR ResNet is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct ResNetConfig {
    /// Layers with weights: `6 n + 2` for `n` blocks per stage.
    pub depth: usize,
    /// Number of classes.
    pub num_classes: usize,
    /// Mean of each channel that images are normalized with, for pixels in 0..1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel that images are normalized with, for pixels in 0..1.
    pub image_std: [f32; 3],
    /// Added to the variance in batch normalizations.
    pub batch_norm_eps: f64,
    pub(super) raw: Map<String, Value>,
}

impl ResNetConfig {
    /// Reads the keys; what is wrong is reported there.
    pub(crate) fn read(keys: &mut Keys<'_>) -> Option<Self> {
        keys.architecture("CifarResNet");
        let shortcut = keys.or("shortcut", "A".to_string());
        if !shortcut.starts_with('A') {
            keys.refuse("shortcut", &shortcut, "option A (stride-2 slice, zero-padded channels)");
        }
        let (depth, num_classes) = (keys.size("depth"), keys.size("num_classes"));
        if let Some(depth) = depth.filter(|d| *d < 8 || d % 6 != 2) {
            keys.refuse("depth", depth, "6 n + 2 with n at least 1");
        }
        let image_mean = channels(keys, "image_mean", |_| true);
        let image_std = channels(keys, "image_std", |v| v > 0.0);
        let batch_norm_eps = keys.epsilon("batch_norm_eps", 1e-5);
        Some(Self {
            depth: depth?,
            num_classes: num_classes?,
            image_mean: image_mean?,
            image_std: image_std?,
            batch_norm_eps,
            raw: keys.object(),
        })
    }

    /// Blocks of each stage.
    pub fn blocks(&self) -> usize {
        (self.depth - 2) / 6
    }
}

/// One number per channel.
fn channels(keys: &mut Keys<'_>, key: &'static str, legal: fn(f32) -> bool) -> Option<[f32; 3]> {
    let value = keys.raw_value(key).cloned().unwrap_or(Value::Null);
    let numbers: Option<Vec<f32>> =
        value.as_array().and_then(|list| list.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
    match numbers.and_then(|n| <[f32; 3]>::try_from(n).ok()) {
        Some(three) if three.iter().all(|v| v.is_finite() && legal(*v)) => Some(three),
        _ => {
            keys.refuse(key, value, "a list of three numbers, one per channel");
            None
        }
    }
}

impl PretrainedConfig for ResNetConfig {
    fn task(&self) -> Task {
        Task::Vision { classes: self.num_classes, mean: self.image_mean, std: self.image_std }
    }

    fn to_json(&self) -> Value {
        overlay(&self.raw, &[("depth", self.depth.into())])
    }

    fn pick(config: &ModelConfig) -> Option<&Self> {
        match config {
            ModelConfig::ResNet(config) => Some(config),
            _ => None,
        }
    }
}
