//! Which layers of a student are compared with which of its teacher.

use serde::Serialize;

/// The rule that pairs the layers of two models. Blocks count from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// Every `b`-th block of the teacher, where `b` is the teacher's number of blocks divided by the student's and
    /// rounded down. As DeepSpeed without a list; where the student's number does not divide the teacher's, the
    /// teacher's last blocks are left out.
    Uniform,
    /// The teacher's block for each of the student's, as DeepSpeed's `teacher_layer`.
    Teacher(Vec<usize>),
    /// These pairs of a student's and a teacher's block and no others; the embeddings are not compared.
    Pairs(Vec<(usize, usize)>),
}

/// What is compared with what, the student's index first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LayerMapping {
    /// Hidden states: 0 is the embeddings' output, `i + 1` the output of block `i`.
    pub hidden: Vec<(usize, usize)>,
    /// Attentions: `i` is that of block `i`.
    pub attention: Vec<(usize, usize)>,
}

/// A rule that does not fit the two models.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// The uniform rule needs at least as many blocks in the teacher.
    #[error("a student of {student} blocks cannot be spread over a teacher of {teacher}")]
    Deeper {
        /// Blocks of the student.
        student: usize,
        /// Blocks of the teacher.
        teacher: usize,
    },
    /// A list of teacher blocks of another length than the student.
    #[error("{given} blocks of the teacher are given for the {student} of the student")]
    Count {
        /// Entries of the list.
        given: usize,
        /// Blocks of the student.
        student: usize,
    },
    /// A block that the teacher does not have.
    #[error("there is no block {block} in a teacher of {blocks}, which count from 0")]
    Teacher {
        /// The block as given.
        block: usize,
        /// Blocks of the teacher.
        blocks: usize,
    },
    /// A block that the student does not have.
    #[error("there is no block {block} in a student of {blocks}, which count from 0")]
    Student {
        /// The block as given.
        block: usize,
        /// Blocks of the student.
        blocks: usize,
    },
    /// No pair at all.
    #[error("no pair of blocks is given")]
    NoPair,
    /// A pair given twice.
    #[error("the pair [{student}, {teacher}] is given twice")]
    Twice {
        /// The student's block.
        student: usize,
        /// The teacher's block.
        teacher: usize,
    },
}

impl Layers {
    /// The layers to compare for a student and a teacher with so many blocks.
    ///
    /// # Errors
    /// Everything in which the rule does not fit them.
    pub fn map(&self, student: usize, teacher: usize) -> Result<LayerMapping, Vec<MappingError>> {
        match self {
            Self::Uniform => uniform(student, teacher),
            Self::Teacher(list) => by_list(list, student, teacher),
            Self::Pairs(pairs) => by_pairs(pairs, student, teacher),
        }
    }
}

fn uniform(student: usize, teacher: usize) -> Result<LayerMapping, Vec<MappingError>> {
    if student > teacher {
        return Err(vec![MappingError::Deeper { student, teacher }]);
    }
    let every = teacher.checked_div(student).unwrap_or(0);
    Ok(LayerMapping {
        hidden: (0..=student).map(|i| (i, i * every)).collect(),
        attention: (0..student).map(|i| (i, i * every + every - 1)).collect(),
    })
}

