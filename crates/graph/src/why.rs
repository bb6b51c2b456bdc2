//! Why a part of a parameter cannot be removed.

/// A reason; `usize` is the place of an operation in the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// As long as an axis of an input or a constant.
    Data,
    /// Shown by the model.
    Output,
    /// Entries are chosen by an index that only a running model has.
    LookedUp,
    /// Height or width of a convolution's kernel.
    Kernel,
    /// The inner part of an axis that was split.
    Inner,
    /// One entry for several of another tensor.
    Broadcast(usize),
    /// Two activations are multiplied and summed over it.
    Product(usize),
    /// An average over it is not followed by a normalization's parameters.
    Average(usize),
    /// The operation mixes or orders its entries, or is not known.
    Mixed(usize),
    /// The operation makes one axis of it and another one that can lose entries.
    Merged(usize),
    /// It has one entry.
    Single,
    /// The forward pass never reads the parameter.
    Unused,
    /// All entries go together.
    OneUnit,
    /// No parameter makes the values.
    NoProducer,
    /// No parameter is multiplied with the values and summed.
    NoConsumer,
}

impl Why {
    /// The reason as the second half of a sentence; `name` tells an operation's name.
    pub(crate) fn text(self, name: impl Fn(usize) -> String) -> String {
        match self {
            Self::Data => "it goes with an axis of the model's input or of a constant".into(),
            Self::Output => "it is an output of the model".into(),
            Self::LookedUp => "its entries are looked up by index".into(),
            Self::Kernel => "it is the size of a convolution's kernel".into(),
            Self::Inner => "it is the inner part of a split axis, such as the width of a head".into(),
            Self::Broadcast(at) => format!("`{}` repeats it along another axis", name(at)),
            Self::Product(at) => format!("`{}` multiplies two activations over it", name(at)),
            Self::Average(at) => {
                format!("`{}` averages over it, and no scale of a normalization follows", name(at))
            }
            Self::Mixed(at) => format!("what `{}` does with its entries takes all of them", name(at)),
            Self::Merged(at) => format!("`{}` merges it into another axis that can lose entries", name(at)),
            Self::Single => "it has one entry only".into(),
            Self::Unused => "the forward pass does not use it".into(),
            Self::OneUnit => "all its entries can only go together".into(),
            Self::NoProducer => "no parameter makes the values that it takes".into(),
            Self::NoConsumer => "no parameter takes the values that it makes".into(),
        }
    }
}
