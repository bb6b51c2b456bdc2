//! burn's own layers and plain data, in which there is nothing to reach.

use crate::{Compressible, LayerMut, LayerPath};
use burn::module::{Param, Parameter, RunningState};
use burn::nn;
use burn::prelude::*;
use burn::tensor::TensorKind;
use std::marker::PhantomData;

type Visit<'v, B> = dyn FnMut(&LayerPath, LayerMut<'_, B>) + 'v;

/// Modules that are named but not entered.
macro_rules! other {
    ($([$($generics:tt)*] $type:ty;)*) => {
        $(impl<B: Backend, $($generics)*> Compressible<B> for $type {
            fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut Visit<'_, B>) {
                visit(at, LayerMut::Other);
            }
        })*
    };
}

impl<B: Backend> Compressible<B> for nn::BatchNorm<B> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut Visit<'_, B>) {
        visit(at, LayerMut::BatchNorm(self));
    }
}

/// Data without a name.
macro_rules! nothing {
    ($([$($generics:tt)*] $type:ty;)*) => {
        $(impl<B: Backend, $($generics)*> Compressible<B> for $type {
            fn layers_mut(&mut self, _: &mut LayerPath, _: &mut Visit<'_, B>) {}
        })*
    };
}

other! {
    [T: Parameter] Param<T>;
    [V] RunningState<V>;

    [] nn::Linear<B>;
    [] nn::Embedding<B>;
    [] nn::conv::Conv1d<B>;
    [] nn::conv::Conv2d<B>;
    [] nn::conv::Conv3d<B>;
    [] nn::conv::ConvTranspose1d<B>;
    [] nn::conv::ConvTranspose2d<B>;
    [] nn::conv::ConvTranspose3d<B>;
    [] nn::conv::DeformConv2d<B>;

    [] nn::GroupNorm<B>;
    [] nn::InstanceNorm<B>;
    [] nn::LayerNorm<B>;
    [] nn::LocalResponseNorm;
    [] nn::RmsNorm<B>;
    [] nn::norm::Normalization<B>;

    [] nn::attention::MultiHeadAttention<B>;
    [] nn::attention::CrossAttention<B>;
    [] nn::transformer::TransformerEncoder<B>;
    [] nn::transformer::TransformerEncoderLayer<B>;
    [] nn::transformer::TransformerDecoder<B>;
    [] nn::transformer::TransformerDecoderLayer<B>;
    [] nn::transformer::PositionWiseFeedForward<B>;
    [] nn::PositionalEncoding<B>;
    [] nn::RotaryEncoding<B>;
    [] nn::Rnn<B>;
    [] nn::BiRnn<B>;
    [] nn::gru::Gru<B>;
    [] nn::gru::BiGru<B>;
    [] nn::Lstm<B>;
    [] nn::BiLstm<B>;
    [] nn::GateController<B>;

    [] nn::activation::Activation<B>;
    [] nn::PRelu<B>;
    [] nn::SwiGlu<B>;
    [] nn::Celu;
    [] nn::Elu;
    [] nn::GLU;
    [] nn::Gelu;
    [] nn::HardShrink;
    [] nn::HardSigmoid;
    [] nn::activation::HardSwish;
    [] nn::LeakyRelu;
    [] nn::Relu;
    [] nn::Selu;
    [] nn::Shrink;
    [] nn::Sigmoid;
    [] nn::SoftShrink;
    [] nn::Softplus;
    [] nn::Softsign;
    [] nn::Tanh;
    [] nn::ThresholdedRelu;

    [] nn::pool::AdaptiveAvgPool1d;
    [] nn::pool::AdaptiveAvgPool2d;
    [] nn::pool::AvgPool1d;
    [] nn::pool::AvgPool2d;
    [] nn::pool::MaxPool1d;
    [] nn::pool::MaxPool2d;
    [] nn::Unfold4d;
    [] nn::interpolate::Interpolate1d;
    [] nn::interpolate::Interpolate2d;
    [] nn::Dropout;
    [] nn::GaussianNoise;
}

nothing! {
    [const D: usize, K: TensorKind<B>] Tensor<B, D, K>;
    [T] PhantomData<T>;
    [] nn::PaddingConfig1d;
    [] nn::PaddingConfig2d;
    [] nn::PaddingConfig3d;
    [] String;
    [] bool;
    [] f32;
    [] f64;
    [] u8;
    [] u16;
    [] u32;
    [] u64;
    [] i8;
    [] i16;
    [] i32;
    [] i64;
    [] isize;
}
