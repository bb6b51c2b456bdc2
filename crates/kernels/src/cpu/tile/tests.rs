//! Every unit that this machine has against plain sums.

use super::*;
use proptest::prelude::*;

/// Integers are exact, whatever the unit.
fn check_bytes(m: usize, depth: usize, x: impl Fn(usize) -> i8, w: impl Fn(usize) -> u8) {
    let stride = depth + 3;
    let x: Vec<i8> = (0..m * stride).map(x).collect();
    let w: Vec<u8> = (0..depth * WIDTH).map(w).collect();
    for unit in Unit::available() {
        let mut sums = [[77; WIDTH]; HEIGHT];
        unit.bytes(BytePanel { codes: &w, bits: 8 }, &x, stride, m, &mut sums);
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let code = |k: usize| i64::from(w[(k / DEPTH * WIDTH + j) * DEPTH + k % DEPTH]);
                let exact: i64 = (0..depth).map(|k| i64::from(x[(i % m) * stride + k]) * code(k)).sum();
                let expected = if i < m { exact } else { 77 };
                assert_eq!(i64::from(*sum), expected, "{unit:?} {m} rows of {depth} at {i}, {j}");
            }
        }
    }
}

fn check_floats(m: usize, depth: usize, seed: u32) {
    let value =
        |i: usize| ((i as u32).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 12) as f32 / 524_288.0 - 1.0;
    let (stride, w_stride, to_stride) = (depth + 1, WIDTH + 5, WIDTH + 9);
    let x: Vec<f32> = (0..m * stride).map(value).collect();
    let data: Vec<f32> = (0..depth * w_stride).map(|i| value(i + 99)).collect();
    for unit in Unit::available() {
        let mut sums = vec![7.0; HEIGHT * to_stride];
        let panel = FloatPanel { data: &data, stride: w_stride, depth };
        unit.floats(panel, (&x, stride), m, (&mut sums, to_stride));
        for (i, sums) in sums.chunks_exact(to_stride).enumerate().take(m) {
            assert_eq!(sums[WIDTH..], [7.0; 9], "{unit:?} wrote beyond the outputs");
            for (j, sum) in sums[..WIDTH].iter().enumerate() {
                let product = |k: usize| f64::from(x[i * stride + k]) * f64::from(data[k * w_stride + j]);
                let exact: f64 = (0..depth).map(product).sum();
                let error = (f64::from(*sum) - exact).abs();
                assert!(
                    error <= 1e-6 * (depth as f64),
                    "{unit:?} {m} rows of {depth} at {i}, {j}: {sum}, not {exact}"
                );
            }
        }
        assert!(sums[m * to_stride..].iter().all(|v| *v == 7.0), "{unit:?} wrote beyond {m} rows");
    }
}

#[test]
fn extremes_do_not_overflow() {
    for depth in [4, 64, 68, LONGEST] {
        for m in [1, 5, HEIGHT] {
            check_bytes(m, depth, |_| -128, |_| 255);
            check_bytes(m, depth, |_| 127, |_| 255);
        }
    }
}

/// Codes that share bytes give what they give one in a byte.
#[test]
fn shared_bytes_are_spread() {
    let (depth, m) = (24, 5);
    let x: Vec<i8> = (0..m * depth).map(|i| (i * 37 % 251) as u8 as i8).collect();
    for (unit, bits) in Unit::available().into_iter().filter(|u| u.spreads()).flat_map(|u| [(u, 4), (u, 2)]) {
        let codes: Vec<u8> = (0..depth * WIDTH).map(|i| (i * 7 % 11 % (1 << bits)) as u8).collect();
        let bytes = DEPTH * WIDTH * bits / 8;
        let step = |step: &[u8]| -> Vec<u8> {
            let shared = |at: usize| step.iter().skip(at).step_by(bytes).rev().fold(0, |b, c| b << bits | c);
            (0..bytes).map(shared).collect()
        };
        let shared: Vec<u8> = codes.chunks_exact(DEPTH * WIDTH).flat_map(step).collect();
        let [expected, got] = [(&codes, 8), (&shared, bits)].map(|(codes, bits)| {
            let mut sums = [[77; WIDTH]; HEIGHT];
            unit.bytes(BytePanel { codes, bits }, &x, depth, m, &mut sums);
            sums
        });
        assert_eq!(got, expected, "{unit:?}, {bits} bits");
    }
}

#[test]
fn the_widest_unit_is_the_best() {
    assert_eq!(Unit::available().first(), Some(&Unit::Portable));
    assert_eq!(Unit::available().last(), Some(&Unit::best()));
}

#[test]
#[should_panic(expected = "rows of 8 columns")]
fn short_operands_are_refused() {
    let panel = BytePanel { codes: &[0; 8 * WIDTH], bits: 8 };
    Unit::best().bytes(panel, &[0; 15], 8, 2, &mut [[0; WIDTH]; HEIGHT]);
}

proptest! {
    #[test]
    fn integer_sums_are_exact(m in 1usize..=HEIGHT, steps in 0usize..60, seed: u32) {
        let hash = |i: usize| (i as u32).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 20;
        check_bytes(m, steps * DEPTH, |i| hash(i) as i8, |i| hash(i + 7_777) as u8);
    }

    #[test]
    fn float_sums_are_close(m in 1usize..=HEIGHT, depth in 1usize..200, seed: u32) {
        check_floats(m, depth, seed);
    }
}
