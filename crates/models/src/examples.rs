//! Data ready for a model, and batches of it.

use crate::data::{self, Data, DataError, RECORD_BYTES};
use crate::error::ModelError;
use crate::task::{Batch, IMAGE_SIDE, Inputs, Task};
use crate::tokens::Tokens;
use burn::prelude::*;
use std::path::Path;

/// Share of a batch that may be padding before a new batch is begun.
const MAX_PADDING: f64 = 0.125;

/// Batches of which a training pass sorts the texts by length at a time: enough that little is padded, few
/// enough that batches stay random.
const SORTED_TOGETHER: usize = 50;

/// The examples of a data file: texts, windows of a text, or images.
#[derive(Debug, Clone)]
pub struct Examples {
    kind: Kind,
    // Batches of texts are padded to a multiple of this many tokens.
    multiple: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Texts { ids: Vec<Vec<u32>>, labels: Vec<usize>, pad: u32, most: usize },
    Windows { ids: Vec<u32>, window: usize },
    Images { records: Vec<u8>, mean: [f32; 3], std: [f32; 3] },
}

impl Examples {
    /// Reads a data file for a model that does `task`; `folder` is the model's, for its tokenizer.
    ///
    /// # Errors
    /// When the file is malformed, empty or of another kind than the task's, or the tokenizer cannot be used.
    pub fn read(file: impl AsRef<Path>, task: &Task, folder: impl AsRef<Path>) -> Result<Self, ModelError> {
        let file = file.as_ref();
        let data = data::read(file, task)?;
        let kind = match (data, task) {
            (Data::Sentences(rows), Task::Classification { vocabulary, max_tokens, pad, .. }) => {
                let (texts, labels): (Vec<String>, Vec<usize>) = rows.into_iter().unzip();
                let ids = Tokens::from_dir(folder, *vocabulary)?.encode_each(&texts, *max_tokens)?;
                if let Some(example) = ids.iter().position(Vec::is_empty) {
                    let reason = "the tokenizer makes no token of the sentence".into();
                    // The header is line 1, and `position` counts from 0.
                    return Err(DataError::Line { file: file.into(), line: example + 2, reason }.into());
                }
                Kind::Texts { ids, labels, pad: *pad, most: *max_tokens }
            }
            (Data::Text(text), Task::LanguageModel { vocabulary, window }) => {
                let (ids, window) = (Tokens::from_dir(folder, *vocabulary)?.encode_lines(&text)?, *window);
                if ids.len() <= window {
                    return Err(DataError::Short { file: file.into(), tokens: ids.len(), window }.into());
                }
                Kind::Windows { ids, window }
            }
            (Data::Records(records), Task::Vision { mean, std, .. }) => {
                Kind::Images { records, mean: *mean, std: *std }
            }
            _ => unreachable!("`data::read` gives what goes with the task"),
        };
        Ok(kind.into())
    }

    /// `count` texts or windows of random tokens, each as likely as any other, for what needs no real text. Windows
    /// are as long as the model's; texts have `length` tokens, or as many as the model takes.
    ///
    /// # Errors
    /// When the model reads images.
    pub fn random(task: &Task, count: usize, length: usize, seed: u64) -> Result<Self, ModelError> {
        let mut random = SplitMix(seed);
        let mut tokens = |n: usize, vocabulary: usize| -> Vec<u32> {
            (0..n).map(|_| (random.next() % vocabulary.max(1) as u64) as u32).collect()
        };
        let kind = match task {
            Task::Classification { vocabulary, max_tokens, pad, .. } => {
                let ids = (0..count).map(|_| tokens(length.clamp(1, *max_tokens), *vocabulary)).collect();
                Kind::Texts { ids, labels: vec![0; count], pad: *pad, most: *max_tokens }
            }
            Task::LanguageModel { vocabulary, window } => {
                Kind::Windows { ids: tokens(count * window + 1, *vocabulary), window: *window }
            }
            Task::Vision { .. } => {
                return Err(ModelError::Batch("random tokens for a model of images".into()));
            }
        };
        Ok(kind.into())
    }

    /// The same with batches of texts padded to a multiple of `multiple` tokens, as far as the model takes them: a
    /// GPU compiles its kernels for each shape anew, and padding is masked.
    #[must_use]
    pub fn in_multiples_of(self, multiple: usize) -> Self {
        Self { multiple: multiple.max(1), ..self }
    }

