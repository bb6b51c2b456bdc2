//! Products of up to four rows with packed weights, in whole numbers: codes are multiplied where they lie in their bytes.

use super::source::launch;
use super::variants::{Element, OneRow, Room, Tiling};
use super::{Client, Matrix, Weight, aligned, how_to_quantize, multiprocessors, scales_and_zeros, vector};
use crate::activation::Activation;
use crate::packed_matrix::Code;
use crate::product_kernel::PackedProduct;
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::ops::numeric::empty_device_dtype;

/// Whether this is the fastest way to multiply floats of a type.
pub(crate) fn suits(product: PackedProduct, floats: DType) -> bool {
    let PackedProduct { rows, shape, bits, group, input, .. } = product;
    let [_, columns] = shape;
    if super::half::suits(floats, shape).is_err() || !matches!(bits, 1 | 2 | 4 | 8) || rows == 0 {
        return false;
    }
    let step = OneRow::step(bits);
    let whole = columns.is_multiple_of(step) && (group == columns || group.is_multiple_of(step));
    whole && rows <= OneRow::MOST && rows * columns <= most_inputs(rows, bits, input)
}

/// From more inputs on others are faster: blocks take a while to make bytes of them. Quantized inputs cost the others another
/// launch. One row is as long as a block has memory for.
fn most_inputs(rows: usize, bits: u32, input: Option<TokenQuant>) -> usize {
    match (rows, bits, input) {
        (1, _, _) => OneRow::MOST_INPUTS,
        (_, 1 | 2, _) => 22 * 1024,
        (_, _, Some(_)) => 16 * 1024,
        (_, 4, None) => 12 * 1024,
        (_, _, None) => 8 * 1024,
    }
}

/// `x w^T + bias`, then `activation`: `[rows, out]` of the type that the input has. The product must
/// [suit](suits), and the tensors be [supported](super::half::supports).
pub(crate) fn product(
    x: Matrix,
    q: Option<TokenQuant>,
    w: &Weight,
    bias: Option<Matrix>,
    activation: Activation,
) -> Matrix {
    let [rows, columns] = x.meta.shape().dims();
    let Weight { shape, bits, code, group, .. } = *w;
    let multiprocessors = multiprocessors(&x.client);
    let tiling = Tiling::of(bits, shape, multiprocessors);
    let room = Room::of(rows, columns, bits, tiling);
    let x = aligned(x);
    let words = aligned(w.words.clone());
    let (scales, zeros) = scales_and_zeros(w);
    let bias = bias.map(vector);
    let element = |dtype| Element::of(dtype).expect("checked by supports()");
    let tiles = shape[0].div_ceil(tiling.tile());
    let at_once = tiling.at_once(multiprocessors);
    let kernel = OneRow {
        element: element(x.dtype),
        bits,
        scale: element(scales.dtype),
        binary: code == Code::Binary,
        zero: zeros.is_some(),
        span: if group == columns { 0 } else { (group / OneRow::step(bits)) as u32 },
        many: tiles > at_once,
        activation,
        bias: bias.as_ref().map(|bias| element(bias.dtype)),
        input: q.map(Into::into),
        tiling,
        shared: room.bytes() as u32,
    };
    let y = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([rows, shape[0]]), x.dtype);
    let mut info = vec![rows as u64, columns as u64, shape[0] as u64];
    info.extend([&x, &words, &scales, &y].map(|x| x.meta.strides()[0] as u64));
    info.extend([room.raw, room.parts, room.part_bytes].map(|bytes| bytes as u64));
    info.extend(q.map_or([0; 3], how_to_quantize));
    let client: Client = x.client.clone();
    let mut buffers = vec![x.handle.binding(), words.handle.binding(), scales.handle.binding()];
    buffers.extend(zeros.map(|zeros| zeros.handle.binding()));
    buffers.extend(bias.map(|bias| bias.handle.binding()));
    buffers.push(y.handle.clone().binding());
    launch(&client, kernel, tiles.min(at_once) as u32, buffers, info);
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCT: PackedProduct = PackedProduct {
        rows: 1,
        shape: [4096, 4096],
        bits: 4,
        code: Code::Symmetric,
        group: 128,
        input: None,
    };

    #[test]
    fn what_is_faster_otherwise_is_left() {
        let suits = |product| suits(product, DType::BF16);
        assert!(suits(PRODUCT));
        assert!(!super::suits(PRODUCT, DType::F32));
        for product in [
            PackedProduct { rows: 0, ..PRODUCT },
            PackedProduct { rows: 4, ..PRODUCT },
            PackedProduct { bits: 3, ..PRODUCT },
            PackedProduct { group: 64, ..PRODUCT },
            PackedProduct { shape: [64, 4160], group: 4160, ..PRODUCT },
            PackedProduct { shape: [64, 65536], ..PRODUCT },
        ] {
            assert!(!suits(product), "{product:?}");
        }
        let input = Some(TokenQuant { bits: 8, symmetric: true, full_range: false, range: None });
        assert!(suits(PackedProduct { rows: 4, input, ..PRODUCT }));
    }

    #[test]
    fn inputs_and_sums_fit_into_shared_memory() {
        for bits in [1, 2, 4, 8] {
            for rows in 1..=OneRow::MOST {
                for outputs in [16, 4096, 16384] {
                    let columns =
                        most_inputs(rows, bits, None) / rows / OneRow::step(bits) * OneRow::step(bits);
                    let room = Room::of(rows, columns, bits, Tiling::of(bits, [outputs, columns], 132));
                    assert!(room.parts + 2 * room.part_bytes <= room.bytes(), "{bits} {rows} {outputs}");
                    assert!(room.bytes() <= 227 * 1024, "{bits} {rows} {outputs}: {room:?}");
                    assert!([room.raw, room.parts].iter().all(|at| at.is_multiple_of(16)));
                }
            }
        }
    }
}
