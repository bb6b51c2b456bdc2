//! The modules of a CIFAR ResNet, named as in its checkpoints.

use super::ResNetConfig;
use crate::pretrained::Pretrained;
use crate::task::Inputs;
use briquette_checkpoint::Naming;
use briquette_kernels::{Activation, BatchNormalized, ChannelNorm, ConvolutionTail, batch_norm_train};
use briquette_nn::{
    Compressible, Conv2d, Conv2dConfig, Linear, LinearConfig, PaddingConfig2d, Recorder, TapShape, Tapped,
    Taps, Wanted, name_table,
};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::prelude::*;

/// Channels of the three stages.
const WIDTHS: [usize; 3] = [16, 32, 64];

/// A residual network of three stages with 16, 32 and 64 channels.
#[derive(Module, Debug, Compressible)]
pub struct CifarResNet<B: Backend> {
    /// RGB to the first stage's channels.
    pub conv1: Conv2d<B>,
    /// After `conv1`.
    pub bn1: BatchNorm<B>,
    /// Blocks at 32 x 32.
    pub layer1: Vec<ResidualBlock<B>>,
    /// Blocks at 16 x 16.
    pub layer2: Vec<ResidualBlock<B>>,
    /// Blocks at 8 x 8.
    pub layer3: Vec<ResidualBlock<B>>,
    /// Channel means to classes.
    pub linear: Linear<B>,
}

/// Two convolutions around which the input is added. Where the block halves the image, the input is sliced and
/// its new channels are zero (option A): the shortcut has no weights.
#[derive(Module, Debug, Compressible)]
pub struct ResidualBlock<B: Backend> {
    /// `[batch, in, h, w]` to `[batch, inner, h / stride, w / stride]`.
    pub conv1: Conv2d<B>,
    /// After `conv1`.
    pub bn1: BatchNorm<B>,
    /// `[batch, inner, ..]` to `[batch, out, ..]`.
    pub conv2: Conv2d<B>,
    /// After `conv2`.
    pub bn2: BatchNorm<B>,
    /// Zero channels that the shortcut puts before those of the input.
    #[compressible(before = "conv2")]
    pub before: usize,
}

impl<B: Backend> CifarResNet<B> {
    /// Scores `[batch, classes]` for normalized images `[batch, 3, height, width]`.
    ///
    /// # Panics
    /// When the images do not have three channels.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.run(images, &mut Recorder::off())
    }

    fn stages(&self) -> [&[ResidualBlock<B>]; 3] {
        [&self.layer1, &self.layer2, &self.layer3]
    }

    fn run(&self, images: Tensor<B, 4>, seen: &mut Recorder<B>) -> Tensor<B, 2> {
        let mut x = normalized(&self.conv1, &self.bn1, images, None, Activation::Relu);
        show(&x, seen);
        for stage in self.stages() {
            x = stage.iter().fold(x, |x, block| block.forward(x));
            show(&x, seen);
        }
        let [batch, channels, height, width] = x.dims();
        let pooled = x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels]);
        self.linear.forward(pooled)
    }
}

impl<B: Backend> ResidualBlock<B> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let inner = normalized(&self.conv1, &self.bn1, x.clone(), None, Activation::Relu);
        let residual = shortcut(x, self.conv1.stride[0], self.before, self.conv2.shape()[0]);
        normalized(&self.conv2, &self.bn2, inner, Some(residual), Activation::Relu)
    }
}

/// Shows `[batch, channels, height, width]` as `[batch, height * width, channels]`.
fn show<B: Backend>(x: &Tensor<B, 4>, seen: &mut Recorder<B>) {
    if seen.wanted().hidden {
        let [batch, channels, height, width] = x.dims();
        seen.hidden(&x.clone().reshape([batch, channels, height * width]).swap_dims(1, 2));
    }
}