    /// The same with texts cut to `tokens` tokens. Windows and images stay as they are.
    #[must_use]
    pub fn cut_to(mut self, tokens: usize) -> Self {
        if let Kind::Texts { ids, .. } = &mut self.kind {
            ids.iter_mut().for_each(|ids| ids.truncate(tokens.max(1)));
        }
        self
    }

    /// The first `count` examples, all where there are fewer.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        let count = count.max(1);
        match &mut self.kind {
            Kind::Texts { ids, labels, .. } => {
                ids.truncate(count);
                labels.truncate(count);
            }
            Kind::Windows { ids, window } => ids.truncate(count * *window + 1),
            Kind::Images { records, .. } => records.truncate(count * RECORD_BYTES),
        }
        self
    }

    /// Number of texts, windows or images.
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Texts { ids, .. } => ids.len(),
            // The last target of a window is the token after it.
            Kind::Windows { ids, window } => (ids.len() - 1) / window,
            Kind::Images { records, .. } => records.len() / RECORD_BYTES,
        }
    }

    /// Whether there are none; a file without examples is an error, so that there are some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of an example; 1 for an image.
    fn tokens(&self, example: usize) -> usize {
        match &self.kind {
            Kind::Texts { ids, .. } => ids[example].len().next_multiple_of(self.multiple),
            Kind::Windows { window, .. } => *window,
            Kind::Images { .. } => 1,
        }
    }

    /// All examples once, for measurement: at most `batch` at a time, the shortest first, so that little is padded.
    pub fn by_length(&self, batch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|example| self.tokens(*example));
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let mut tokens = 0;
        for example in order {
            let own = self.tokens(example);
            let count = batches.last().map_or(0, Vec::len);
            let padded = own * (count + 1);
            let padding = 1.0 - (tokens + own) as f64 / padded as f64;
            match batches.last_mut() {
                Some(last) if count < batch && padding <= MAX_PADDING => {
                    last.push(example);
                    tokens += own;
                }
                _ => {
                    batches.push(vec![example]);
                    tokens = own;
                }
            }
        }
        batches
    }

    /// All examples once, for training: at most `batch` at a time, in an order that `seed` decides. Texts of about
    /// the same length go together.
    pub fn shuffled(&self, batch: usize, seed: u64) -> Vec<Vec<usize>> {
        let (batch, mut random) = (batch.max(1), SplitMix(seed));
        let mut order: Vec<usize> = (0..self.len()).collect();
        random.shuffle(&mut order);
        for part in order.chunks_mut(batch * SORTED_TOGETHER) {
            part.sort_by_key(|example| self.tokens(*example));
        }
        let mut batches: Vec<Vec<usize>> = order.chunks(batch).map(<[usize]>::to_vec).collect();
        random.shuffle(&mut batches);
        batches
    }

    /// Some examples as one batch, padded to its longest text.
    ///
    /// # Panics
    /// When an index is not below [`len`](Self::len).
    pub fn batch<B: Backend>(&self, examples: &[usize], device: &B::Device) -> Batch<B> {
        match &self.kind {
            Kind::Texts { ids, labels, pad, most } => {
                let rows: Vec<&[u32]> = examples.iter().map(|e| ids[*e].as_slice()).collect();
                let targets = examples.iter().map(|e| labels[*e] as i32).collect();
                let longest = rows.iter().map(|r| r.len()).max().unwrap_or(0);
                let length = longest.next_multiple_of(self.multiple).min(*most).max(longest);
                Batch { inputs: padded(&rows, length, *pad, device), targets: ints(targets, device) }
            }
            Kind::Windows { ids, window } => {
                let starts: Vec<usize> = examples.iter().map(|e| e * window).collect();
                windows(ids, *window, &starts, device)
            }
            Kind::Images { records, mean, std } => {
                let rows: Vec<&[u8]> =
                    examples.iter().map(|e| &records[e * RECORD_BYTES..][..RECORD_BYTES]).collect();
                let targets = rows.iter().map(|r| i32::from(r[0])).collect();
                Batch { inputs: images(&rows, *mean, *std, device), targets: ints(targets, device) }
            }
        }
    }
}

