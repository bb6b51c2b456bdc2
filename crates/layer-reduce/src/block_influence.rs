//! How much each block changes what passes through it.

use briquette_core::{host_floats, stop};
use burn::prelude::*;
use burn::tensor::FloatDType;

/// Why an influence cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InfluenceError {
    /// Fewer than two hidden states: there is no block between them.
    #[error("{found} hidden states; the embeddings' and at least one block's are needed")]
    NoBlocks {
        /// How many were given.
        found: usize,
    },
    /// Another number of blocks than before.
    #[error("hidden states of {found} blocks, of {expected} before")]
    Blocks {
        /// In the earlier batches.
        expected: usize,
        /// In this batch.
        found: usize,
    },
    /// A block whose output has another shape than its input: the two have no angle.
    #[error("block {block} makes {after:?} of {before:?}; influence is told only where shapes stay")]
    Shape {
        /// Number of the block.
        block: usize,
        /// `[batch, seq, width]` of what enters it.
        before: [usize; 3],
        /// `[batch, seq, width]` of what leaves it.
        after: [usize; 3],
    },
    /// A mask of other tokens.
    #[error("a mask of {found:?} for {expected:?} tokens")]
    Mask {
        /// `[batch, seq]` of the hidden states.
        expected: [usize; 2],
        /// Of the mask.
        found: [usize; 2],
    },
    /// Hidden states that are infinite or not numbers.
    #[error("what enters or leaves block {block} is infinite or not a number")]
    NotFinite {
        /// Number of the block.
        block: usize,
    },
    /// Nothing was observed.
    #[error("no token was observed")]
    NoData,
    /// More blocks are to be kept than there are.
    #[error("{count} blocks are to be kept, there are {blocks}")]
    TooMany {
        /// To be kept.
        count: usize,
        /// There are.
        blocks: usize,
    },
}

/// Smaller products of norms count as this one: a token of zeros is at a right angle to any other.
const SMALLEST_NORM: f64 = 1e-12;

/// Block influence, Men et al. 2024, "ShortGPT" (arXiv 2403.03853), equation 1, over any number of batches:
/// `BI_i = 1 - mean over tokens of cos(x_i, x_{i+1})` with `x_i` what enters block `i` and `x_{i+1}` what leaves it.
///
/// Unlike there, padding tokens can be left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockInfluence {
    sums: Vec<f64>,
    tokens: f64,
}

impl BlockInfluence {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the hidden states of one batch: what enters the first block, then what leaves each, all
    /// `[batch, seq, width]`. `mask: [batch, seq]` is 0 for padding, `None` for no padding.
    ///
    /// Reads one small tensor back from the device.
    ///
    /// # Errors
    /// When there is no block, or shapes do not fit, or values are not finite; nothing was taken in then.
    pub fn observe<B: Backend>(
        &mut self,
        hidden: &[Tensor<B, 3>],
        mask: Option<&Tensor<B, 2, Int>>,
    ) -> Result<(), InfluenceError> {
        self.check(hidden, mask)?;
        let [batch, seq, width] = hidden[0].dims();
        if batch * seq * width == 0 {
            return Ok(());
        }
        let padding = mask.map(|mask| mask.clone().equal_elem(0));
        let per_text = |tokens: Tensor<B, 2>| {
            let tokens = match &padding {
                Some(padding) => tokens.mask_fill(padding.clone(), 0.0),
                None => tokens,
            };
            tokens.sum_dim(1).reshape([batch])
        };
        let all = Tensor::ones([batch, seq], &hidden[0].device());
        let mut sums = vec![per_text(all)];
        sums.extend(hidden.windows(2).map(|pair| per_text(one_minus_cosine(&pair[0], &pair[1]))));
        let sums = host_floats(Tensor::cat(sums, 0));
        // Added up in double precision over texts and batches.
        let sum = |texts: &[f32]| texts.iter().copied().map(f64::from).sum::<f64>();
        let (tokens, blocks) = sums.split_at(batch);
        let blocks: Vec<f64> = blocks.chunks(batch).map(sum).collect();
        if let Some(block) = blocks.iter().position(|sum| !sum.is_finite()) {
            return Err(InfluenceError::NotFinite { block });
        }
        self.sums.resize(blocks.len(), 0.0);
        self.sums.iter_mut().zip(blocks).for_each(|(sum, more)| *sum += more);
        self.tokens += sum(tokens);
        Ok(())
    }

