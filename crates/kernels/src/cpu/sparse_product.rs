//! The product of floats with a sparse weight, on slices.
//!
//! Inputs are transposed into panels `[in, tokens]` of a few vectors of tokens. Then one entry of the weight multiplies
//! a whole run of tokens that lie side by side, and zeros cost nothing. Panels and runs of outputs are computed in
//! parallel; the order of a sum depends on the weight and the number of rows alone.
#![expect(
    unsafe_code,
    reason = "vectors over panels whose bounds were checked, and disjoint parts of one output"
)]

use super::lines::Scratch;
use super::parallel;
#[cfg(target_arch = "x86_64")]
use super::sparse_lanes::{Avx2, Avx512};
use super::sparse_lanes::{Lanes, Portable};
use super::sparse_transpose::{ReadAt, WriteAt, transpose_plain};
#[cfg(target_arch = "x86_64")]
use super::sparse_transpose::{transpose_avx2, transpose_avx512};
use crate::sparse_layout::{BLOCK, SparseLayout};
use std::ops::Range;

/// Sums of a task, in floats: they stay in the first-level cache beside a block of inputs.
const TASK_SUMS: usize = 6 << 10;

/// Floats of a panel that stay in the first-level cache.
const CACHED: usize = 8 << 10;

/// Multiply-adds that take as long as an element of other work.
const COST: usize = 4;

/// The instructions that a product uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// What every machine has.
    Portable,
    /// 256 bits with fused multiply-adds.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Vectors {
    /// What this machine has, the best last.
    pub(crate) fn here() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f");
            let found = [(true, Self::Portable), (avx2, Self::Avx2), (avx512, Self::Avx512)];
            found.into_iter().filter_map(|(is_here, vectors)| is_here.then_some(vectors)).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![Self::Portable]
    }

    /// The best of this machine.
    pub(crate) fn best() -> Self {
        static BEST: std::sync::OnceLock<Vectors> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::here().pop().unwrap_or(Self::Portable))
    }

    fn lanes(self) -> usize {
        match self {
            Self::Portable => Portable::COUNT,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::COUNT,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::COUNT,
        }
    }

    /// Most vectors of tokens in a panel: their sums, for a strip, fit the registers.
    fn most(self, height: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 4,
            _ => [4, 4, 2][height.ilog2() as usize],
        }
    }
}

/// `x w^T + bias` -> `[rows, out]`, with `x: [rows, in]` and `bias: [out]` or empty.
///
/// # Panics
/// When a length does not fit.
pub(crate) fn product(x: &[f32], w: &SparseLayout, bias: &[f32], vectors: Vectors) -> Vec<f32> {
    let [out, columns] = w.shape;
    let rows = x.len().checked_div(columns).unwrap_or(0);
    assert_eq!(x.len(), rows * columns, "an input for a weight of shape {:?}", w.shape);
    assert!(bias.is_empty() || bias.len() == out, "a bias of {} for {out} outputs", bias.len());
    let panels = Panels::new(x, rows, columns, vectors, vectors.most(w.height));
    let mut y = Vec::with_capacity(rows * out);
    let tasks = Tasks { w, bias, panels: &panels, vectors, y: Output(y.as_mut_ptr()) };
    let all = tasks.list();
    parallel::blocks(all.len(), w.weights.len() * rows / COST, |task| tasks.run(all[task]));
    // SAFETY: the tasks are all panels, which are all rows, times all strips, which are all outputs.
    unsafe { y.set_len(rows * out) };
    y
}

/// Inputs as panels `[in, vectors * lanes]`; lanes beyond the last token are zero.
struct Panels {
    data: Scratch<f32>,
    /// First token, tokens, vectors and place in `data` of each.
    list: Vec<Panel>,
}

#[derive(Clone, Copy)]
struct Panel {
    token: usize,
    tokens: usize,
    vectors: usize,
    at: usize,
}

impl Panels {
    fn new(x: &[f32], rows: usize, columns: usize, kind: Vectors, most: usize) -> Self {
        let lanes = kind.lanes();
        let mut left = rows.div_ceil(lanes);
        let mut list = Vec::new();
        let (mut token, mut at) = (0, 0);
        for panels in (1..=left.div_ceil(most)).rev() {
            let vectors = left.div_ceil(panels);
            let tokens = (vectors * lanes).min(rows - token);
            list.push(Panel { token, tokens, vectors, at });
            left -= vectors;
            token += tokens;
            at += vectors * lanes * columns;
        }
        let mut data = Scratch::new(at);
        let to = Output(data.as_mut_ptr());
        let pieces: Vec<(Panel, usize)> =
            list.iter().flat_map(|p| (0..columns).step_by(BLOCK).map(|c| (*p, c))).collect();
        let fill = |(panel, from): &(Panel, usize)| {
            let width = panel.vectors * lanes;
            let count = BLOCK.min(columns - from);
            // SAFETY: the rows of `x` and the columns of `data` that belong to this piece, which no other has.
            unsafe {
                let from_x = ReadAt { at: x.as_ptr().add(panel.token * columns + from), stride: columns };
                let to_panel = WriteAt { at: to.at(panel.at + from * width), stride: width };
                transpose(from_x, to_panel, panel.tokens, count, kind);
                for column in 0..count * usize::from(panel.tokens < width) {
                    let at = to_panel.at.add(column * width + panel.tokens);
                    std::slice::from_raw_parts_mut(at, width - panel.tokens).fill(0.0);
                }
            }
        };
        parallel::blocks(pieces.len(), rows * columns, |piece| fill(&pieces[piece]));
        Self { data, list }
    }
}