/// The student's first hidden state goes with the teacher's number `t_0 - 1`, as in DeepSpeed: with the embeddings'
/// output for `t_0 = 1`. For `t_0 = 0` DeepSpeed's index is -1, in Python the last layer's output; here the embeddings
/// go with the embeddings.
fn by_list(list: &[usize], student: usize, teacher: usize) -> Result<LayerMapping, Vec<MappingError>> {
    let mut wrong = missing_from_teacher(list.iter().copied(), teacher);
    if list.len() != student {
        wrong.push(MappingError::Count { given: list.len(), student });
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let first = list.first().map_or(0, |block| block.saturating_sub(1));
    let outputs = list.iter().map(|block| block + 1);
    Ok(LayerMapping {
        hidden: [first].into_iter().chain(outputs).enumerate().collect(),
        attention: list.iter().copied().enumerate().collect(),
    })
}

fn by_pairs(
    pairs: &[(usize, usize)],
    student: usize,
    teacher: usize,
) -> Result<LayerMapping, Vec<MappingError>> {
    let outside = pairs.iter().filter(|(s, _)| *s >= student);
    let mut wrong: Vec<_> =
        outside.map(|(block, _)| MappingError::Student { block: *block, blocks: student }).collect();
    wrong.extend(missing_from_teacher(pairs.iter().map(|(_, t)| *t), teacher));
    if pairs.is_empty() {
        wrong.push(MappingError::NoPair);
    }
    for (n, (student, teacher)) in pairs.iter().enumerate() {
        if pairs[..n].contains(&(*student, *teacher)) {
            wrong.push(MappingError::Twice { student: *student, teacher: *teacher });
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(LayerMapping {
        hidden: pairs.iter().map(|(s, t)| (s + 1, t + 1)).collect(),
        attention: pairs.to_vec(),
    })
}

fn missing_from_teacher(blocks: impl Iterator<Item = usize>, teacher: usize) -> Vec<MappingError> {
    let outside = blocks.filter(|block| *block >= teacher);
    outside.map(|block| MappingError::Teacher { block, blocks: teacher }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teachers(pairs: &[(usize, usize)]) -> Vec<usize> {
        assert!(pairs.iter().enumerate().all(|(i, (s, _))| *s == i), "{pairs:?}");
        pairs.iter().map(|(_, t)| *t).collect()
    }

    #[test]
    fn lists_map_as_in_deepspeed() {
        for (list, blocks, hidden) in [
            (vec![1, 3, 5, 7, 9, 11], 12, vec![0, 2, 4, 6, 8, 10, 12]),
            (vec![2, 4, 6, 8, 10], 12, vec![1, 3, 5, 7, 9, 11]),
            (vec![0, 2], 3, vec![0, 1, 3]),
            (vec![1], 2, vec![0, 2]),
            (vec![], 2, vec![0]),
        ] {
            let mapping = Layers::Teacher(list.clone()).map(list.len(), blocks).expect("fits");
            assert_eq!(teachers(&mapping.hidden), hidden, "{list:?}");
            assert_eq!(teachers(&mapping.attention), list);
        }
    }

    #[test]
    fn the_uniform_rule_is_deepspeeds() {
        for (student, teacher, hidden, attention) in [
            (6, 12, vec![0, 2, 4, 6, 8, 10, 12], vec![1, 3, 5, 7, 9, 11]),
            (5, 12, vec![0, 2, 4, 6, 8, 10], vec![1, 3, 5, 7, 9]),
            (3, 3, vec![0, 1, 2, 3], vec![0, 1, 2]),
            (0, 3, vec![0], vec![]),
            (0, 0, vec![0], vec![]),
        ] {
            let mapping = Layers::Uniform.map(student, teacher).expect("fits");
            assert_eq!(teachers(&mapping.hidden), hidden, "{student} of {teacher}");
            assert_eq!(teachers(&mapping.attention), attention, "{student} of {teacher}");
        }
    }

    #[test]
    fn pairs_are_taken_as_they_are() {
        let mapping = Layers::Pairs(vec![(1, 3), (0, 3)]).map(2, 4).expect("fits");
        assert_eq!(mapping.hidden, [(2, 4), (1, 4)]);
        assert_eq!(mapping.attention, [(1, 3), (0, 3)]);
    }

    #[test]
    fn everything_that_does_not_fit_is_reported() {
        let error =
            |layers: Layers, student, teacher| layers.map(student, teacher).expect_err("does not fit");
        assert_eq!(error(Layers::Uniform, 4, 3), [MappingError::Deeper { student: 4, teacher: 3 }]);
        assert_eq!(
            error(Layers::Teacher(vec![1, 12, 13]), 2, 12),
            [
                MappingError::Teacher { block: 12, blocks: 12 },
                MappingError::Teacher { block: 13, blocks: 12 },
                MappingError::Count { given: 3, student: 2 },
            ]
        );
        assert_eq!(
            error(Layers::Pairs(vec![(2, 0), (0, 4), (1, 1), (1, 1)]), 2, 4),
            [
                MappingError::Student { block: 2, blocks: 2 },
                MappingError::Teacher { block: 4, blocks: 4 },
                MappingError::Twice { student: 1, teacher: 1 },
            ]
        );
        assert_eq!(error(Layers::Pairs(vec![]), 2, 4), [MappingError::NoPair]);
        let text = MappingError::Teacher { block: 12, blocks: 12 }.to_string();
        assert_eq!(text, "there is no block 12 in a teacher of 12, which count from 0");
    }
}