    fn check<B: Backend>(
        &self,
        hidden: &[Tensor<B, 3>],
        mask: Option<&Tensor<B, 2, Int>>,
    ) -> Result<(), InfluenceError> {
        let blocks = hidden.len().saturating_sub(1);
        if blocks == 0 {
            return Err(InfluenceError::NoBlocks { found: hidden.len() });
        }
        if !self.sums.is_empty() && self.sums.len() != blocks {
            return Err(InfluenceError::Blocks { expected: self.sums.len(), found: blocks });
        }
        let shapes = hidden.windows(2).map(|pair| (pair[0].dims(), pair[1].dims())).enumerate();
        for (block, (before, after)) in shapes {
            if before != after {
                return Err(InfluenceError::Shape { block, before, after });
            }
        }
        let [batch, seq, _] = hidden[0].dims();
        match mask.map(|mask| mask.dims()) {
            Some(found) if found != [batch, seq] => {
                Err(InfluenceError::Mask { expected: [batch, seq], found })
            }
            _ => Ok(()),
        }
    }

    /// The influence of each block: 0 for one that only scales its input, up to 2.
    ///
    /// # Errors
    /// When no token was observed.
    pub fn scores(&self) -> Result<Vec<f64>, InfluenceError> {
        if self.tokens == 0.0 {
            return Err(InfluenceError::NoData);
        }
        Ok(self.sums.iter().map(|sum| sum / self.tokens).collect())
    }

    /// The `count` blocks of greatest influence, in their order in the model. Of equal ones the earlier stays.
    ///
    /// # Errors
    /// When no token was observed, or there are fewer blocks.
    pub fn most_influential(&self, count: usize) -> Result<Vec<usize>, InfluenceError> {
        let scores = self.scores()?;
        if count > scores.len() {
            return Err(InfluenceError::TooMany { count, blocks: scores.len() });
        }
        let mut blocks: Vec<usize> = (0..scores.len()).collect();
        // Stable, so that equal ones stay in order.
        blocks.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        blocks.truncate(count);
        blocks.sort_unstable();
        Ok(blocks)
    }
}

