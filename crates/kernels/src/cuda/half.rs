//! Products of half floats with packed weights, which are unpacked where the tensor cores read them.

use super::source::launch;
use super::variants::{Element, HalfProduct, LayOutRows};
use super::{
    Client, Device, Matrix, ROWS, Unsupported, Weight, known, layout, multiprocessors, tile_columns,
};
use crate::activation::Activation;
use crate::packed_matrix::Code;
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_dtype;
use cubecl::server::Handle;

/// Inputs that a thread unpacks at a time: they share a scale.
const ITEM: usize = HalfProduct::BLOCK / 2;

/// Whether `x: [rows, in]` can be multiplied with `w`, and `bias` added.
pub(crate) fn supports(x: &Matrix, w: &Weight, bias: Option<&Matrix>) -> Result<(), Unsupported> {
    known(x, w, bias)?;
    suits(x.dtype, w.shape, w.group)
}

/// Whether floats of a type can be multiplied with a weight `[out, in]`.
pub(crate) fn suits(dtype: DType, shape: [usize; 2], group: usize) -> Result<(), Unsupported> {
    let [_, columns] = shape;
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return Err(Unsupported::Element(dtype));
    }
    if shape.contains(&0) {
        return Err(Unsupported::Empty);
    }
    if !columns.is_multiple_of(HalfProduct::BLOCK) {
        return Err(Unsupported::Blocks(columns));
    }
    if group != columns && !group.is_multiple_of(ITEM) {
        return Err(Unsupported::Groups { group, columns });
    }
    Ok(())
}

/// An input in the layout that the product reads.
pub(crate) struct LaidOut {
    values: Handle,
    rows: usize,
    columns: usize,
    device: Device,
    client: Client,
    dtype: DType,
}

/// Lays out `x: [rows, columns]`. It must be [supported](supports).
pub(crate) fn lay_out(x: Matrix) -> LaidOut {
    let x = if x.meta.strides()[1] == 1 { x } else { into_contiguous(x) };
    let [rows, columns] = x.meta.shape().dims();
    let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
    let values = client.empty(layout(rows, columns * dtype.size()));
    let kernel = LayOutRows { element: Element::of(dtype).expect("checked by supports()") };
    let info = vec![rows as u64, (columns / HalfProduct::BLOCK) as u64, x.meta.strides()[0] as u64];
    let blocks = (rows * columns / 8).div_ceil(LayOutRows::PIECES);
    launch(&client, kernel, blocks as u32, vec![x.handle.binding(), values.clone().binding()], info);
    LaidOut { values, rows, columns, device, client, dtype }
}

/// `x w^T + bias`, then `activation`: `[rows, out]` of the type that the input had. `bias: [out]`.
pub(crate) fn product(x: &LaidOut, w: &Weight, bias: Option<Matrix>, activation: Activation) -> Matrix {
    let ([columns, _], known) = (w.shape, "checked by supports()");
    let neighbours = |x: Matrix| if x.meta.strides()[1] == 1 { x } else { into_contiguous(x) };
    let [words, scales] = [&w.words, &w.scales].map(|x| neighbours(x.clone()));
    let zeros = w.zeros.clone().map(into_contiguous);
    let bias = bias.map(|bias| if bias.meta.strides()[0] == 1 { bias } else { into_contiguous(bias) });
    let multiprocessors = multiprocessors(&x.client);
    let tile = tile_columns(x.rows, columns, multiprocessors);
    let kernel = HalfProduct {
        columns: tile as u32,
        element: Element::of(x.dtype).expect(known),
        bits: w.bits,
        scale: Element::of(scales.dtype).expect(known),
        binary: w.code == Code::Binary,
        zero: zeros.is_some(),
        activation,
        bias: bias.as_ref().map(|bias| Element::of(bias.dtype).expect(known)),
    };
    let y = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([x.rows, columns]), x.dtype);
    // Items that share a scale.
    let group = if w.group == x.columns { 0 } else { w.group / ITEM };
    let info = vec![
        x.rows as u64,
        columns as u64,
        (x.columns / HalfProduct::BLOCK) as u64,
        words.meta.strides()[0] as u64,
        scales.meta.strides()[0] as u64,
        group as u64,
        y.meta.strides()[0] as u64,
    ];
    let mut buffers = vec![x.values.clone().binding(), words.handle.binding(), scales.handle.binding()];
    buffers.extend(zeros.map(|zeros| zeros.handle.binding()));
    buffers.extend(bias.map(|bias| bias.handle.binding()));
    buffers.push(y.handle.clone().binding());
    let tiles = x.rows.div_ceil(ROWS) * columns.div_ceil(tile);
    launch(&x.client, kernel, tiles.min(multiprocessors) as u32, buffers, info);
    y
}
