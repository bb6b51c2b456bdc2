//! Which weights are removed together.

use briquette_core::{Problem, SparsePattern};
use burn::prelude::*;
use std::borrow::Cow;
use std::fmt;

use crate::axis::Along;
use crate::selection::highest;

/// A pattern as a recipe writes it, over the canonical view `[out, in]`.
///
/// | written | means |
/// |---|---|
/// | `unstructured` | each weight alone |
/// | `4x1` | blocks of 4 along `out` and 1 along `in` |
/// | `channelx1`, `1xchannel`, `channelx4`, `4xchannel` | blocks as long as the whole side: a column, a row, some of them |
/// | `2:4` | 2 of each 4 consecutive weights of a row stay |
///
/// A convolution's row is its filter with the kernel's positions innermost, `[in * kh * kw]`; neural_compressor puts
/// the input channels innermost, which is the same for blocks of one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Each weight alone.
    Unstructured,
    /// Blocks.
    Block {
        /// Along `out`.
        rows: Side,
        /// Along `in`.
        columns: Side,
    },
    /// The same number in each run of a row.
    RunOf {
        /// How many stay.
        kept: usize,
        /// Length of a run.
        of: usize,
    },
}

/// Length of a block along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This many.
    Number(usize),
    /// All.
    Channel,
}

impl Side {
    fn read(text: &str) -> Option<Self> {
        match text {
            "channel" => Some(Self::Channel),
            _ => text.parse().ok().filter(|n| *n > 0).map(Self::Number),
        }
    }

    fn of(self, size: usize) -> usize {
        match self {
            Self::Number(n) => n,
            Self::Channel => size,
        }
    }
}

impl Pattern {
    /// What a recipe may write, for messages.
    pub const EXPECTED: &'static str = "a pattern: unstructured, 4x1, channelx1, 1xchannel or 2:4";

    /// The pattern of a word; `None` where it is none.
    pub fn read(text: &str) -> Option<Self> {
        if text == "unstructured" {
            return Some(Self::Unstructured);
        }
        if let Some((kept, of)) = text.split_once(':') {
            let (kept, of) = (kept.parse().ok()?, of.parse().ok()?);
            return (0 < kept && kept < of).then_some(Self::RunOf { kept, of });
        }
        let (rows, columns) = text.split_once('x')?;
        let (rows, columns) = (Side::read(rows)?, Side::read(columns)?);
        ((rows, columns) != (Side::Channel, Side::Channel)).then_some(Self::Block { rows, columns })
    }

    /// The largest share of weights that it can remove.
    pub fn most(self) -> f64 {
        match self {
            Self::RunOf { kept, of } => 1.0 - kept as f64 / of as f64,
            _ => 1.0,
        }
    }

    /// The pattern on a weight of this shape `[out, in]`.
    ///
    /// # Errors
    /// When it does not divide the weight.
    pub fn on(self, shape: [usize; 2]) -> Result<Grid, Problem> {
        let [height, width] = shape;
        let divides = |what: &str, by: usize, size: usize| {
            let problem = || Problem::NotDivisible { what: what.into(), by, size };
            if by > 0 && size.is_multiple_of(by) { Ok(()) } else { Err(problem()) }
        };
        let pattern = match self {
            Self::Unstructured => SparsePattern::Unstructured,
            Self::Block { rows, columns } => {
                let (rows, columns) = (rows.of(height), columns.of(width));
                divides("rows of a block", rows, height)?;
                divides("columns of a block", columns, width)?;
                SparsePattern::Block { rows, columns }
            }
            Self::RunOf { kept, of } => {
                divides("columns of a run", of, width)?;
                SparsePattern::RunOf { kept, of }
            }
        };
        Ok(Grid { pattern, shape })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Channel => f.write_str("channel"),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unstructured => f.write_str("unstructured"),
            Self::Block { rows, columns } => write!(f, "{rows}x{columns}"),
            Self::RunOf { kept, of } => write!(f, "{kept}:{of}"),
        }
    }
}

/// A pattern on one weight `[out, in]`.
///
/// Weights have scores, one for each block or, for runs, one for each weight. What is kept or removed as a whole is a
/// unit: a block; of a run the weights with the lowest scores, so many that the pattern's number stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// With its numbers.
    pub pattern: SparsePattern,
    /// `[out, in]`.
    pub shape: [usize; 2],
}

impl Grid {
    fn block(&self) -> [usize; 2] {
        match self.pattern {
            SparsePattern::Block { rows, columns } => [rows, columns],
            _ => [1, 1],
        }
    }