impl Examples {
    /// [`batch`](Self::batch) for training: images are moved by up to four pixels in each direction, black coming in at
    /// the borders, and mirrored in half of the cases (He et al. 2016, arXiv 1512.03385, section 4.2); windows begin up to
    /// one window later in their text. All as `seed` and the example's number say. Sentences stay as they are.
    ///
    /// # Panics
    /// When an index is not below [`len`](Self::len).
    pub fn augmented<B: Backend>(&self, examples: &[usize], seed: u64, device: &B::Device) -> Batch<B> {
        let random = |e: &usize| SplitMix(seed ^ (*e as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (records, mean, std) = match &self.kind {
            Kind::Texts { .. } => return self.batch(examples, device),
            Kind::Windows { ids, window } => {
                let starts = examples.iter().map(|e| shifted(e * window, *window, ids.len(), &mut random(e)));
                return windows(ids, *window, &starts.collect::<Vec<_>>(), device);
            }
            Kind::Images { records, mean, std } => (records, mean, std),
        };
        let record = |e: &usize| moved(&records[e * RECORD_BYTES..][..RECORD_BYTES], &mut random(e));
        let rows: Vec<Vec<u8>> = examples.iter().map(record).collect();
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let targets = rows.iter().map(|r| i32::from(r[0])).collect();
        Batch { inputs: images(&rows, *mean, *std, device), targets: ints(targets, device) }
    }
}

/// Windows of `ids` that begin at `starts`; the targets are the same windows one token later.
fn windows<B: Backend>(ids: &[u32], window: usize, starts: &[usize], device: &B::Device) -> Batch<B> {
    let rows: Vec<&[u32]> = starts.iter().map(|start| &ids[*start..][..window]).collect();
    let next = starts.iter().flat_map(|start| &ids[start + 1..][..window]);
    let targets = next.map(|id| *id as i32).collect();
    Batch { inputs: padded(&rows, window, 0, device), targets: ints(targets, device) }
}

/// Where a window begins that may begin up to one window later than `start`, as far as `tokens` tokens reach: the last
/// target is the token after the window.
fn shifted(start: usize, window: usize, tokens: usize, random: &mut SplitMix) -> usize {
    let room = (tokens - 1 - window - start).min(window - 1);
    start + (random.next() % (room as u64 + 1)) as usize
}

/// Pixels by which an image is moved at most.
const MOVED: u64 = 4;

/// A record whose image is moved and mirrored at random.
fn moved(record: &[u8], random: &mut SplitMix) -> Vec<u8> {
    let shift = |random: &mut SplitMix| (random.next() % (2 * MOVED + 1)) as usize;
    let (down, right, mirrored) = (shift(random), shift(random), random.next() & 1 == 1);
    let (side, border) = (IMAGE_SIDE, MOVED as usize);
    let mut changed = vec![0; record.len()];
    changed[0] = record[0];
    let planes = record[1..].chunks(side * side).zip(changed[1..].chunks_mut(side * side));
    for (from, to) in planes {
        for (at, pixel) in to.iter_mut().enumerate() {
            let (row, column) = (at / side, at % side);
            let column = if mirrored { side - 1 - column } else { column };
            let inside = |at: usize, by: usize| (at + by).checked_sub(border).filter(|at| *at < side);
            if let (Some(row), Some(column)) = (inside(row, down), inside(column, right)) {
                *pixel = from[row * side + column];
            }
        }
    }
    changed
}

impl From<Kind> for Examples {
    fn from(kind: Kind) -> Self {
        Self { kind, multiple: 1 }
    }
}

fn ints<B: Backend>(values: Vec<i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

fn padded<B: Backend>(rows: &[&[u32]], longest: usize, pad: u32, device: &B::Device) -> Inputs<B> {
    let matrix = |fill: &dyn Fn(&[u32], usize) -> i32| {
        let values: Vec<i32> = rows.iter().flat_map(|row| (0..longest).map(|i| fill(row, i))).collect();
        Tensor::from_data(TensorData::new(values, [rows.len(), longest]), device)
    };
    let ids = matrix(&|row, i| row.get(i).copied().unwrap_or(pad) as i32);
    let even = rows.iter().all(|r| r.len() == longest);
    let mask = (!even).then(|| matrix(&|row, i| i32::from(i < row.len())));
    Inputs::Tokens { ids, mask }
}

fn images<B: Backend>(rows: &[&[u8]], mean: [f32; 3], std: [f32; 3], device: &B::Device) -> Inputs<B> {
    let plane = IMAGE_SIDE * IMAGE_SIDE;
    let pixels: Vec<f32> = rows
        .iter()
        .flat_map(|row| row[1..].chunks(plane).zip(mean.iter().zip(&std)))
        .flat_map(|(plane, (mean, std))| plane.iter().map(move |p| (f32::from(*p) / 255.0 - mean) / std))
        .collect();
    let shape = [rows.len(), 3, IMAGE_SIDE, IMAGE_SIDE];
    Inputs::Images(Tensor::from_data(TensorData::new(pixels, shape), device))
}

/// The generator of Steele et al. 2014 ("Fast splittable pseudorandom number generators"): the same numbers
/// everywhere, whatever happens to the versions of other crates.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Fisher and Yates.
    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = (self.next() % (i as u64 + 1)) as usize;
            list.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    fn texts(lengths: &[usize]) -> Examples {
        let ids = lengths.iter().map(|n| (1..=*n as u32).collect()).collect();
        Kind::Texts { ids, labels: vec![1; lengths.len()], pad: 9, most: 20 }.into()
    }

    fn each_once(batches: &[Vec<usize>], n: usize) {
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn batches_by_length_hold_each_example_once_and_pad_little() {
        let lengths: Vec<usize> = (0..100).map(|i| 1 + i * 37 % 50).collect();
        let examples = texts(&lengths);
        let batches = examples.by_length(16);
        each_once(&batches, 100);
        for batch in &batches {
            let longest = batch.iter().map(|e| lengths[*e]).max().unwrap_or(0);
            let tokens: usize = batch.iter().map(|e| lengths[*e]).sum();
            assert!(batch.len() <= 16);
            assert!(tokens as f64 >= (1.0 - MAX_PADDING) * (longest * batch.len()) as f64);
        }
        assert_eq!(texts(&[3; 5]).by_length(2), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn shuffling_follows_the_seed() {
        let examples = texts(&[5; 101]);
        let batches = examples.shuffled(8, 3);
        each_once(&batches, 101);
        assert_eq!(batches, examples.shuffled(8, 3));
        assert_ne!(batches, examples.shuffled(8, 4));
    }

    #[test]
    fn texts_are_padded_and_masked_only_where_needed() {
        let device = Default::default();
        let batch = texts(&[2, 3]).batch::<Flex>(&[0, 1], &device);
        let Inputs::Tokens { ids, mask: Some(mask) } = batch.inputs else { panic!("tokens with a mask") };
        ids.into_data().assert_eq(&TensorData::from([[1, 2, 9], [1, 2, 3]]), false);
        mask.into_data().assert_eq(&TensorData::from([[1, 1, 0], [1, 1, 1]]), false);
        let batch = texts(&[3, 3]).batch::<Flex>(&[0, 1], &device);
        assert!(matches!(batch.inputs, Inputs::Tokens { mask: None, .. }));
    }

    #[test]
    fn batches_in_multiples_are_padded_further_and_masked() {
        let device = Default::default();
        let examples = texts(&[2, 3, 18]).in_multiples_of(8);
        let shape = |part: &[usize]| {
            let Inputs::Tokens { ids, mask: Some(mask) } = examples.batch::<Flex>(part, &device).inputs
            else {
                panic!("tokens with a mask")
            };
            (ids.dims(), mask.sum().into_scalar())
        };
        assert_eq!(shape(&[0, 1]), ([2, 8], 5));
        assert_eq!(shape(&[2]), ([1, 20], 18), "no more than the model takes");
        assert_eq!(examples.by_length(4), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn random_texts_follow_the_seed_and_fit_the_model() {
        let task = Task::Classification { labels: 2, vocabulary: 50, max_tokens: 8, pad: 0 };
        let ids = |seed| {
            let examples = Examples::random(&task, 6, 100, seed).expect("texts");
            assert_eq!((examples.len(), examples.tokens(5)), (6, 8));
            let Kind::Texts { ids, .. } = examples.kind else { panic!("texts") };
            ids.concat()
        };
        assert!(ids(1).iter().all(|id| *id < 50));
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        let task = Task::LanguageModel { vocabulary: 50, window: 4 };
        assert_eq!(Examples::random(&task, 3, 100, 0).expect("windows").len(), 3);
    }

    #[test]
    fn texts_are_cut_and_the_first_examples_taken() {
        let cut = texts(&[2, 30, 5]).cut_to(4);
        assert_eq!((0..3).map(|e| cut.tokens(e)).collect::<Vec<_>>(), [2, 4, 4]);
        assert_eq!(cut.first(2).len(), 2);
        let windows: Examples = Kind::Windows { ids: (0..12).collect(), window: 4 }.into();
        assert_eq!(windows.first(1).len(), 1);
    }

    #[test]
    fn windows_predict_the_same_window_shifted_by_one() {
        let device = Default::default();
        for (tokens, windows) in [(5, 1), (8, 1), (9, 2), (12, 2)] {
            let examples: Examples = Kind::Windows { ids: (0..tokens).collect(), window: 4 }.into();
            assert_eq!(examples.len(), windows, "{tokens} tokens");
        }
        let examples: Examples = Kind::Windows { ids: (0..10).collect(), window: 4 }.into();
        let batch = examples.batch::<Flex>(&[0, 1], &device);
        let Inputs::Tokens { ids, mask: None } = batch.inputs else { panic!("tokens without a mask") };
        ids.into_data().assert_eq(&TensorData::from([[0, 1, 2, 3], [4, 5, 6, 7]]), false);
        batch.targets.into_data().assert_eq(&TensorData::from([1, 2, 3, 4, 5, 6, 7, 8]), false);
    }

    #[test]
    fn windows_begin_up_to_one_window_later() {
        let device = Default::default();
        let examples: Examples = Kind::Windows { ids: (0..14).collect(), window: 4 }.into();
        let mut seen = [[0; 4]; 3];
        for seed in 0..200 {
            let batch = examples.augmented::<Flex>(&[0, 1, 2], seed, &device);
            let Inputs::Tokens { ids, mask: None } = batch.inputs else { panic!("tokens without a mask") };
            let ids = ids.into_data().into_vec::<i32>().expect("ids");
            let targets = batch.targets.into_data().into_vec::<i32>().expect("targets");
            for (n, (row, next)) in ids.chunks(4).zip(targets.chunks(4)).enumerate() {
                assert!(
                    (0..4).all(|i| row[i] == row[0] + i as i32 && next[i] == row[i] + 1),
                    "{row:?} {next:?}"
                );
                seen[n][row[0] as usize - 4 * n] += 1;
            }
        }
        // The third window has room for one token more only: 8 or 9, of 14 tokens.
        assert!(seen[0].iter().chain(&seen[1]).all(|n| *n > 20), "{seen:?}");
        assert!(seen[2][0] > 60 && seen[2][1] > 60 && seen[2][2] + seen[2][3] == 0, "{seen:?}");
    }

    #[test]
    fn images_are_moved_and_mirrored_as_the_seed_says() {
        let mut record = vec![0u8; RECORD_BYTES];
        record[0] = 3;
        // One bright pixel in each plane, at row 10 and column 20.
        (0..3).for_each(|plane| record[1 + plane * 1024 + 10 * 32 + 20] = 200);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let changed = moved(&record, &mut SplitMix(seed));
            assert_eq!(changed, moved(&record, &mut SplitMix(seed)));
            let bright: Vec<usize> =
                (1..RECORD_BYTES).filter(|i| changed[*i] == 200).map(|i| i - 1).collect();
            assert_eq!((changed[0], bright.len()), (3, 3));
            assert!(bright.windows(2).all(|b| b[1] - b[0] == 1024), "all planes alike");
            seen.insert((bright[0] / 32, bright[0] % 32));
        }
        // Nine rows, and nine columns around each of 20 and its mirror image 11: 7 to 24.
        assert_eq!(seen.len(), 9 * 18);
        assert!(seen.iter().all(|(row, column)| (6..=14).contains(row) && (7..=24).contains(column)));
    }

    #[test]
    fn pixels_are_normalized_per_channel() {
        let mut records = vec![255; RECORD_BYTES];
        records[0] = 7;
        records[1] = 0;
        let (mean, std) = ([0.5, 0.25, 0.0], [0.5, 0.25, 2.0]);
        let examples: Examples = Kind::Images { records, mean, std }.into();
        let batch = examples.batch::<Flex>(&[0], &Default::default());
        batch.targets.into_data().assert_eq(&TensorData::from([7]), false);
        let Inputs::Images(images) = batch.inputs else { panic!("images") };
        assert_eq!(images.dims(), [1, 3, 32, 32]);
        let values = images.into_data().into_vec::<f32>().expect("floats");
        assert_eq!([values[0], values[1], values[1024], values[2048]], [-1.0, 1.0, 3.0, 0.5]);
    }
}