/// Every `stride`-th pixel, with `before` zero channels added before and as many after as make `channels`.
fn shortcut<B: Backend>(x: Tensor<B, 4>, stride: usize, before: usize, channels: usize) -> Tensor<B, 4> {
    let step = stride as isize;
    let x = if stride == 1 { x } else { x.slice(s![.., .., ..;step, ..;step]) };
    let [batch, present, height, width] = x.dims();
    let after = channels.saturating_sub(before + present);
    let zeros = |n| (n > 0).then(|| Tensor::zeros([batch, n, height, width], &x.device()));
    let parts: Vec<_> = [zeros(before), Some(x.clone()), zeros(after)].into_iter().flatten().collect();
    if parts.len() == 1 { x } else { Tensor::cat(parts, 1) }
}

/// A convolution and the batch normalization behind it, to which `residual` is added before the activation.
fn normalized<B: Backend>(
    conv: &Conv2d<B>,
    norm: &BatchNorm<B>,
    x: Tensor<B, 4>,
    residual: Option<Tensor<B, 4>>,
    activation: Activation,
) -> Tensor<B, 4> {
    if B::ad_enabled(&x.device()) {
        return normalize_training(norm, conv.forward(x), residual, activation);
    }
    let norm = ChannelNorm {
        gamma: norm.gamma.val(),
        beta: norm.beta.val(),
        mean: norm.running_mean.value(),
        variance: norm.running_var.value(),
        epsilon: norm.epsilon,
    };
    conv.forward_then(x, ConvolutionTail { norm: Some(norm), residual, activation })
}

/// Batch normalization by the batch's own mean and variance, which the running ones follow, and what comes behind it: what
/// burn's layer computes.
fn normalize_training<B: Backend>(
    norm: &BatchNorm<B>,
    x: Tensor<B, 4>,
    residual: Option<Tensor<B, 4>>,
    activation: Activation,
) -> Tensor<B, 4> {
    let BatchNormalized { y, mean, variance } =
        batch_norm_train(x, norm.gamma.val(), norm.beta.val(), norm.epsilon, residual, activation);
    for (running, now) in [(&norm.running_mean, mean), (&norm.running_var, variance)] {
        let now = now * norm.momentum;
        running.update((running.value_sync() * (1.0 - norm.momentum) + now).detach());
    }
    y
}

impl ResNetConfig {
    fn stage<B: Backend>(&self, stage: usize, device: &B::Device) -> Vec<ResidualBlock<B>> {
        let width = WIDTHS[stage];
        (0..self.blocks())
            .map(|i| {
                let first = i == 0 && stage > 0;
                let (from, stride) = if first { (WIDTHS[stage - 1], 2) } else { (width, 1) };
                ResidualBlock {
                    conv1: conv(from, width, stride, device),
                    bn1: self.norm(width, device),
                    conv2: conv(width, width, 1, device),
                    bn2: self.norm(width, device),
                    // As many on either side (option A of He et al. 2016, arXiv 1512.03385).
                    before: (width - from) / 2,
                }
            })
            .collect()
    }

    fn norm<B: Backend>(&self, channels: usize, device: &B::Device) -> BatchNorm<B> {
        BatchNormConfig::new(channels).with_epsilon(self.batch_norm_eps).init(device)
    }
}

fn conv<B: Backend>(from: usize, to: usize, stride: usize, device: &B::Device) -> Conv2d<B> {
    Conv2dConfig::new([from, to], [3, 3])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(false)
        .init(device)
}

impl<B: Backend> Pretrained<B> for CifarResNet<B> {
    type Config = ResNetConfig;

    fn init(config: &ResNetConfig, device: &B::Device) -> Self {
        Self {
            conv1: conv(3, WIDTHS[0], 1, device),
            bn1: config.norm(WIDTHS[0], device),
            layer1: config.stage(0, device),
            layer2: config.stage(1, device),
            layer3: config.stage(2, device),
            linear: LinearConfig::new(WIDTHS[2], config.num_classes).init(device),
        }
    }

