//! What a forward pass of an encoder is made of, piece by piece: the rest of its time are gaps between launches.

use crate::clock::Clock;
use crate::forms::{Form, Layer, LayerSize, Storage};
use crate::job::{Floats, Job, Timed};
use crate::models::{in_turn, named};
use crate::numbers::{Numbers, matrix, tensor};
use crate::sizes::{Encoder, ModelSize};
use crate::{BenchError, Row};
use briquette_kernels::{Activation, add_layer_norm, attention};
use burn::prelude::*;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Query, key, value and the projection after attention.
    Projection,
    /// The first layer of a feed-forward block, with GELU.
    Widening,
    /// The second one.
    Narrowing,
    Attention,
    /// Residual and normalization.
    Normalization,
}

impl Part {
    const ALL: [Self; 5] =
        [Self::Projection, Self::Widening, Self::Narrowing, Self::Attention, Self::Normalization];

    /// As in tables, and how often a layer of the encoder has it.
    fn description(self) -> (&'static str, usize) {
        match self {
            Self::Projection => ("projections of attention", 4),
            Self::Widening => ("feed-forward 1 with GELU", 1),
            Self::Narrowing => ("feed-forward 2", 1),
            Self::Attention => ("attention", 1),
            Self::Normalization => ("sum and normalization", 2),
        }
    }
}

/// Times the operations of the encoders, each with the inputs it has in a forward pass.
pub(crate) fn run<B: Backend>(
    job: &mut Job<'_>,
    floats: Floats,
    clock: &Clock<B>,
    device: &B::Device,
) -> Result<(), BenchError> {
    let models = std::mem::take(&mut job.sizes.models);
    let storage = job.sizes.storage;
    for ModelSize { name, shapes, parts, .. } in &models {
        let Some(encoder) = *parts else { continue };
        let compressed = |form: &Form| *form == Form::Float || floats.timed == Timed::All;
        for form in in_turn(floats).into_iter().filter(compressed) {
            for &[batch, seq] in *shapes {
                for part in Part::ALL {
                    let (what, (text, per_layer)) = (named(form, floats), part.description());
                    let calls = per_layer * encoder.layers;
                    job.measured(format!("{what} {text} {batch} x {seq}"), || {
                        let device_us = time(part, encoder, form, [batch, seq], storage, clock, device);
                        let (what, model, part) = (what.clone(), name.to_string(), text.to_string());
                        Ok(Row::Part { what, model, batch, seq, part, calls, device_us })
                    })?;
                }
            }
        }
    }
    job.sizes.models = models;
    Ok(())
}

/// Microseconds of one operation on the device.
fn time<B: Backend>(
    part: Part,
    encoder: Encoder,
    form: Form,
    [batch, seq]: [usize; 2],
    storage: Storage,
    clock: &Clock<B>,
    device: &B::Device,
) -> f64 {
    let (rows, Encoder { heads, width, inner, .. }) = (batch * seq, encoder);
    let linear = |d_input, d_output, activation| {
        let size = LayerSize { d_input, d_output, rows, storage };
        let (layer, mut at) = (Layer::<B>::new(form, size, activation, device), 0);
        let call = || {
            at += 1;
            layer.forward(at)
        };
        clock.time(layer.copies() + 3, layer.output_bytes(), call).device_us
    };
    match part {
        Part::Projection => linear(width, width, Activation::Identity),
        Part::Widening => linear(width, inner, Activation::Gelu),
        Part::Narrowing => linear(inner, width, Activation::Identity),
        Part::Attention => {
            let d_head = width / heads;
            let heads = || {
                let x = matrix::<B>([rows, width], 1.0, device);
                x.reshape([batch, seq, heads, d_head]).swap_dims(1, 2)
            };
            let [q, k, v] = [heads(), heads(), heads()];
            let scale = (d_head as f64).powf(-0.5);
            let call = || attention(q.clone(), k.clone(), v.clone(), None, false, scale);
            clock.time(3, rows * width * 4, call).device_us
        }
        Part::Normalization => {
            let [x, residual] = [0, 1].map(|_| matrix::<B>([rows, width], 1.0, device));
            let [gamma, beta] =
                [1, 2].map(|seed| tensor::<B, 1>(&Numbers::new(seed).floats(width), [width], device));
            let call = || add_layer_norm(x.clone(), residual.clone(), gamma.clone(), beta.clone(), 1e-12);
            clock.time(3, rows * width * 4, call).device_us
        }
    }
}