    fn run(&self) -> Option<(usize, usize)> {
        match self.pattern {
            SparsePattern::RunOf { kept, of } => Some((kept, of)),
            _ => None,
        }
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether the weight holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape of the scores.
    pub fn scores(&self) -> [usize; 2] {
        let [rows, columns] = self.block();
        [self.shape[0] / rows, self.shape[1] / columns]
    }

    /// How many weights a unit removes.
    pub fn unit(&self) -> usize {
        let [rows, columns] = self.block();
        self.run().map_or(rows * columns, |(kept, of)| of - kept)
    }

    /// Number of units.
    pub fn units(&self) -> usize {
        let [rows, columns] = self.scores();
        rows * columns / self.run().map_or(1, |(_, of)| of)
    }

    /// Weights that stay whatever is chosen.
    pub fn fixed(&self) -> usize {
        self.len() - self.units() * self.unit()
    }

    /// How many units of one of `parts` equal parts have to stay so that `weights` weights of it do.
    pub fn units_in(&self, parts: usize, weights: usize) -> usize {
        let (fixed, units) = (self.fixed() / parts, self.units() / parts);
        weights.saturating_sub(fixed).div_ceil(self.unit().max(1)).min(units)
    }

    /// The mean of `values` `[out, in]` in each block, of the [scores'](Self::scores) shape.
    pub fn mean<B: Backend>(&self, values: Tensor<B, 2>) -> Tensor<B, 2> {
        let ([rows, columns], [high, wide]) = (self.block(), self.scores());
        if [rows, columns] == [1, 1] {
            return values;
        }
        values.reshape([high, rows, wide, columns]).mean_dim(3).mean_dim(1).reshape([high, wide])
    }

    /// What stands for each block, for each weight, `[out, in]`; gradients add up over the block.
    pub fn spread<B: Backend>(&self, scores: Tensor<B, 2>) -> Tensor<B, 2> {
        let ([rows, columns], [high, wide]) = (self.block(), self.scores());
        if [rows, columns] == [1, 1] {
            return scores;
        }
        let blocks: Tensor<B, 4> = scores.reshape([high, 1, wide, 1]).expand([high, rows, wide, columns]);
        blocks.reshape(self.shape)
    }

    /// A score for each unit: what removing it loses.
    pub fn unit_scores<'a>(&self, scores: &'a [f32]) -> Cow<'a, [f32]> {
        let Some((kept, of)) = self.run() else { return Cow::Borrowed(scores) };
        let loss = |run: &[f32]| {
            let stays = highest(run, kept);
            run.iter().zip(stays).filter(|(_, stays)| !stays).map(|(s, _)| s).sum()
        };
        Cow::Owned(scores.chunks(of).map(loss).collect())
    }

    /// 1 for what stays, 0 for what goes, at the scores' resolution. `whole` says which units stay.
    pub fn mask(&self, scores: &[f32], whole: &[bool]) -> Vec<f32> {
        let number = |stays: &bool| f32::from(u8::from(*stays));
        let Some((kept, of)) = self.run() else { return whole.iter().map(number).collect() };
        let run = |(run, whole): (&[f32], &bool)| {
            let stays = if *whole { vec![true; of] } else { highest(run, kept) };
            stays.iter().map(number).collect::<Vec<f32>>()
        };
        scores.chunks(of).zip(whole).flat_map(run).collect()
    }

    /// Whether units of these entries along one axis can be removed, whichever of them go.
    ///
    /// # Errors
    /// When one of them holds a part of a block or a run only.
    pub fn removes(&self, along: Along, units: &[Vec<usize>]) -> Result<(), Problem> {
        let (what, length) = match along {
            Along::Rows => ("rows", self.may_be_cut(0)),
            Along::Columns => ("columns", self.run().map_or(self.may_be_cut(1), |(_, of)| of)),
        };
        units.iter().try_for_each(|unit| whole(what, unit, length))
    }

    /// Length of what has to stay whole along an axis: of a block, if it is not as long as the whole side.
    fn may_be_cut(&self, axis: usize) -> usize {
        if self.block()[axis] == self.shape[axis] { 1 } else { self.block()[axis] }
    }

    /// The pattern on what is left when only these rows and columns stay, both ascending.
    ///
    /// # Errors
    /// When a block or a run is cut through.
    pub fn cut(&self, rows: &[usize], columns: &[usize]) -> Result<Self, Problem> {
        let block = self.block();
        let whole_side = |axis: usize| block[axis] == self.shape[axis];
        whole("rows", rows, self.may_be_cut(0))?;
        whole("columns", columns, self.run().map_or(self.may_be_cut(1), |(_, of)| of))?;
        // A block as long as a whole side goes on being one.
        let high = if whole_side(0) { rows.len() } else { block[0] };
        let wide = if whole_side(1) { columns.len() } else { block[1] };
        let pattern = match self.pattern {
            SparsePattern::Block { .. } => SparsePattern::Block { rows: high, columns: wide },
            other => other,
        };
        Ok(Self { pattern, shape: [rows.len(), columns.len()] })
    }
}

