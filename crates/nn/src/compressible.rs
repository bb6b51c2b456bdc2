//! Typed access to the layers of a model.

use crate::{Conv2d, Embedding, LayerNorm, LayerPath, Linear, MultiHeadAttention};
use briquette_core::{Counts, OutputCount};
use burn::prelude::*;

/// A model whose layers can be reached as what they are.
///
/// burn's own visitors reach tensors only; to quantize a layer's input, to store packed weights, to
/// remove a head or a whole block, the layer itself is needed. Derive it beside `Module`:
///
/// ```
/// use briquette_nn::{Compressible, Linear, LinearConfig, visit_layers};
/// use burn::prelude::*;
///
/// #[derive(Module, Debug, Compressible)]
/// struct Block<B: Backend> {
///     self_: Linear<B>,
///     #[compressible(name = "output.dense")]
///     out: Linear<B>,
/// }
///
/// # let device = Default::default();
/// let mut block = Block::<burn::backend::Flex> {
///     self_: LinearConfig::new(4, 4).init(&device),
///     out: LinearConfig::new(4, 2).init(&device),
/// };
/// let mut names = Vec::new();
/// visit_layers(&mut block, |at, layer| {
///     if let briquette_nn::LayerMut::Linear(_) = layer {
///         names.push(at.name().to_string());
///     }
/// });
/// assert_eq!(names, ["self", "output.dense"]);
/// ```
///
/// A field's part of a name is its identifier without a trailing underscore, unless
/// `#[compressible(name = "..")]` says otherwise. `#[compressible(skip)]` leaves out the inside of a
/// field, whose type then need not implement this trait.
///
/// Pruning changes numbers that a model holds beside its layers. A `usize` field says what it counts:
/// - `#[compressible(counts = "query")]`: equal runs of the outputs of the field `query`, such as its heads;
/// - `#[compressible(counts = "c_attn", sections = 3)]`: the same where one layer makes queries, keys and values;
/// - `#[compressible(before = "conv2")]`: an index into the outputs of `conv2`, such as the number of zero channels
///   that a shortcut puts before its own.
///
/// ```
/// # use briquette_nn::{Compressible, Linear};
/// # use burn::prelude::*;
/// #[derive(Module, Debug, Compressible)]
/// struct GroupedQueryAttention<B: Backend> {
///     query: Linear<B>,
///     key: Linear<B>,
///     value: Linear<B>,
///     output: Linear<B>,
///     #[compressible(counts = "query")]
///     n_heads: usize,
///     #[compressible(counts = "key")]
///     n_key_value_heads: usize,
///     #[compressible(skip)]
///     d_head: usize,
/// }
/// ```
///
/// Enums and tuple structs implement it by hand, with the same path components as burn's derive: the
/// variant's name, then the field's.
#[diagnostic::on_unimplemented(
    message = "the layers of `{Self}` cannot be reached",
    label = "`Compressible<{B}>` is not implemented",
    note = "derive `briquette_nn::Compressible` for it, or leave the field out by `#[compressible(skip)]`"
)]
pub trait Compressible<B: Backend> {
    /// Calls `visit` for this value, where it is a layer, and for every layer in it, in field order.
    /// `at` is where the value stands, and again when the call returns.
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>));
}

