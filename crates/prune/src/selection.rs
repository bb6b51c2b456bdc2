//! Which units stay: exact counts, and ties that the lower index wins.

/// How many of `units` stay where this share of them is kept: `ceil(share * units)`, as DeepSpeed counts. What the
/// product is above an integer by rounding alone does not count: 0.07 of 100 are 7.
pub fn kept_count(share: f64, units: usize) -> usize {
    let product = share * units as f64;
    // Shares come from decimal text and from one subtraction, so they are off by parts in 1e16.
    ((product - 1e-6).ceil().max(0.0) as usize).min(units)
}

/// Marks the `kept` highest scores; of equal ones those that come first.
pub fn highest(scores: &[f32], kept: usize) -> Vec<bool> {
    if kept == 0 || kept >= scores.len() {
        return vec![kept > 0; scores.len()];
    }
    let keys: Vec<u32> = scores.iter().map(|s| key(*s)).collect();
    let mut sorted = keys.clone();
    let (_, last, above) = sorted.select_nth_unstable(scores.len() - kept);
    let last = *last;
    let mut ties = kept - above.iter().filter(|k| **k > last).count();
    let mut stays = |k: u32| {
        let tie = k == last && ties > 0;
        ties -= usize::from(tie);
        k > last || tie
    };
    keys.into_iter().map(&mut stays).collect()
}

/// The units of one layer, for choosing across layers.
#[derive(Debug, Clone)]
pub struct Candidates<'a> {
    /// A score for each unit.
    pub scores: &'a [f32],
    /// What one unit counts, in weights.
    pub size: usize,
    /// Fewest units that stay.
    pub least: usize,
    /// Most units that stay.
    pub most: usize,
}

