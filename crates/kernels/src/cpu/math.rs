//! Elementary functions without branches or calls, so that loops over them vectorise. `FMA` says whether
//! fused multiply-adds are instructions here: as calls they would be slow.

/// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
pub(super) const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts: the first has so few bits that its product with an exponent is exact.
pub(super) const LN_2_HIGH: f32 = 0.693_359_4;
/// See [`LN_2_HIGH`].
pub(super) const LN_2_LOW: f32 = -2.121_944_4e-4;
/// The `q` of [`exp_within`].
pub(super) const EXP_FIT: [f32; 5] =
    [0.499_999_94, 0.166_665_2, 0.041_668_39, 0.008_368_745, 0.001_381_453_9];
/// The `s(a) / a` of [`gelu`].
pub(super) const GELU_FIT: [f32; 9] = [
    -0.797_886_7,
    0.181_713_4,
    -0.036_420_505,
    0.004_931_236,
    -1.060_586_6e-4,
    -1.357_854e-4,
    3.353_624e-5,
    -3.694_632_4e-6,
    1.646_171_2e-7,
];
/// A factor of [`gelu_tanh`].
pub(super) const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;

/// Natural exponential; relative error below 9e-8, 0 below -87, constant above 88, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let y = exp_within::<FMA>(clamped);
    if x < -87.0 { 0.0 } else { y }
}

/// The same for `x` of at most 0.
#[inline(always)]
pub(crate) fn exp_below_0<const FMA: bool>(x: f32) -> f32 {
    exp_within::<FMA>(if x < -88.0 { -88.0 } else { x })
}

/// [`exp`] from -88.3 to 88.3; 0 from -88.3 to -87.7.
///
/// `2^n (1 + r + r^2 q(r))` with `|r| <= ln 2 / 2`, where `q` is a fit whose relative error stays below
/// 4e-9. Adding 1 last leaves one rounding that counts.
#[inline(always)]
fn exp_within<const FMA: bool>(x: f32) -> f32 {
    let shifted = add_product::<FMA>(ROUND, x, std::f32::consts::LOG2_E);
    let n = shifted - ROUND;
    let r = add_product::<FMA>(add_product::<FMA>(x, -n, LN_2_HIGH), -n, LN_2_LOW);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (1.0 + add_product::<FMA>(r, polynomial::<_, FMA>(&EXP_FIT, r), r * r)) * power
}

/// `a + b c`.
#[inline(always)]
fn add_product<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { b.mul_add(c, a) } else { a + b * c }
}

/// `c[0] + c[1] x + c[2] x^2 ..`
#[inline(always)]
fn polynomial<const N: usize, const FMA: bool>(c: &[f32; N], x: f32) -> f32 {
    let mut y = c[N - 1];
    for i in (0..N - 1).rev() {
        y = add_product::<FMA>(c[i], y, x);
    }
    y
}

/// `x Phi(x)`, as `max(x, 0) - |x|/2 erfc(|x| / sqrt 2)`: no cancellation for negative `x`.
///
/// `erfc(a / sqrt 2) = exp(s(a) - a^2 / 2)` with a smooth `s`. `s(a) / a` is a fit on `0 ..= 5.5` that leaves
/// an error of 1e-8 in the second term of the difference; further out that term is smaller still, and falls
/// as it should.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    // There the exponential is 0; without the bound infinity would meet it as inf * 0.
    let a = x.abs();
    let a = if a > 13.12 { 13.12 } else { a };
    let fitted = if a > 5.5 { 5.5 } else { a };
    let half = 0.5 * a;
    let exponent = add_product::<FMA>(-(half * a), polynomial::<_, FMA>(&GELU_FIT, fitted), fitted);
    add_product::<FMA>(positive, -half, exp_within::<FMA>(exponent))
}

/// `x/2 (1 + tanh u)` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, as `x / (1 + exp(-2 u))`.
#[inline(always)]
pub(crate) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    let u2 = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp::<FMA>(-u2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;

    fn sweep() -> impl Iterator<Item = f32> {
        (-200_000..=200_000).map(|i| i as f32 * 1e-4)
    }

    #[test]
    fn functions_are_accurate() {
        exp_is_accurate::<false>();
        exp_is_accurate::<true>();
        gelu_is_accurate::<false>();
        gelu_is_accurate::<true>();
    }

    fn exp_is_accurate<const FMA: bool>() {
        for x in sweep().map(|x| 4.3 * x) {
            let (got, exact) = (f64::from(exp::<FMA>(x)), f64::from(x).exp());
            assert!((got - exact).abs() <= 9e-8 * exact, "exp({x}) = {got}, not {exact}");
        }
        for x in sweep().map(|x| 4.3 * x).filter(|x| *x <= 0.0 && !(-87.7..-87.0).contains(x)) {
            assert_eq!(exp_below_0::<FMA>(x), exp::<FMA>(x), "exp({x})");
        }
        assert_eq!(exp_below_0::<FMA>(f32::NEG_INFINITY), 0.0);
        assert!(exp_below_0::<FMA>(f32::NAN).is_nan());
        assert_eq!(exp::<FMA>(0.0), 1.0);
        assert_eq!(exp::<FMA>(-1e30), 0.0);
        assert_eq!(exp::<FMA>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<FMA>(1e30).is_finite());
        assert!(exp::<FMA>(f32::NAN).is_nan());
    }

    fn gelu_is_accurate<const FMA: bool>() {
        for x in sweep() {
            let exact = oracle::gelu(x);
            assert!((f64::from(gelu::<FMA>(x)) - exact).abs() <= 1e-7 * exact.abs().max(1.0), "gelu({x})");
            let exact = oracle::gelu_tanh(x);
            let error = (f64::from(gelu_tanh::<FMA>(x)) - exact).abs();
            assert!(error <= 1.5e-7 * exact.abs().max(1.0), "gelu_tanh({x})");
        }
        assert_eq!(gelu::<FMA>(f32::INFINITY), f32::INFINITY);
        assert_eq!(gelu::<FMA>(f32::NEG_INFINITY), 0.0);
        assert_eq!(gelu::<FMA>(-100.0), 0.0);
        assert!(gelu::<FMA>(f32::NAN).is_nan());
        assert_eq!(gelu_tanh::<FMA>(100.0), 100.0);
        assert!(gelu_tanh::<FMA>(f32::NAN).is_nan());
    }
}
