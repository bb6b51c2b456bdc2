//! The kernels of this folder and their variants.

mod attention;
mod few_rows;
mod one_row;
mod products;
mod rows;

pub(super) use attention::Attention;
pub(super) use few_rows::FewRows;
pub(crate) use few_rows::Shares;
pub(super) use one_row::{OneRow, Room, Tiling};
pub(super) use products::{HalfProduct, Int8Product, ROWS};
pub(super) use rows::{LayOutRows, QuantizeRows, WeightCodes, WeightValues};

use crate::activation::Activation;
use burn::tensor::DType;

/// An element type of inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// `None` for types that the kernels do not know.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 | DType::Flex32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// As instructions call types of 16 bits.
    fn short(self) -> &'static str {
        if self == Self::F16 { "f16" } else { "bf16" }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::F16 => "__half",
            Self::Bf16 => "__nv_bfloat16",
        }
    }
}

/// The number by which sources know what follows a product.
fn number(activation: Activation) -> u8 {
    match activation {
        Activation::Identity => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
    }
}