/// Memory of which each task writes a part of its own.
struct Output(*mut f32);

// SAFETY: tasks write to parts that do not overlap; see `Tasks::run` and `Panels::new`.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    /// `offset` must be within the memory.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's word.
        unsafe { self.0.add(offset) }
    }
}

/// # Safety
/// As [`transpose_plain`]; the machine must have `kind`.
unsafe fn transpose(from: ReadAt, to: WriteAt, rows: usize, columns: usize, kind: Vectors) {
    // SAFETY: the caller's word.
    unsafe {
        match kind {
            Vectors::Portable => transpose_plain(from, to, rows, columns),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => transpose_avx2(from, to, rows, columns),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => transpose_avx512(from, to, rows, columns),
        }
    }
}

/// One panel and strips `from .. to`.
#[derive(Clone, Copy)]
struct Task {
    panel: Panel,
    from: usize,
    to: usize,
}

struct Tasks<'a> {
    w: &'a SparseLayout,
    bias: &'a [f32],
    panels: &'a Panels,
    vectors: Vectors,
    y: Output,
}

impl Tasks<'_> {
    fn list(&self) -> Vec<Task> {
        let mut list = Vec::new();
        let strips = self.w.strips();
        for panel in &self.panels.list {
            let width = panel.vectors * self.vectors.lanes();
            let most = (TASK_SUMS / (width * self.w.height)).max(1);
            let fair = strips.div_ceil(2 * rayon::current_num_threads()).max(8);
            let step = most.min(fair);
            list.extend((0..strips).step_by(step).map(|from| Task {
                panel: *panel,
                from,
                to: (from + step).min(strips),
            }));
        }
        list
    }

    fn run(&self, task: Task) {
        match self.vectors {
            // SAFETY: every machine has these.
            Vectors::Portable => unsafe { self.of_width::<Portable>(task) },
            // SAFETY: `Vectors::here` found them.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => unsafe { self.avx2(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => unsafe { self.avx512(task) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self, task: Task) {
        // SAFETY: the features are those of the vector.
        unsafe { self.of_width::<Avx2>(task) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f")]
    unsafe fn avx512(&self, task: Task) {
        // SAFETY: the features are those of the vector.
        unsafe { self.of_width::<Avx512>(task) }
    }

    /// Picks the body for the strip's height and the panel's width. The last number is how many sums one entry after
    /// the other is added to in turn: at least eight at work hide the latency of an addition.
    ///
    /// # Safety
    /// The machine must have the vector's instructions.
    #[inline(always)]
    unsafe fn of_width<L: Lanes>(&self, task: Task) {
        // SAFETY: the caller's word; `run_as` gets the task's own height and vectors.
        unsafe {
            match (self.w.height, task.panel.vectors) {
                (1, 1) => self.run_as::<L, 1, 1, 8>(task),
                (1, 2) => self.run_as::<L, 1, 2, 4>(task),
                (1, 3) => self.run_as::<L, 1, 3, 3>(task),
                (1, 4) => self.run_as::<L, 1, 4, 2>(task),
                (2, 1) => self.run_as::<L, 2, 1, 4>(task),
                (2, 2) => self.run_as::<L, 2, 2, 2>(task),
                (2, 3) => self.run_as::<L, 2, 3, 2>(task),
                (2, 4) => self.run_as::<L, 2, 4, 1>(task),
                (4, 1) => self.run_as::<L, 4, 1, 2>(task),
                (4, 2) => self.run_as::<L, 4, 2, 1>(task),
                (4, 3) => self.run_as::<L, 4, 3, 1>(task),
                (4, 4) => self.run_as::<L, 4, 4, 1>(task),
                (height, vectors) => unreachable!("strips of {height}, panels of {vectors} vectors"),
            }
        }
    }

    /// # Safety
    /// The machine must have the vector's instructions; `H` and `V` must be the strips' height and the panel's vectors.
    #[inline(always)]
    unsafe fn run_as<L: Lanes, const H: usize, const V: usize, const S: usize>(&self, task: Task) {
        let [out, columns] = self.w.shape;
        let width = V * L::COUNT;
        let (first, strips) = (task.from * H, task.to - task.from);
        let mut scratch = Scratch::new(strips * H * width);
        let sums: &mut [f32] = &mut scratch;
        for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
            sums.fill(self.bias.get(first + row).copied().unwrap_or(0.0));
        }
        let panel = &self.panels.data[task.panel.at..][..columns * width];
        // A panel that stays in the cache as a whole is gone through once for each strip, whose sums then stay in
        // registers.
        let step = if panel.len() <= CACHED { self.w.blocks() } else { 1 };
        for from in (0..self.w.blocks()).step_by(step) {
            let blocks = from..(from + step).min(self.w.blocks());
            for (strip, sums) in sums.chunks_exact_mut(H * width).enumerate() {
                // SAFETY: the layout's columns lie within their block; the panel and the sums have the lengths that
                // `H` and `V` say.
                unsafe { add::<L, H, V, S>(self.w, task.from + strip, blocks.clone(), panel, sums) };
            }
        }
        let rows = (strips * H).min(out - first);
        // SAFETY: `sums` has at least `rows` rows; no other task has these tokens and outputs of `y`.
        unsafe {
            let to = WriteAt { at: self.y.at(task.panel.token * out + first), stride: out };
            let from = ReadAt { at: sums.as_ptr(), stride: width };
            transpose(from, to, rows, task.panel.tokens, self.vectors);
        }
    }
}

/// Adds the products of one strip's entries in some blocks.
///
/// # Safety
/// The machine must have the vector's instructions; `panel` must hold `V` vectors for each column, `sums` `H` x `V`
/// vectors.
#[expect(clippy::needless_range_loop, reason = "sums that an iterator walks through leave their registers")]
#[inline(always)]
unsafe fn add<L: Lanes, const H: usize, const V: usize, const S: usize>(
    w: &SparseLayout,
    strip: usize,
    blocks: Range<usize>,
    panel: &[f32],
    sums: &mut [f32],
) {
    // SAFETY: the caller's word.
    unsafe {
        let mut turns = [[[L::splat(0.0); V]; H]; S];
        for h in 0..H {
            for v in 0..V {
                turns[0][h][v] = L::load(sums.as_ptr().add((h * V + v) * L::COUNT));
            }
        }
        for block in blocks {
            let (columns, weights) = w.entries(block, strip);
            add_block(&mut turns, columns, weights, panel.as_ptr().add(block * BLOCK * V * L::COUNT));
        }
        for h in 0..H {
            for v in 0..V {
                let mut sum = turns[0][h][v];
                for turn in turns.iter().skip(1) {
                    sum = sum.plus(turn[h][v]);
                }
                sum.store(sums.as_mut_ptr().add((h * V + v) * L::COUNT));
            }
        }
    }
}

/// Adds the products of one strip's entries in one block, whose inputs begin at `inputs`.
///
/// # Safety
/// As [`add`].
#[inline(always)]
unsafe fn add_block<L: Lanes, const H: usize, const V: usize, const S: usize>(
    turns: &mut [[[L; V]; H]; S],
    columns: &[u8],
    weights: &[f32],
    inputs: *const f32,
) {
    // SAFETY: the caller's word.
    unsafe {
        let (eights, rest) = columns.as_chunks::<8>();
        let mut weight = weights.as_ptr();
        for eight in eights {
            // One load for eight columns: loads are what the product waits for.
            let eight = u64::from_le_bytes(*eight);
            for i in 0..8 {
                let column = (eight >> (8 * i)) as usize & 0xFF;
                add_entry(&mut turns[i % S], weight.add(i * H), inputs.add(column * V * L::COUNT));
            }
            weight = weight.add(8 * H);
        }
        // Written so that each turn is a register: no index that is known at run time only.
        for i in 0..7 {
            let Some(column) = rest.get(i) else { break };
            add_entry(&mut turns[i % S], weight.add(i * H), inputs.add(usize::from(*column) * V * L::COUNT));
        }
    }
}

/// Adds the products of one entry.
///
/// # Safety
/// As [`add`].
#[inline(always)]
unsafe fn add_entry<L: Lanes, const H: usize, const V: usize>(
    sums: &mut [[L; V]; H],
    weights: *const f32,
    inputs: *const f32,
) {
    // SAFETY: the caller's word.
    unsafe {
        let mut x = [L::splat(0.0); V];
        for (v, x) in x.iter_mut().enumerate() {
            *x = L::load(inputs.add(v * L::COUNT));
        }
        for (h, sums) in sums.iter_mut().enumerate() {
            let weight = L::splat(*weights.add(h));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = sum.plus_product(weight, x);
            }
        }
    }
}
