//! Codes of 1 to 8 bits in 32-bit words.
//!
//! Each row is a little-endian bit stream: element `i` occupies the bits `i * bits .. (i+1) * bits`,
//! counted from the lowest bit of the first word. A row ends with a whole word; the padding is zero.
//! This is the layout of compressed-tensors' `pack-quantized` for 4 and 8 bits.

/// Words that a row of `columns` codes takes: `ceil(columns * bits / 32)`.
pub fn words_per_row(columns: usize, bits: u32) -> usize {
    (columns * bits as usize).div_ceil(32)
}

/// Packs `codes` (`[rows, columns]`, row-major) into `[rows, words_per_row]` words. Bits of a code
/// above `bits` are dropped.
///
/// # Panics
/// When `bits` is not in 1 to 8 or `codes` has not `rows * columns` elements.
pub fn pack_rows(codes: &[u8], rows: usize, columns: usize, bits: u32) -> Vec<u32> {
    check_bits(bits);
    assert_eq!(codes.len(), rows * columns, "codes do not have the shape [{rows}, {columns}]");
    let width = words_per_row(columns, bits);
    let mut words = vec![0u32; rows * width];
    if columns == 0 {
        return words;
    }
    for (row, out) in codes.chunks_exact(columns).zip(words.chunks_exact_mut(width)) {
        pack_row(row, out, bits);
    }
    words
}

/// The inverse of [`pack_rows`].
///
/// # Panics
/// When `bits` is not in 1 to 8 or `words` has not `rows * words_per_row(columns, bits)` elements.
pub fn unpack_rows(words: &[u32], rows: usize, columns: usize, bits: u32) -> Vec<u8> {
    check_bits(bits);
    let width = words_per_row(columns, bits);
    assert_eq!(words.len(), rows * width, "words do not have the shape [{rows}, {width}]");
    let mut codes = vec![0u8; rows * columns];
    if columns == 0 {
        return codes;
    }
    for (row, out) in words.chunks_exact(width).zip(codes.chunks_exact_mut(columns)) {
        unpack_row(row, out, bits);
    }
    codes
}

pub(crate) fn check_bits(bits: u32) {
    assert!((1..=8).contains(&bits), "codes have 1 to 8 bits, not {bits}");
}

fn pack_row(codes: &[u8], words: &mut [u32], bits: u32) {
    let mask = (1u64 << bits) - 1;
    let (mut buffer, mut filled, mut at) = (0u64, 0, 0);
    for &code in codes {
        buffer |= (u64::from(code) & mask) << filled;
        filled += bits;
        if filled >= 32 {
            words[at] = buffer as u32;
            buffer >>= 32;
            filled -= 32;
            at += 1;
        }
    }
    if filled > 0 {
        words[at] = buffer as u32;
    }
}

fn unpack_row(words: &[u32], codes: &mut [u8], bits: u32) {
    let mask = (1u64 << bits) - 1;
    let (mut buffer, mut filled) = (0u64, 0);
    let mut words = words.iter();
    for code in codes {
        if filled < bits {
            let word = words.next().copied().expect("words_per_row words hold all columns");
            buffer |= u64::from(word) << filled;
            filled += 32;
        }
        *code = (buffer & mask) as u8;
        buffer >>= bits;
        filled -= bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bit_stream_is_little_endian() {
        assert_eq!(pack_rows(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 9, 4), [0x8765_4321, 9]);
        assert_eq!(pack_rows(&[0x11, 0x22, 0x33, 0x44], 2, 2, 8), [0x2211, 0x4433]);
        // 3 bits: code 10 occupies bits 30, 31 of the first word and bit 0 of the second.
        let mut codes = [0u8; 11];
        codes[10] = 0b101;
        assert_eq!(pack_rows(&codes, 1, 11, 3), [0b01 << 30, 0b1]);
    }

    #[test]
    fn empty_shapes() {
        assert!(pack_rows(&[], 0, 7, 3).is_empty());
        assert!(pack_rows(&[], 7, 0, 3).is_empty());
        assert!(unpack_rows(&[], 7, 0, 3).is_empty());
    }

    proptest! {
        #[test]
        fn round_trip(bits in 1u32..=8, rows in 0usize..5, columns in 0usize..140, seed: u64) {
            let mask = (1u64 << bits) - 1;
            let mut state = seed | 1;
            let codes: Vec<u8> = (0..rows * columns)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    ((state >> 40) & mask) as u8
                })
                .collect();
            let words = pack_rows(&codes, rows, columns, bits);
            prop_assert_eq!(words.len(), rows * words_per_row(columns, bits));
            prop_assert_eq!(unpack_rows(&words, rows, columns, bits), codes);
        }
    }
}