/// How many units of each layer stay where units compete across layers and `wanted` weights stay in all.
///
/// Units are kept in the order of their scores, of equal ones those of the first layer and of the lower index, until
/// they hold `wanted` weights; a layer's `least` and `most` come first. The number reached is `wanted` exactly where
/// `size` divides it and the limits allow it.
pub fn counts(layers: &[Candidates<'_>], wanted: usize) -> Vec<usize> {
    let keys: Vec<Vec<u32>> =
        layers.iter().map(|layer| layer.scores.iter().map(|s| key(*s)).collect()).collect();
    // Units with a key of at least `from`, within the limits of each layer.
    let at = |from: u64| -> Vec<usize> {
        let count = |keys: &Vec<u32>| keys.iter().filter(|k| u64::from(**k) >= from).count();
        let limited = |(layer, keys): (&Candidates<'_>, &Vec<u32>)| {
            count(keys).max(layer.least).min(layer.most.max(layer.least))
        };
        layers.iter().zip(&keys).map(limited).collect()
    };
    let weights = |counts: &[usize]| layers.iter().zip(counts).map(|(l, n)| l.size * n).sum::<usize>();
    // The highest threshold that keeps enough; keys are whole numbers, so halving finds it.
    let (mut enough, mut too_few) = (0u64, 1u64 << 32);
    while too_few - enough > 1 {
        let middle = (enough + too_few) / 2;
        if weights(&at(middle)) >= wanted {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    let (most, mut counts) = (at(enough), at(too_few));
    // Units at the threshold itself, first come first served.
    for i in 0..layers.len() {
        let missing = wanted.saturating_sub(weights(&counts)).div_ceil(layers[i].size.max(1));
        counts[i] += missing.min(most[i] - counts[i]);
    }
    counts
}

/// A whole number for each score, in the order of the scores; both zeros are equal.
fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_counted_as_deepspeed_counts_them() {
        assert_eq!(kept_count(0.34, 3), 2);
        assert_eq!(kept_count(0.6, 12), 8);
        assert_eq!(kept_count(0.5, 4), 2);
        assert_eq!(kept_count(1.0, 5), 5);
        assert_eq!(kept_count(1e-3, 5), 1);
        // 7.000000000000001 and 3.0000000000000004 as written.
        assert_eq!(kept_count(0.07, 100), 7);
        assert_eq!(kept_count(1.0 - 0.7, 10), 3);
        assert_eq!(kept_count(0.0, 10), 0);
    }

    #[test]
    fn the_lower_index_wins_a_tie() {
        assert_eq!(highest(&[0.3, -0.1, 0.8, 0.2], 2), [true, false, true, false]);
        assert_eq!(highest(&[1.0; 5], 2), [true, true, false, false, false]);
        assert_eq!(highest(&[0.0, -0.0, 0.0], 1), [true, false, false]);
        assert_eq!(highest(&[-0.0, 0.0, 0.0], 1), [true, false, false]);
        assert_eq!(highest(&[-2.0, -1.0, f32::NEG_INFINITY], 2), [true, true, false]);
        assert_eq!(highest(&[1.0, 2.0], 0), [false, false]);
        assert_eq!(highest(&[1.0, 2.0], 7), [true, true]);
        assert!(highest(&[], 3).is_empty());
    }

    fn candidates(scores: &[f32], size: usize, least: usize, most: usize) -> Candidates<'_> {
        Candidates { scores, size, least, most }
    }

    #[test]
    fn layers_compete_within_their_limits() {
        let (a, b) = ([9.0, 8.0, 7.0, 1.0], [6.0, 5.0, 4.0, 3.0]);
        let free = [candidates(&a, 1, 0, 4), candidates(&b, 1, 0, 4)];
        assert_eq!(counts(&free, 3), [3, 0]);
        assert_eq!(counts(&free, 5), [3, 2]);
        assert_eq!(counts(&free, 8), [4, 4]);
        assert_eq!(counts(&free, 99), [4, 4]);
        assert_eq!(counts(&free, 0), [0, 0]);
        let limited = [candidates(&a, 1, 0, 2), candidates(&b, 1, 1, 4)];
        assert_eq!(counts(&limited, 1), [0, 1]);
        assert_eq!(counts(&limited, 2), [1, 1]);
        assert_eq!(counts(&limited, 5), [2, 3]);
        // The first layer takes the tie, and a unit counts its size.
        let ties = [candidates(&[1.0; 3], 4, 0, 3), candidates(&[1.0; 3], 4, 0, 3)];
        assert_eq!(counts(&ties, 16), [3, 1]);
        assert_eq!(counts(&ties, 13), [3, 1]);
    }

    /// What [`counts`] does, one unit after the other.
    fn one_by_one(layers: &[Candidates<'_>], wanted: usize) -> Vec<usize> {
        let mut order: Vec<(usize, f32)> =
            layers.iter().enumerate().flat_map(|(i, l)| l.scores.iter().map(move |s| (i, *s))).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut found: Vec<usize> = layers.iter().map(|l| l.least).collect();
        let mut seen = vec![0; layers.len()];
        for (layer, _) in order {
            seen[layer] += 1;
            let total: usize = layers.iter().zip(&found).map(|(l, n)| l.size * n).sum();
            if total < wanted && seen[layer] > found[layer] && found[layer] < layers[layer].most {
                found[layer] += 1;
            }
        }
        found
    }

    proptest! {
        #[test]
        fn exactly_as_many_as_asked_and_never_a_lower_score(
            scores in prop::collection::vec((-4i8..4).prop_map(|v| f32::from(v) * 0.5), 1..200),
            share in 0.0f64..1.0,
        ) {
            let kept = kept_count(share, scores.len());
            let marks = highest(&scores, kept);
            prop_assert_eq!(marks.iter().filter(|m| **m).count(), kept);
            for (i, stays) in marks.iter().enumerate().filter(|(_, stays)| !**stays) {
                for (j, _) in marks.iter().enumerate().filter(|(_, stays)| **stays) {
                    prop_assert!(scores[j] > scores[i] || scores[j] == scores[i] && j < i, "{stays}");
                }
            }
        }

        #[test]
        fn across_layers_it_is_the_order_of_the_scores(
            layers in prop::collection::vec(
                (prop::collection::vec((0i8..6).prop_map(f32::from), 1..30), 0usize..3, 0usize..30), 1..5),
            share in 0.0f64..1.0,
        ) {
            let layers: Vec<Candidates<'_>> = layers.iter().map(|(scores, least, most)| {
                let most = (*most).clamp(1, scores.len());
                candidates(scores, 1, (*least).min(most), most)
            }).collect();
            let total: usize = layers.iter().map(|l| l.scores.len()).sum();
            let wanted = kept_count(share, total);
            let found = counts(&layers, wanted);
            prop_assert_eq!(&found, &one_by_one(&layers, wanted));
            let (least, most): (usize, usize) =
                (layers.iter().map(|l| l.least).sum(), layers.iter().map(|l| l.most).sum());
            prop_assert_eq!(found.iter().sum::<usize>(), wanted.clamp(least, most));
        }
    }
}
