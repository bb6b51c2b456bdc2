//! How a weight learns through its quantizer: what is learned beside it, and which gradients pass.

use serde::{Deserialize, Serialize};

/// Where the scale of codes with 2 to 8 bits comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleSource {
    /// From the group's values, anew at every step.
    #[default]
    Range,
    /// Learned step size (LSQ, Esser et al. 2020, arXiv 1902.08153): a scale for each group that the optimizer trains
    /// with the gradient of equation 3 times `1 / sqrt(N Q)`, from `2 mean|w| / sqrt(Q)`; `N` weights share it and
    /// `Q` is the largest code. Codes are symmetric, `-Q ..= Q`, unless the arithmetic is DeepSpeed's; 2 bits are -1,
    /// 0 and 1, so that the threshold is learned too.
    Learned,
}

/// How one bit stands for a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binarization {
    /// Its sign (XNOR-Net, arXiv 1603.05279).
    #[default]
    Sign,
    /// The sign of its distance from the group's mean (IR-Net, arXiv 1909.10788; BiBERT, arXiv 2203.06390).
    MeanCentred,
    /// Its sign, times a scale that the optimizer trains (BiT, Liu et al. 2022, arXiv 2205.13016, section 3.2) from
    /// `mean|w|`, with gradients times `1 / sqrt(N)`.
    Elastic,
}

/// What of the gradient of a quantized weight reaches the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gradient {
    /// All of it (Bengio et al. 2013, arXiv 1308.3432).
    #[default]
    Identity,
    /// What belongs to weights between the outermost codes; weights beyond them get none (Courbariaux et al. 2016,
    /// arXiv 1602.02830, section 2.3; LSQ, equation 5).
    Clipped,
}

/// How a weight learns through its quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Estimator {
    /// Where the scale comes from, with 2 bits and more.
    pub scale: ScaleSource,
    /// How one bit stands for a weight.
    pub binarization: Binarization,
    /// What of the gradient passes.
    pub gradient: Gradient,
}

impl Estimator {
    /// Whether a scale is trained with the weights, where codes have this many bits.
    pub fn learns_scale(&self, bits: u32) -> bool {
        match bits {
            1 => self.binarization == Binarization::Elastic,
            _ => self.scale == ScaleSource::Learned,
        }
    }
}
