//! Attention in one kernel, for elements of 16 bits.

use super::source::{floats, launch};
use super::variants::{Attention, Element};
use super::{Matrix, aligned};
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::ops::numeric::empty_device_dtype;

/// Whether heads of this width and type are for the kernel: the tensor cores take sixteen elements of 16 bits.
pub(crate) fn supports(dtype: DType, width: usize) -> bool {
    matches!(dtype, DType::BF16 | DType::F16) && width > 0 && width.is_multiple_of(16) && width <= 128
}

/// See [`crate::attention`]; nothing is empty, and width and type are [supported](supports).
pub(crate) fn attention(
    q: Matrix,
    k: Matrix,
    v: Matrix,
    mask: Option<Matrix>,
    causal: bool,
    scale: f64,
) -> Matrix {
    let [q, k, v] = [q, k, v].map(aligned);
    let [batch, heads, queries, width] = q.meta.shape().dims();
    let keys = k.meta.shape()[2];
    let element = Element::of(q.dtype).expect("a supported type");
    let mask_by_key = mask.as_ref().is_some_and(|mask| mask.meta.shape()[2] == 1);
    let kernel = Attention { element, width: width as u32, causal, mask: mask.is_some(), mask_by_key };
    let (client, device) = (q.client.clone(), q.device.clone());
    // What follows joins the heads of a token: they lie together.
    let shape = Shape::new([batch, queries, heads, width]);
    let mut y = empty_device_dtype(client.clone(), device, shape, q.dtype);
    y.meta.swap(1, 2);
    let mut info = vec![batch as u64, heads as u64, queries as u64, keys as u64];
    for x in [&q, &k, &v, &y] {
        info.extend(x.meta.strides()[..3].iter().map(|stride| *stride as u64));
    }
    let mask_strides = |mask: &Matrix| -> Vec<u64> {
        let axes = mask.meta.shape().iter().zip(mask.meta.strides().iter());
        axes.map(|(length, stride)| if *length == 1 { 0 } else { *stride as u64 }).collect()
    };
    info.extend(mask.as_ref().map_or_else(|| vec![0; 4], mask_strides));
    info.push(floats(scale as f32, 0.0));
    let mut buffers = vec![q.handle.binding(), k.handle.binding(), v.handle.binding()];
    buffers.extend(mask.map(|mask| mask.handle.binding()));
    buffers.push(y.handle.clone().binding());
    let blocks = queries.div_ceil(Attention::QUERIES) * heads * batch;
    launch(&client, kernel, blocks as u32, buffers, info);
    y
}