/// `1 - cos` of each token, `[batch, seq]`, in 32 bits whatever the states have.
fn one_minus_cosine<B: Backend>(before: &Tensor<B, 3>, after: &Tensor<B, 3>) -> Tensor<B, 2> {
    let [batch, seq, _] = before.dims();
    let wide = |x: &Tensor<B, 3>| stop(x.clone()).cast(FloatDType::F32);
    let (x, y) = (wide(before), wide(after));
    let norm = |x: Tensor<B, 3>| x.square().sum_dim(2).sqrt();
    let norms = (norm(x.clone()) * norm(y.clone())).clamp_min(SMALLEST_NORM);
    let cosine = (x * y).sum_dim(2) / norms;
    cosine.reshape([batch, seq]).mul_scalar(-1.0).add_scalar(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};

    fn states<B: Backend>(data: [[[f32; 2]; 2]; 2]) -> Tensor<B, 3> {
        Tensor::from_data(data, &Default::default())
    }

    /// Two texts of two tokens: as they are, doubled, the first turned by 90 degrees, the second text's reversed.
    fn hidden<B: Backend>() -> Vec<Tensor<B, 3>> {
        vec![
            states([[[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [1.0, 1.0]]]),
            states([[[2.0, 0.0], [6.0, 8.0]], [[0.0, 4.0], [2.0, 2.0]]]),
            states([[[0.0, 7.0], [6.0, 8.0]], [[0.0, 4.0], [2.0, 2.0]]]),
            states([[[0.0, 7.0], [6.0, 8.0]], [[0.0, -1.0], [-2.0, -2.0]]]),
        ]
    }

    fn mask(data: [[i32; 2]; 2]) -> Tensor<Flex, 2, Int> {
        Tensor::from_data(data, &Default::default())
    }

    fn close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        found.iter().zip(wanted).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{found:?}"));
    }

    #[test]
    fn the_formula_on_numbers_worked_out_by_hand() {
        let mut influence = BlockInfluence::new();
        influence.observe(&hidden::<Flex>(), None).expect("good states");
        // One of four tokens at a right angle; two of four reversed.
        close(&influence.scores().expect("data"), &[0.0, 0.25, 1.0]);
        assert_eq!(influence.most_influential(1), Ok(vec![2]));
        assert_eq!(influence.most_influential(2), Ok(vec![1, 2]));
        assert_eq!(influence.most_influential(3), Ok(vec![0, 1, 2]));
        let mut on_graph = BlockInfluence::new();
        on_graph.observe(&hidden::<Autodiff<Flex>>(), None).expect("good states");
        assert_eq!(on_graph, influence);
    }

    #[test]
    fn padding_does_not_count() {
        let mut influence = BlockInfluence::new();
        influence.observe(&hidden::<Flex>(), Some(&mask([[0, 1], [1, 1]]))).expect("good states");
        close(&influence.scores().expect("data"), &[0.0, 0.0, 4.0 / 3.0]);
        let mut broken = hidden::<Flex>();
        broken[1] = states([[[f32::NAN, 0.0], [6.0, 8.0]], [[0.0, 4.0], [2.0, 2.0]]]);
        let mut padded = BlockInfluence::new();
        padded.observe(&broken, Some(&mask([[0, 1], [1, 1]]))).expect("only padding is broken");
        let found = padded.observe(&broken, None);
        assert_eq!(found, Err(InfluenceError::NotFinite { block: 0 }));
        close(&padded.scores().expect("data"), &[0.0, 0.0, 4.0 / 3.0]);
    }

    #[test]
    fn batches_count_by_their_tokens() {
        let mut influence = BlockInfluence::new();
        influence.observe(&hidden::<Flex>(), None).expect("good states");
        influence.observe(&hidden::<Flex>(), Some(&mask([[1, 0], [0, 0]]))).expect("good states");
        close(&influence.scores().expect("data"), &[0.0, 2.0 / 5.0, 4.0 / 5.0]);
    }

    #[test]
    fn zeros_and_ties_give_finite_scores_and_the_earlier_block() {
        let zeros = vec![states::<Flex>([[[0.0; 2]; 2]; 2]); 4];
        let mut influence = BlockInfluence::new();
        influence.observe(&zeros, None).expect("finite");
        close(&influence.scores().expect("data"), &[1.0, 1.0, 1.0]);
        assert_eq!(influence.most_influential(2), Ok(vec![0, 1]));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_no_trace() {
        let mut influence = BlockInfluence::new();
        assert_eq!(influence.scores(), Err(InfluenceError::NoData));
        let found = influence.observe(&hidden::<Flex>()[..1], None);
        assert_eq!(found, Err(InfluenceError::NoBlocks { found: 1 }));
        influence.observe(&hidden::<Flex>(), None).expect("good states");
        let before = influence.clone();
        let found = influence.observe(&hidden::<Flex>()[..3], None);
        assert_eq!(found, Err(InfluenceError::Blocks { expected: 3, found: 2 }));
        let mut narrow = hidden::<Flex>();
        narrow[2] = narrow[2].clone().slice([0..2, 0..2, 0..1]);
        let shape = InfluenceError::Shape { block: 1, before: [2, 2, 2], after: [2, 2, 1] };
        assert_eq!(influence.observe(&narrow, None), Err(shape));
        let wide = mask([[1, 1], [1, 1]]).repeat_dim(1, 2);
        let found = influence.observe(&hidden::<Flex>(), Some(&wide));
        assert_eq!(found, Err(InfluenceError::Mask { expected: [2, 2], found: [2, 4] }));
        assert_eq!(influence, before);
        let found = influence.most_influential(4);
        assert_eq!(found, Err(InfluenceError::TooMany { count: 4, blocks: 3 }));
    }
}
