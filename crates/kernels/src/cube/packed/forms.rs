//! Which of its forms a product with a packed weight takes.

use super::Coding;
use super::codes::{RUN, codes_per_chunk};
use crate::packed_matrix::PackedMatrix;
use crate::product_kernel::PackedProduct;
use burn::prelude::Backend;
use std::fmt;

/// Rows up to which weights are unpacked in registers on every device.
const FEW_ROWS: usize = 16;

/// Rows beyond which registers are not tried: the multiplications outweigh the weight's way through memory, and the backend's
/// own product is the better one at those.
const MANY_ROWS: usize = 2048;

/// Cubes along an axis of a launch, at most.
pub(super) const CUBES: usize = 65_535;

/// How a product with a packed weight is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cube) enum Form {
    /// Words are unpacked in registers and multiplied with so many rows at once; see [`super::few_rows`].
    FewRows {
        /// 1, 2, 4, 8 or 16; those that are left over are multiplied next to them.
        rows: usize,
    },
    /// The weight is unpacked to memory, where the backend's own product finds it.
    Unpacked,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewRows { rows } => write!(f, "codes unpacked in registers, {rows} rows at a time"),
            Self::Unpacked => f.write_str("the weight unpacked to memory for a product of floats"),
        }
    }
}

/// What is known of a product's form before it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cube) enum Choice {
    /// It is the faster one on every device, or the only one.
    One(Form),
    /// Which is faster depends on the device: [`Form::FewRows`] of so many, or [`Form::Unpacked`].
    Measured {
        /// Of [`Form::FewRows`].
        rows: usize,
    },
}

/// What the form of a product follows from.
#[derive(Clone, Copy, Debug)]
pub(in crate::cube) struct Problem {
    rows: usize,
    out: usize,
    coding: Coding,
}

impl From<PackedProduct> for Problem {
    fn from(product: PackedProduct) -> Self {
        let coding = Coding::of_product(product);
        Self { rows: product.rows, out: product.shape[0], coding }
    }
}

impl Problem {
    /// A product of `rows` rows with a weight.
    pub(in crate::cube) fn of<B: Backend>(rows: usize, p: &PackedMatrix<B>) -> Self {
        Self { rows, out: p.shape[0], coding: Coding::of(p) }
    }
}

/// The form of a product: few rows unpack in registers, and so does a weight of one output, which burn multiplies
/// wrongly where it fuses what follows. Groups that end within a chunk of codes are unpacked to memory.
pub(in crate::cube) fn choose(problem: Problem) -> Choice {
    let Problem { rows, out, coding } = problem;
    // A chunk of several runs is code for each of them: the rows are then shared out to more cubes.
    let most = FEW_ROWS * RUN / codes_per_chunk(coding.bits);
    let at_once = rows.clamp(1, most).next_power_of_two();
    if !coding.fits_chunks() || rows.div_ceil(most) > CUBES {
        Choice::One(Form::Unpacked)
    } else if rows <= FEW_ROWS || out == 1 {
        Choice::One(Form::FewRows { rows: at_once })
    } else if rows <= MANY_ROWS {
        Choice::Measured { rows: at_once }
    } else {
        Choice::One(Form::Unpacked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed_matrix::Code;

    #[test]
    fn the_form_follows_from_rows_and_groups() {
        let few = |rows| Choice::One(Form::FewRows { rows });
        let measured = |rows| Choice::Measured { rows };
        let unpacked = Choice::One(Form::Unpacked);
        let table = [
            // rows, out, bits, group, columns, form
            (1, 4096, 4, 128, 4096, few(1)),
            (2, 4096, 4, 128, 4096, few(2)),
            (3, 4096, 4, 128, 4096, few(4)),
            (8, 4096, 8, 4096, 4096, few(8)),
            (9, 4096, 8, 4096, 4096, few(16)),
            (16, 4096, 4, 64, 4096, few(16)),
            (16, 4096, 2, 64, 4096, few(8)),
            (16, 4096, 3, 64, 4096, few(4)),
            (17, 4096, 4, 128, 4096, measured(16)),
            (2048, 4096, 2, 128, 4096, measured(8)),
            (2049, 4096, 4, 128, 4096, unpacked),
            (1000, 1, 4, 128, 4096, few(16)),
            (2_000_000, 1, 4, 128, 4096, unpacked),
            // Rows of one scale may end anywhere; groups end with a chunk.
            (1, 768, 4, 922, 922, few(1)),
            (1, 768, 4, 12, 96, unpacked),
            (1, 768, 3, 48, 96, unpacked),
            (1, 768, 3, 32, 96, few(1)),
        ];
        for (rows, out, bits, group, columns, form) in table {
            let coding = Coding { bits, code: Code::Symmetric, group, by_row: group == columns };
            assert_eq!(
                choose(Problem { rows, out, coding }),
                form,
                "{rows} rows, {bits} bits, groups of {group}"
            );
        }
    }
}