    fn naming(&self) -> Naming {
        Naming { ignorable: |name| name.ends_with(".num_batches_tracked"), ..Naming::new(name_table(self)) }
    }

    fn config_now(&self, config: &ResNetConfig) -> ResNetConfig {
        let depth = 2 * (self.layer1.len() + self.layer2.len() + self.layer3.len()) + 2;
        ResNetConfig { depth, ..config.clone() }
    }

    fn without_dropout(self) -> Self {
        self
    }
}

/// Hidden states are the first convolution's output and that of each of the three stages,
/// `[batch, height * width, channels]`. There is no attention.
impl<B: Backend> Tapped<B> for CifarResNet<B> {
    type Input = Inputs<B>;

    fn tapped(&self, inputs: Inputs<B>, wanted: Wanted) -> Taps<B> {
        let images = match inputs {
            Inputs::Images(images) => images,
            Inputs::Tokens { .. } => panic!("a CIFAR ResNet reads images, not tokens"),
        };
        let mut seen = Recorder::new(wanted);
        let logits = self.run(images, &mut seen);
        seen.finish(logits)
    }

    fn tap_shape(&self) -> TapShape {
        let channels = |norm: &BatchNorm<B>| norm.gamma.lazy_shape().num_elements();
        let (mut width, mut pixels) = (channels(&self.bn1), 1);
        let (mut hidden, mut positions) = (vec![width], vec![pixels]);
        for stage in self.stages() {
            for block in stage {
                width = channels(&block.bn2);
                pixels *= block.conv1.stride.iter().product::<usize>();
            }
            hidden.push(width);
            positions.push(pixels);
        }
        TapShape { classes: self.linear.shape()[0], hidden, positions, heads: Vec::new() }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails where something is missing")]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};

    type A = Autodiff<Flex>;

    /// Output, gradients of input, gamma and beta, and the running mean and variance after a training pass.
    fn pass(normalize: impl Fn(&BatchNorm<A>, Tensor<A, 4>) -> Tensor<A, 4>) -> [Vec<f32>; 6] {
        let device = Default::default();
        let ramp = |n: i64, by: f32| Tensor::<A, 1, Int>::arange(0..n, &device).float() * by;
        let mut norm: BatchNorm<A> = BatchNormConfig::new(3).init(&device);
        norm.gamma = norm.gamma.map(|g| (g + ramp(3, 0.5)).detach().require_grad());
        let x = (ramp(4 * 3 * 5 * 2, 0.7).sin() * 2.0 + 0.3).reshape([4, 3, 5, 2]).detach().require_grad();
        let y = normalize(&norm, x.clone());
        let gradients = (y.clone() * ramp(120, 0.37).cos().reshape([4, 3, 5, 2])).sum().backward();
        let floats = |t: Tensor<Flex, 1>| t.into_data().into_vec::<f32>().unwrap();
        [
            floats(y.inner().flatten(0, 3)),
            floats(x.grad(&gradients).unwrap().flatten(0, 3)),
            floats(norm.gamma.val().grad(&gradients).unwrap()),
            floats(norm.beta.val().grad(&gradients).unwrap()),
            floats(norm.running_mean.value_sync().inner()),
            floats(norm.running_var.value_sync().inner()),
        ]
    }

    #[test]
    fn training_normalizes_as_burns_layer_does() {
        let trained = |norm: &BatchNorm<A>, x| normalize_training(norm, x, None, Activation::Identity);
        let names = ["output", "input", "gamma", "beta", "running mean", "running variance"];
        let (got, want) = (pass(trained), pass(|norm, x| norm.forward(x)));
        for (name, (got, want)) in names.iter().zip(got.iter().zip(&want)) {
            assert_eq!(got.len(), want.len(), "{name}");
            let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name}: {worst}");
        }
        assert!(want[4].iter().all(|m| m.abs() > 1e-4), "the running mean moved");
    }
}
