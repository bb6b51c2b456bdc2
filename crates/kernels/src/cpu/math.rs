//! Elementary functions without branches or calls, so that loops over them vectorise.

/// Natural exponential; relative error below 3e-7, 0 below -87, constant above 88, NaN stays NaN.
///
/// `2^n * exp(r)` with `|r| <= ln 2 / 2` and Taylor's polynomial of degree 7, whose remainder is
/// below 1e-8.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let y = p * power;
    if x < -87.0 { 0.0 } else { y }
}

/// Complementary error function for `z >= 0` (Abramowitz and Stegun 1964, 7.1.26; absolute error
/// 1.5e-7), given `z` and `z^2`.
#[inline(always)]
fn erfc(z: f32, z_squared: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    p * t * exp(-z_squared)
}

/// `x Phi(x)`, as `max(x, 0) - |x|/2 erfc(|x| / sqrt 2)`: no cancellation for negative `x`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    // Beyond 20 the second term is zero; without the bound infinity would meet it as inf * 0.
    let a = x.abs();
    let a = if a > 20.0 { 20.0 } else { a };
    positive - 0.5 * a * erfc(a * std::f32::consts::FRAC_1_SQRT_2, 0.5 * a * a)
}

/// `x/2 (1 + tanh u)` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, as `x / (1 + exp(-2 u))`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    let u2 = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-u2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;

    fn sweep() -> impl Iterator<Item = f32> {
        (-200_000..=200_000).map(|i| i as f32 * 1e-4)
    }

    #[test]
    fn exp_is_accurate() {
        for x in sweep().map(|x| 4.3 * x) {
            let (got, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got - exact).abs() <= 3e-7 * exact, "exp({x}) = {got}, not {exact}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_is_accurate() {
        for x in sweep() {
            let exact = oracle::gelu(x);
            assert!((f64::from(gelu(x)) - exact).abs() <= 1e-6, "gelu({x})");
            let exact = oracle::gelu_tanh(x);
            assert!((f64::from(gelu_tanh(x)) - exact).abs() <= 2e-6, "gelu_tanh({x})");
        }
        assert_eq!(gelu(f32::INFINITY), f32::INFINITY);
        assert_eq!(gelu(-100.0), 0.0);
        assert!(gelu(f32::NAN).is_nan());
        assert_eq!(gelu_tanh(100.0), 100.0);
        assert!(gelu_tanh(f32::NAN).is_nan());
    }
}