/// Calls `visit` for every layer of a model, in field order.
pub fn visit_layers<B: Backend, M: Compressible<B>>(
    model: &mut M,
    mut visit: impl FnMut(&LayerPath, LayerMut<'_, B>),
) {
    model.layers_mut(&mut LayerPath::root(), &mut visit);
}

/// A layer, a list of layers or a number found on the way through a model.
pub enum LayerMut<'a, B: Backend> {
    /// A drop-in linear layer.
    Linear(&'a mut Linear<B>),
    /// A drop-in embedding.
    Embedding(&'a mut Embedding<B>),
    /// A drop-in convolution.
    Conv2d(&'a mut Conv2d<B>),
    /// A drop-in layer normalization.
    LayerNorm(&'a mut LayerNorm<B>),
    /// burn's batch normalization, whose running statistics are removed with their channels.
    BatchNorm(&'a mut burn::nn::BatchNorm<B>),
    /// A drop-in attention, before its four linear layers and its number of heads.
    Attention(&'a mut MultiHeadAttention<B>),
    /// A list of blocks, before its elements.
    Layers(&'a mut dyn LayerList),
    /// A number that a field holds and nothing is known of.
    Field(&'a mut usize),
    /// A number that follows from the outputs of a layer, such as a number of heads.
    Number(Number<'a>),
    /// Any other module: it has a name and maybe parameters, but nothing that compression changes
    /// other than through burn's own mappers.
    Other,
}

/// A number that changes when outputs of a layer are removed.
pub struct Number<'a> {
    /// The number.
    pub value: &'a mut usize,
    /// Field path of the layer within the struct that holds the number.
    pub layer: &'static str,
    /// How the number follows from the layer's outputs.
    pub counts: Counts,
}

impl Number<'_> {
    /// What is known of the number, which stands at `at`.
    pub fn counted(&self, at: &LayerPath) -> OutputCount {
        let layer = match at.path().rsplit_once('.') {
            Some((above, _)) => format!("{above}.{}", self.layer),
            None => self.layer.to_string(),
        };
        let (name, path) = (at.name().to_string(), at.path().to_string());
        OutputCount { name, path, layer, value: *self.value, counts: self.counts }
    }
}

/// A list of blocks that can lose some.
pub trait LayerList {
    /// How many blocks there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the blocks at `indices`, in that order, and drops all others.
    ///
    /// # Panics
    /// When an index is not below the length or occurs twice.
    fn keep(&mut self, indices: &[usize]);
}

impl<T> LayerList for Vec<T> {
    fn len(&self) -> usize {
        self.len()
    }

    fn keep(&mut self, indices: &[usize]) {
        let mut from: Vec<Option<T>> = std::mem::take(self).into_iter().map(Some).collect();
        let length = from.len();
        *self = indices
            .iter()
            .map(|index| match from.get_mut(*index).map(Option::take) {
                Some(Some(block)) => block,
                Some(None) => panic!("block {index} is to be kept twice"),
                None => panic!("block {index} is to be kept, but there are {length}"),
            })
            .collect();
    }
}

type Visit<'v, B> = dyn FnMut(&LayerPath, LayerMut<'_, B>) + 'v;

impl<B: Backend, T: Compressible<B>> Compressible<B> for Vec<T> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut Visit<'_, B>) {
        visit(at, LayerMut::Layers(self));
        elements(self, at, visit);
    }
}

impl<B: Backend, T: Compressible<B>, const N: usize> Compressible<B> for [T; N] {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut Visit<'_, B>) {
        elements(self, at, visit);
    }
}

impl<B: Backend, T: Compressible<B>> Compressible<B> for Option<T> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut Visit<'_, B>) {
        if let Some(inside) = self {
            inside.layers_mut(at, visit);
        }
    }
}

impl<B: Backend> Compressible<B> for usize {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut Visit<'_, B>) {
        visit(at, LayerMut::Field(self));
    }
}

fn elements<B: Backend, T: Compressible<B>>(list: &mut [T], at: &mut LayerPath, visit: &mut Visit<'_, B>) {
    for (index, element) in list.iter_mut().enumerate() {
        at.push_index(index);
        element.layers_mut(at, visit);
        at.pop();
    }
}

macro_rules! tuples {
    ($($($element:ident $index:tt)+;)*) => {
        $(impl<B: Backend, $($element: Compressible<B>),+> Compressible<B> for ($($element,)+) {
            fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut Visit<'_, B>) {
                $(at.push_index($index);
                self.$index.layers_mut(at, visit);
                at.pop();)+
            }
        })*
    };
}

tuples! {
    T0 0;
    T0 0 T1 1;
    T0 0 T1 1 T2 2;
    T0 0 T1 1 T2 2 T3 3;
}
