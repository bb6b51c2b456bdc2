//! Generated sentences, and whether they speak well of something.
//!
//! A sentence is a row of word ids. Some words are kind, as many are unkind, most say nothing. `VERY`
//! doubles the weight of the word right after it, `NOT` turns its meaning round; both also stand before
//! words that say nothing. The label is the sign of the sum. Adding up single words gets 68 % right: a
//! model has to see which word follows which.

use burn::prelude::*;

/// First word of every sentence.
const START: i32 = 0;
/// Turns the meaning of the next word round.
const NOT: i32 = 1;
/// Doubles the weight of the next word.
const VERY: i32 = 2;
/// Ids from here on are kind words, then unkind ones, then words that say nothing.
const FIRST_WORD: i32 = 3;
/// Number of kind words, and of unkind ones.
const FEELING_WORDS: i32 = 40;
/// Number of word ids.
pub(crate) const VOCABULARY: usize = 512;
/// Number of words in a sentence, `START` included.
pub(crate) const LENGTH: usize = 20;

/// Sentences with their labels.
pub(crate) struct Sentences {
    /// Word ids, `LENGTH` for each sentence.
    ids: Vec<i32>,
    /// 1 for a sentence that speaks well, 0 for one that does not.
    labels: Vec<i32>,
}

/// Some sentences as tensors.
pub(crate) struct Batch<B: Backend> {
    /// Word ids, `[batch, LENGTH]`.
    pub(crate) ids: Tensor<B, 2, Int>,
    /// Labels, `[batch]`.
    pub(crate) labels: Tensor<B, 1, Int>,
}

impl Sentences {
    /// Writes `n` sentences; the same `seed` gives the same ones.
    pub(crate) fn generate(n: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut sentences = Self { ids: Vec::with_capacity(n * LENGTH), labels: Vec::with_capacity(n) };
        while sentences.len() < n {
            let (ids, score) = sentence(&mut random);
            // A sentence that is neither one nor the other has no label.
            if score != 0 {
                sentences.ids.extend(ids);
                sentences.labels.push(i32::from(score > 0));
            }
        }
        sentences
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The sentences with these numbers.
    pub(crate) fn batch<B: Backend>(&self, numbers: &[usize], device: &B::Device) -> Batch<B> {
        let ids = numbers.iter().flat_map(|n| self.ids[n * LENGTH..(n + 1) * LENGTH].iter().copied());
        let ids = TensorData::new(ids.collect(), [numbers.len(), LENGTH]);
        let labels = TensorData::new(numbers.iter().map(|n| self.labels[*n]).collect(), [numbers.len()]);
        Batch { ids: Tensor::from_data(ids, device), labels: Tensor::from_data(labels, device) }
    }
}

/// One sentence of `LENGTH` words, and the sum of what its words say.
fn sentence(random: &mut Random) -> (Vec<i32>, i32) {
    let mut ids = vec![START];
    let mut score = 0;
    while ids.len() < LENGTH {
        let room = LENGTH - ids.len() >= 2;
        let factor = match random.below(3) {
            0 if room => modifier(NOT, -1, &mut ids),
            1 if room => modifier(VERY, 2, &mut ids),
            _ => 1,
        };
        let (word, value) = word(random);
        ids.push(word);
        score += factor * value;
    }
    (ids, score)
}

/// Adds a word that changes the next one, and says by which factor.
fn modifier(word: i32, factor: i32, ids: &mut Vec<i32>) -> i32 {
    ids.push(word);
    factor
}

/// A word and what it says: two of five have a feeling.
fn word(random: &mut Random) -> (i32, i32) {
    let feeling = |random: &mut Random| random.below(FEELING_WORDS as u64) as i32;
    match random.below(5) {
        0 => (FIRST_WORD + feeling(random), 1),
        1 => (FIRST_WORD + FEELING_WORDS + feeling(random), -1),
        _ => {
            let first = FIRST_WORD + 2 * FEELING_WORDS;
            (first + random.below(VOCABULARY as u64 - first as u64) as i32, 0)
        }
    }
}

/// SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195): small, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number in `0..n`. The bias of the remainder does not matter for an `n` this small.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    /// The numbers `0..n` in random order (Fisher and Yates).
    pub(crate) fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }
}