/// Whether `kept` consists of whole runs of `length`.
fn whole(what: &str, kept: &[usize], length: usize) -> Result<(), Problem> {
    let is_run = |run: &[usize]| {
        run.len() == length && run[0].is_multiple_of(length) && run[length - 1] == run[0] + length - 1
    };
    if length <= 1 || kept.chunks(length).all(is_run) {
        return Ok(());
    }
    let text = format!("removed {what} cut through the pattern's blocks of {length} {what}");
    Err(Problem::Conflict(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_core::host_floats;
    use burn::backend::Flex;

    fn grid(text: &str, shape: [usize; 2]) -> Grid {
        Pattern::read(text).expect("a pattern").on(shape).expect("it divides")
    }

    #[test]
    fn words() {
        for text in ["unstructured", "4x1", "1x4", "channelx1", "1xchannel", "channelx2", "3xchannel", "2:4"]
        {
            assert_eq!(Pattern::read(text).expect(text).to_string(), text);
        }
        for text in
            ["", "4", "x", "channelxchannel", "4:2", "2:2", "0:4", "0x1", "ax1", "4x", "2:4:8", "-1x1"]
        {
            assert_eq!(Pattern::read(text), None, "{text}");
        }
        assert_eq!(Pattern::RunOf { kept: 1, of: 4 }.most(), 0.75);
    }

    #[test]
    fn patterns_that_do_not_divide_are_refused() {
        let refused = |text: &str| match Pattern::read(text).expect(text).on([6, 10]) {
            Err(problem) => problem.to_string(),
            Ok(grid) => panic!("{grid:?}"),
        };
        assert_eq!(refused("4x1"), "4 rows of a block do not divide 6");
        assert_eq!(refused("3x4"), "4 columns of a block do not divide 10");
        assert_eq!(refused("2:4"), "4 columns of a run do not divide 10");
        for text in ["3x5", "channelx1", "1xchannel", "1:2", "channelx5"] {
            assert!(Pattern::read(text).expect(text).on([6, 10]).is_ok(), "{text}");
        }
    }

    #[test]
    fn blocks_are_averaged_and_spread() {
        let d = Default::default();
        let values = Tensor::<Flex, 1, Int>::arange(0..24, &d).float().reshape([4, 6]);
        let g = grid("2x3", [4, 6]);
        assert_eq!((g.scores(), g.unit(), g.units(), g.fixed()), ([2, 2], 6, 4, 0));
        let mean = g.mean(values.clone());
        assert_eq!(host_floats(mean.clone()), [4.0, 7.0, 16.0, 19.0]);
        let spread = host_floats(g.spread(mean));
        assert_eq!(&spread[..12], [4.0, 4.0, 4.0, 7.0, 7.0, 7.0, 4.0, 4.0, 4.0, 7.0, 7.0, 7.0]);
        let columns = grid("channelx1", [4, 6]);
        assert_eq!(host_floats(columns.mean(values.clone())), [9.0, 10.0, 11.0, 12.0, 13.0, 14.0]);
        let rows = grid("1xchannel", [4, 6]);
        assert_eq!(host_floats(rows.mean(values)), [2.5, 8.5, 14.5, 20.5]);
    }

    #[test]
    fn runs_keep_their_number_and_ties_the_first() {
        let g = grid("2:4", [1, 8]);
        let scores = [4.0, 1.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0];
        assert_eq!((g.unit(), g.units(), g.fixed(), g.units_in(1, 8)), (2, 2, 4, 2));
        assert_eq!(g.unit_scores(&scores).as_ref(), [3.0, 10.0]);
        assert_eq!(g.mask(&scores, &[false, false]), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(g.mask(&scores, &[false, true]), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn weights_that_stay_as_whole_units() {
        let g = grid("4x1", [8, 3]);
        let units: Vec<usize> = [0, 1, 4, 5, 24, 99].map(|n| g.units_in(1, n)).to_vec();
        assert_eq!(units, [0, 1, 1, 2, 6, 6]);
        assert_eq!([1, 5, 99].map(|n| g.units_in(2, n)), [1, 2, 3]);
        assert_eq!(grid("1:4", [2, 8]).units_in(2, 5), 1);
    }

    #[test]
    fn removed_rows_may_not_cut_through_blocks() {
        let g = grid("2x1", [6, 4]);
        let all = [0, 1, 2, 3];
        assert_eq!(g.cut(&[0, 1, 4, 5], &all).expect("whole").shape, [4, 4]);
        let text = "removed rows cut through the pattern's blocks of 2 rows";
        assert_eq!(g.cut(&[0, 1, 3, 4], &all), Err(Problem::Conflict(text.into())));
        assert!(g.cut(&[1, 2], &all).is_err());
        assert!(g.cut(&[0, 1, 2], &all).is_err());
        let g = grid("channelx1", [6, 4]);
        assert_eq!(
            g.cut(&[0, 3], &[1]).expect("a side").pattern,
            SparsePattern::Block { rows: 2, columns: 1 }
        );
        let g = grid("2:4", [2, 8]);
        assert!(g.cut(&[1], &[4, 5, 6, 7]).is_ok());
        assert!(g.cut(&[1], &[0, 5, 6, 7]).is_err());
    }
}
