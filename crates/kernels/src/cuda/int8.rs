//! Products of codes: an input is quantized straight into the layout that the product reads, a weight is brought into it once.

use super::source::launch;
use super::variants::{Element, Int8Product, QuantizeRows, WeightCodes};
use super::{
    BLOCK_BYTES as BLOCK, Client, Device, Matrix, ROWS, Unsupported, Weight, how_to_quantize, known, layout,
    multiprocessors, neighbours, tile_columns, vector,
};
use crate::activation::Activation;
use crate::packed_matrix::Code;
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::ops::numeric::empty_device_dtype;
use cubecl::server::Handle;
use std::sync::Arc;

/// Whether `x: [rows, in]` can be multiplied with `w`, and `bias` added.
pub(crate) fn supports(x: &Matrix, w: &Weight, bias: Option<&Matrix>) -> Result<(), Unsupported> {
    known(x, w, bias)?;
    suits(w.code, w.shape, w.group)
}

/// Whether inputs can be multiplied with a weight `[out, in]`.
pub(crate) fn suits(code: Code, shape: [usize; 2], group: usize) -> Result<(), Unsupported> {
    let [_, columns] = shape;
    if shape.contains(&0) {
        return Err(Unsupported::Empty);
    }
    if code == Code::Asymmetric {
        return Err(Unsupported::ZeroPoints);
    }
    if group != columns {
        return Err(Unsupported::Groups { group, columns });
    }
    if columns > QuantizeRows::WIDEST {
        return Err(Unsupported::Columns(columns));
    }
    Ok(())
}

/// An input's codes in the product's layout.
pub(crate) struct Quantized {
    codes: Handle,
    scale: Handle,
    shift: Option<Handle>,
    rows: usize,
    columns: usize,
    device: Device,
    client: Client,
    dtype: DType,
}

/// Quantizes `x: [rows, columns]` row by row. It must be [supported](supports).
pub(crate) fn quantize(x: Matrix, q: TokenQuant) -> Quantized {
    let x = neighbours(x);
    let [rows, columns] = x.meta.shape().dims();
    let element = Element::of(x.dtype).expect("checked by supports()");
    let kernel = QuantizeRows::new(element, columns, q);
    let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
    let codes = client.empty(layout(rows, columns));
    let scale = client.empty(rows * size_of::<f32>());
    let shift = (!q.symmetric).then(|| client.empty(rows * size_of::<f32>()));
    let mut info =
        vec![rows as u64, columns as u64, columns.div_ceil(BLOCK) as u64, x.meta.strides()[0] as u64];
    info.extend(how_to_quantize(q));
    let mut buffers = vec![x.handle.binding(), codes.clone().binding(), scale.clone().binding()];
    buffers.extend(shift.clone().map(Handle::binding));
    launch(&client, kernel, (rows as u32).div_ceil(kernel.rows()), buffers, info);
    Quantized { codes, scale, shift, rows, columns, device, client, dtype }
}

/// A weight's codes in the product's layout.
struct Codes {
    device: Device,
    codes: Handle,
    /// Scale of each row, and the row's sum.
    scale: Handle,
    sum: Handle,
}

fn codes(w: &Weight) -> Arc<Codes> {
    w.prepared.get_or_make(|found: &Codes| found.device == w.words.device, || make_codes(w))
}

fn make_codes(w: &Weight) -> Codes {
    let (client, device) = (w.words.client.clone(), w.words.device.clone());
    let [rows, columns] = w.shape;
    // The product reads whole tiles of them.
    let floats = || client.empty(rows.next_multiple_of(256) * size_of::<f32>());
    let made = Codes { device, codes: client.empty(layout(rows, columns)), scale: floats(), sum: floats() };
    let element = Element::of(w.scales.dtype).expect("checked by supports()");
    let kernel = WeightCodes { element, bits: w.bits, binary: w.code == Code::Binary };
    let mut buffers = vec![w.words.handle.clone().binding(), w.scales.handle.clone().binding()];
    buffers.extend([&made.codes, &made.scale, &made.sum].map(|made| made.clone().binding()));
    let info = vec![
        rows as u64,
        columns as u64,
        columns.div_ceil(BLOCK) as u64,
        w.words.meta.strides()[0] as u64,
        w.scales.meta.strides()[0] as u64,
    ];
    launch(&client, kernel, (rows as u32).div_ceil(WeightCodes::ROWS), buffers, info);
    made
}

/// `x w^T + bias`, then `activation`: `[rows, out]` of the type that the input had. `bias: [out]`.
pub(crate) fn product(x: &Quantized, w: &Weight, bias: Option<Matrix>, activation: Activation) -> Matrix {
    let w_codes = codes(w);
    let [columns, _] = w.shape;
    let bias = bias.map(vector);
    let multiprocessors = multiprocessors(&x.client);
    let tile = tile_columns(x.rows, columns, multiprocessors);
    let kernel = Int8Product {
        columns: tile as u32,
        element: Element::of(x.dtype).expect("checked by supports()"),
        activation,
        bias: bias.as_ref().map(|bias| Element::of(bias.dtype).expect("checked by supports()")),
        shift: x.shift.is_some(),
    };
    let y = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([x.rows, columns]), x.dtype);
    let mut buffers = vec![
        x.codes.clone().binding(),
        w_codes.codes.clone().binding(),
        x.scale.clone().binding(),
        w_codes.scale.clone().binding(),
    ];
    if let Some(shift) = &x.shift {
        buffers.extend([shift.clone().binding(), w_codes.sum.clone().binding()]);
    }
    buffers.extend(bias.map(|bias| bias.handle.binding()));
    buffers.push(y.handle.clone().binding());
    let info =
        vec![x.rows as u64, columns as u64, x.columns.div_ceil(BLOCK) as u64, y.meta.strides()[0] as u64];
    let tiles = x.rows.div_ceil(ROWS) * columns.div_ceil(tile);
    launch(&x.client, kernel, tiles.min(multiprocessors) as u32, buffers, info);
    y
}
