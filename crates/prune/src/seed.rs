//! Numbers that follow from the session's seed and a name alone.

/// `count` numbers in -1 to 1 that follow from `seed` and `name`.
pub(crate) fn uniform(seed: u64, name: &str, count: usize) -> Vec<f32> {
    // FNV-1a over the name.
    let own = name.bytes().fold(mix(seed), |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let value = |i: usize| (mix(own ^ mix(i as u64 + 1)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
    (0..count).map(value).collect()
}

/// A step of SplitMix64 (Steele, Lea, Flood 2014): all bits of the result depend on all bits of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_seed_and_name() {
        let first = uniform(3, "a", 1000);
        assert_eq!(first, uniform(3, "a", 1000));
        assert_ne!(first, uniform(4, "a", 1000));
        assert_ne!(first, uniform(3, "b", 1000));
        assert!(first.iter().all(|v| (-1.0..1.0).contains(v)));
        assert!((first.iter().sum::<f32>() / 1000.0).abs() < 0.06);
    }
}
