//! Codes out of words, in registers, without converting integers to floats.
//!
//! The bits of a code are put into a float's mantissa under a fixed exponent: the float is then a power of two plus
//! the code, both exact. Taking the power off again is left to the caller, who often does it once for many codes.

use cubecl::prelude::*;

/// Codes that are computed with at a time.
pub(super) const RUN: usize = 8;

/// Codes in the fewest words that hold a whole number of runs, so that a thread's share begins with a word.
pub(super) const fn codes_per_chunk(bits: u32) -> usize {
    match bits {
        4 | 8 => 8,
        2 => 16,
        _ => 32,
    }
}

/// Words of a chunk.
pub(super) const fn words_per_chunk(bits: u32) -> usize {
    codes_per_chunk(bits) * bits as usize / 32
}

/// What [`lifted`] adds to the code at a place of a chunk.
pub(super) fn lift(at: usize, bits: u32) -> f32 {
    let free = if 32 % bits == 0 { 8 - at as u32 * bits % 8 } else { bits };
    (1u32 << free) as f32
}

/// Where the bits of a float's exponent `power` are, with its bias.
const fn exponent(power: u32) -> u32 {
    (127 + power) << 23
}

/// The code at place `at` of a chunk, of which `words` holds the words from `from` on, plus [`lift`].
#[cube]
pub(super) fn lifted(
    words: &Array<u32>,
    #[comptime] from: usize,
    #[comptime] at: usize,
    #[comptime] bits: u32,
) -> f32 {
    let place = comptime!(from + at * bits as usize / 32);
    let offset = comptime!(at as u32 * bits % 32);
    if comptime!(32 % bits == 0) {
        // All codes of a byte share the shift that brings the byte to the mantissa's upper end.
        let byte = offset / 8 * 8;
        let moved = if comptime!(byte <= 15) {
            words[place] << comptime!(15 - byte)
        } else {
            words[place] >> comptime!(byte - 15)
        };
        let inside = comptime!(offset % 8);
        let mask = comptime!(((1u32 << bits) - 1) << (15 + inside));
        f32::reinterpret((moved & mask) | comptime!(exponent(8 - inside)))
    } else {
        let low = words[place] >> offset;
        let found = if comptime!(offset + bits > 32) {
            low | (words[comptime!(place + 1)] << comptime!(32 - offset))
        } else {
            low
        };
        let moved = (found << comptime!(23 - bits)) & comptime!(((1u32 << bits) - 1) << (23 - bits));
        f32::reinterpret(moved | comptime!(exponent(bits)))
    }
}

/// The code of a column of a row that begins at `row` in `words`.
#[cube]
pub(super) fn code_at<N: Size>(
    words: &Tensor<Vector<u32, N>>,
    row: usize,
    column: usize,
    #[comptime] bits: u32,
) -> f32 {
    let first = column * comptime!(bits as usize);
    let place = row + first / 32;
    let offset = u32::cast_from(first % 32);
    let width = words.vector_size();
    let low = words[place / width][place % width] >> offset;
    let found = if offset + bits > 32u32 {
        let next = place + 1;
        low | (words[next / width][next % width] << (32u32 - offset))
    } else {
        low
    };
    f32::cast_from(found & comptime!((1u32 << bits) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_words() {
        for bits in 1..=8 {
            let (codes, words) = (codes_per_chunk(bits), words_per_chunk(bits));
            assert_eq!(codes * bits as usize, 32 * words);
            assert_eq!(codes % RUN, 0);
        }
    }

    #[test]
    fn what_is_added_is_above_the_code() {
        for bits in 1..=8 {
            for at in 0..codes_per_chunk(bits) {
                assert!(lift(at, bits) >= (1u32 << bits) as f32, "{bits} bits at {at}");
            }
        }
    }
}
