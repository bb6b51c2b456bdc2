//! Entries of axes that can only be removed together.

use crate::why::Why;

/// What is known of one entry of one axis of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    /// Nothing stands there that could be removed or would be missed: zeros, or copies of one entry.
    Free,
    /// It always stays.
    Fixed(Why),
    /// It goes when the others of this class go.
    Of(u32),
}

/// Classes of labels that were found to go together, some of them known to stay.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    parent: Vec<u32>,
    frozen: Vec<Option<Why>>,
}

impl Labels {
    /// `count` labels that go with nothing else yet, with consecutive numbers.
    pub(crate) fn fresh(&mut self, count: usize) -> std::ops::Range<u32> {
        let start = self.parent.len() as u32;
        let end = start + count as u32;
        self.parent.extend(start..end);
        self.frozen.resize(end as usize, None);
        start..end
    }

    /// The number that stands for the class of `id`.
    pub(crate) fn class(&mut self, mut id: u32) -> u32 {
        while self.parent[id as usize] != id {
            let up = self.parent[self.parent[id as usize] as usize];
            self.parent[id as usize] = up;
            id = up;
        }
        id
    }

    /// The label with the number that stands for its class.
    pub(crate) fn canonical(&mut self, label: Label) -> Label {
        match label {
            Label::Of(id) => Label::Of(self.class(id)),
            other => other,
        }
    }

    /// States that two entries go together; what the entry that is made of both is.
    pub(crate) fn join(&mut self, a: Label, b: Label) -> Label {
        match (a, b) {
            (Label::Free, other) | (other, Label::Free) => other,
            (Label::Fixed(why), Label::Fixed(_)) => Label::Fixed(why),
            (Label::Fixed(why), Label::Of(_)) => {
                self.freeze(b, why);
                b
            }
            (Label::Of(_), Label::Fixed(why)) => {
                self.freeze(a, why);
                a
            }
            (Label::Of(x), Label::Of(y)) => Label::Of(self.unite(x, y)),
        }
    }

    fn unite(&mut self, a: u32, b: u32) -> u32 {
        let (a, b) = (self.class(a), self.class(b));
        // The lower number stands for both, so that nothing depends on the order of joining.
        let (root, other) = (a.min(b), a.max(b));
        if root != other {
            self.parent[other as usize] = root;
            let why = self.frozen[root as usize].or(self.frozen[other as usize]);
            self.frozen[root as usize] = why;
        }
        root
    }

    /// States that an entry always stays. The first reason is the one that is told.
    pub(crate) fn freeze(&mut self, label: Label, why: Why) {
        if let Label::Of(id) = label {
            let root = self.class(id) as usize;
            self.frozen[root].get_or_insert(why);
        }
    }

    /// Why the class of `id` stays, if it does.
    pub(crate) fn frozen(&mut self, id: u32) -> Option<Why> {
        let root = self.class(id);
        self.frozen[root as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_is_transitive_and_freezing_reaches_the_whole_class() {
        let mut labels = Labels::default();
        assert_eq!(labels.fresh(4), 0..4);
        labels.join(Label::Of(3), Label::Of(1));
        labels.join(Label::Of(1), Label::Of(2));
        assert_eq!([0, 1, 2, 3].map(|i| labels.class(i)), [0, 1, 1, 1]);
        labels.freeze(Label::Of(2), Why::Output);
        assert_eq!(labels.frozen(3), Some(Why::Output));
        labels.join(Label::Of(0), Label::Of(3));
        assert_eq!(labels.frozen(0), Some(Why::Output));
    }

    #[test]
    fn free_entries_take_the_other_and_fixed_ones_hold_it() {
        let mut labels = Labels::default();
        labels.fresh(2);
        assert_eq!(labels.join(Label::Free, Label::Of(1)), Label::Of(1));
        assert_eq!(labels.frozen(1), None);
        assert_eq!(labels.join(Label::Fixed(Why::Data), Label::Of(1)), Label::Of(1));
        assert_eq!(labels.frozen(1), Some(Why::Data));
        assert_eq!(labels.join(Label::Free, Label::Fixed(Why::Data)), Label::Fixed(Why::Data));
    }
}
