//! How a sparse weight lies in memory while it is multiplied.

/// Columns of a block: their inputs, for 64 tokens, stay in the first-level cache.
pub(crate) const BLOCK: usize = 128;

/// A weight `[out, in]` as the entries that are not zero.
///
/// `height` neighbouring outputs, a strip, share their columns: an input that was loaded for one is there for all.
/// Entries stand in the order in which the product meets them: by block of columns, by strip, by column.
#[derive(Clone, PartialEq)]
pub(crate) struct SparseLayout {
    /// `[out, in]`.
    pub(crate) shape: [usize; 2],
    /// Outputs of a strip: 1, 2 or 4.
    pub(crate) height: usize,
    /// Where the entries of each strip of each block begin, `[blocks * strips + 1]`.
    pub(crate) starts: Vec<usize>,
    /// Column of each entry within its block.
    pub(crate) columns: Vec<u8>,
    /// `[entries, height]`; outputs beyond the last are zero.
    pub(crate) weights: Vec<f32>,
}

impl SparseLayout {
    /// Of `values: [out, in]`, row-major, in strips of `height`.
    pub(crate) fn new(values: &[f32], shape: [usize; 2], height: usize) -> Self {
        let [out, columns] = shape;
        assert_eq!(values.len(), out * columns, "values do not have the shape {shape:?}");
        let mut layout = Self { shape, height, starts: vec![0], columns: Vec::new(), weights: Vec::new() };
        for from in (0..columns).step_by(BLOCK) {
            for strip in 0..layout.strips() {
                layout.add(values, strip, from, (from + BLOCK).min(columns));
                layout.starts.push(layout.columns.len());
            }
        }
        layout
    }

    /// Adds the entries of one strip in the columns `from .. to`.
    fn add(&mut self, values: &[f32], strip: usize, from: usize, to: usize) {
        let [out, columns] = self.shape;
        let rows = strip * self.height..((strip + 1) * self.height).min(out);
        for column in from..to {
            if rows.clone().all(|row| values[row * columns + column] == 0.0) {
                continue;
            }
            self.columns.push((column - from) as u8);
            self.weights.extend(rows.clone().map(|row| values[row * columns + column]));
            self.weights.resize(self.columns.len() * self.height, 0.0);
        }
    }

    /// Entries of all strips.
    pub(crate) fn count(&self) -> usize {
        self.columns.len()
    }

    /// Strips of outputs.
    pub(crate) fn strips(&self) -> usize {
        self.shape[0].div_ceil(self.height)
    }

    /// Blocks of columns.
    pub(crate) fn blocks(&self) -> usize {
        self.shape[1].div_ceil(BLOCK)
    }

    /// Columns and weights of one strip's entries in one block.
    #[inline(always)]
    pub(crate) fn entries(&self, block: usize, strip: usize) -> (&[u8], &[f32]) {
        let at = block * self.strips() + strip;
        let (from, to) = (self.starts[at], self.starts[at + 1]);
        (&self.columns[from..to], &self.weights[from * self.height..to * self.height])
    }

    /// The weight `[out, in]` again, row-major.
    pub(crate) fn values(&self) -> Vec<f32> {
        let [out, columns] = self.shape;
        let mut values = vec![0.0; out * columns];
        for (block, strip) in (0..self.blocks()).flat_map(|b| (0..self.strips()).map(move |s| (b, s))) {
            let (at, weights) = self.entries(block, strip);
            for (column, weights) in at.iter().zip(weights.chunks_exact(self.height)) {
                let column = block * BLOCK + usize::from(*column);
                for (row, weight) in (strip * self.height..out).zip(weights) {
                    values[row * columns + column] = *weight;
                }
            }
        }
        values
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.columns) + size_of_val(&*self.weights)
    }
}

impl std::fmt::Debug for SparseLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [out, columns] = self.shape;
        write!(f, "{} entries in {out} x {columns}, {} rows each", self.count(), self.height)
    }
}

/// How many strips of `height` outputs have an entry in a column, over all columns: what [`SparseLayout::new`] would
/// hold.
pub(crate) fn entries_of(values: &[f32], [out, columns]: [usize; 2], height: usize) -> usize {
    let mut seen = vec![false; columns];
    let mut count = 0;
    for strip in 0..out.div_ceil(height) {
        seen.fill(false);
        for row in strip * height..((strip + 1) * height).min(out) {
            for (seen, value) in seen.iter_mut().zip(&values[row * columns..]) {
                *seen |= *value != 0.0;
            }
        }
        count += seen.iter().filter(|seen| **seen).count();
    }
    count
}
