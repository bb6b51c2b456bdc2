//! Numbers in a model that follow from the outputs of a layer, and what becomes of them when outputs are removed.

use serde::{Deserialize, Serialize};

/// How a number follows from the outputs of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// Equal runs of outputs, such as the heads of a projection. The outputs are `sections` blocks of the same runs:
    /// 3 for queries, keys and values made by one layer, 1 otherwise.
    Parts {
        /// Number of blocks, at least 1.
        sections: usize,
    },
    /// Outputs before an index, such as the zero channels that a shortcut puts before its own.
    Before,
}

/// A number in a model that follows from the outputs of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutputCount {
    /// Name of the number: that of the module it is in, and its field.
    pub name: String,
    /// Its field path in the Rust model.
    pub path: String,
    /// Field path of the layer.
    pub layer: String,
    /// What it is now.
    pub value: usize,
    /// How it follows.
    pub counts: Counts,
}

impl OutputCount {
    /// What the number is when of the layer's `outputs` only `kept` (ascending) are left.
    ///
    /// # Errors
    /// Why it is no number any more, in words: parts of a head were removed, or other parts in one section than in
    /// another.
    pub fn after(&self, outputs: usize, kept: &[usize]) -> Result<usize, String> {
        match self.counts {
            Counts::Before => Ok(kept.iter().filter(|i| **i < self.value).count()),
            Counts::Parts { sections } => parts_after(self.value, sections, outputs, kept),
        }
    }
}

fn parts_after(parts: usize, sections: usize, outputs: usize, kept: &[usize]) -> Result<usize, String> {
    let runs = sections.max(1) * parts;
    let length = match outputs.checked_rem(runs) {
        Some(0) if outputs > 0 => outputs / runs,
        _ => return Err(format!("{outputs} outputs are not {runs} equal parts")),
    };
    let mut left = vec![0; runs];
    for index in kept.iter().filter(|i| **i < outputs) {
        left[index / length] += 1;
    }
    if let Some(run) = left.iter().position(|n| *n != 0 && *n != length) {
        return Err(format!("of the {length} outputs of part {run} only {} are left", left[run]));
    }
    let first = &left[..parts];
    if left.chunks(parts).any(|section| section != first) {
        return Err(format!("the {sections} sections lose different parts"));
    }
    Ok(first.iter().filter(|n| **n > 0).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(value: usize, counts: Counts) -> OutputCount {
        OutputCount { name: "n".into(), path: "n".into(), layer: "l".into(), value, counts }
    }

    #[test]
    fn heads_are_whole_parts() {
        let heads = count(4, Counts::Parts { sections: 1 });
        assert_eq!(heads.after(12, &[0, 1, 2, 9, 10, 11]), Ok(2));
        let text = heads.after(12, &[0, 1, 9, 10, 11]).expect_err("half a head");
        assert_eq!(text, "of the 3 outputs of part 0 only 2 are left");
        let text = heads.after(10, &[0]).expect_err("no heads");
        assert_eq!(text, "10 outputs are not 4 equal parts");
    }

    #[test]
    fn fused_projections_lose_the_same_heads_in_each_section() {
        let heads = count(2, Counts::Parts { sections: 3 });
        assert_eq!(heads.after(12, &[2, 3, 6, 7, 10, 11]), Ok(1));
        let text = heads.after(12, &[2, 3, 4, 5, 10, 11]).expect_err("another head in the second");
        assert_eq!(text, "the 3 sections lose different parts");
    }

    #[test]
    fn an_offset_counts_what_is_before_it() {
        let before = count(3, Counts::Before);
        assert_eq!(before.after(8, &[0, 2, 3, 7]), Ok(2));
        assert_eq!(before.after(8, &[]), Ok(0));
    }
}
