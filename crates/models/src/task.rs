//! What a model does, and what goes into it.

use crate::error::ModelError;
use burn::prelude::*;

/// What a model does, as far as data and measurement are concerned.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// A label for a text.
    Classification {
        /// Number of labels.
        labels: usize,
        /// Number of token ids.
        vocabulary: usize,
        /// Most tokens of a text.
        max_tokens: usize,
        /// Id that fills a batch's shorter rows.
        pad: u32,
    },
    /// The next token of a text.
    LanguageModel {
        /// Number of token ids.
        vocabulary: usize,
        /// Most tokens that the model sees at once.
        window: usize,
    },
    /// A class for an image.
    Vision {
        /// Number of classes.
        classes: usize,
        /// Mean of each channel, for pixels in 0..1.
        mean: [f32; 3],
        /// Standard deviation of each channel, for pixels in 0..1.
        std: [f32; 3],
    },
}

impl Task {
    /// What is measured on labelled data.
    pub fn metric(&self) -> &'static str {
        match self {
            Self::LanguageModel { .. } => "perplexity",
            Self::Classification { .. } | Self::Vision { .. } => "accuracy",
        }
    }

    /// The kind of data file that goes with it, in words.
    pub fn data_kind(&self) -> &'static str {
        match self {
            Self::Classification { .. } => "a `.tsv` file of sentences and labels",
            Self::LanguageModel { .. } => "a `.txt` file",
            Self::Vision { .. } => "a `.bin` file of CIFAR-10 records",
        }
    }
}

/// Side of the images, in pixels.
pub const IMAGE_SIDE: usize = 32;

/// What a model computes its output from.
#[derive(Debug, Clone)]
pub enum Inputs<B: Backend> {
    /// Token ids.
    Tokens {
        /// `[batch, seq]`.
        ids: Tensor<B, 2, Int>,
        /// `[batch, seq]`, 1 for a token and 0 for padding; `None` where there is no padding.
        mask: Option<Tensor<B, 2, Int>>,
    },
    /// Normalized pixels, `[batch, 3, 32, 32]`.
    Images(Tensor<B, 4>),
}

impl<B: Backend> Inputs<B> {
    /// Inputs of the right shape for measuring time; the same at every call. Images ignore `seq`.
    ///
    /// # Errors
    /// When `batch` or `seq` is 0 or `seq` exceeds what the model takes.
    pub fn dummy(task: &Task, batch: usize, seq: usize, device: &B::Device) -> Result<Self, ModelError> {
        if batch == 0 {
            return Err(ModelError::Batch("a batch of 0 examples".into()));
        }
        match task {
            Task::Classification { vocabulary, max_tokens: most, .. }
            | Task::LanguageModel { vocabulary, window: most } => {
                if seq == 0 || seq > *most {
                    let text = format!("a sequence of {seq} tokens; the model takes 1 to {most}");
                    return Err(ModelError::Batch(text));
                }
                // A stride that is prime spreads the ids over the table.
                let ids = (0..batch * seq).map(|i| (i * 7919 % vocabulary) as i32).collect();
                let ids = Tensor::from_data(TensorData::new(ids, [batch, seq]), device);
                Ok(Self::Tokens { ids, mask: None })
            }
            Task::Vision { .. } => {
                let n = batch * 3 * IMAGE_SIDE * IMAGE_SIDE;
                let pixels: Vec<f32> = (0..n).map(|i| (i * 7919 % 255) as f32 / 64.0 - 2.0).collect();
                let data = TensorData::new(pixels, [batch, 3, IMAGE_SIDE, IMAGE_SIDE]);
                Ok(Self::Images(Tensor::from_data(data, device)))
            }
        }
    }
}

/// Inputs and what the model should say about them.
#[derive(Debug, Clone)]
pub struct Batch<B: Backend> {
    /// What goes in.
    pub inputs: Inputs<B>,
    /// The right class of every row of the output, `[rows]`: one row per text or image, one per token for
    /// language models.
    pub targets: Tensor<B, 1, Int>,
}
