//! Which parts of a model's parameters can only be removed together, found by running it.
//!
//! [`trace`] runs a model on [`Tracing`], a backend that computes nothing and writes down every operation.
//! [`Trace::dependencies`] then follows each entry of each axis of each parameter through the operations: entries that
//! meet go together, entries that reach an output or are mixed with others stay. What is left are groups of units:
//! neurons, heads, channels, entries of the hidden width.
//!
//! ```
//! use briquette_graph::{Tracing, trace};
//! use burn::nn::{Linear, LinearConfig};
//! use burn::prelude::*;
//!
//! #[derive(Module, Debug)]
//! struct Mlp<B: Backend> {
//!     up: Linear<B>,
//!     down: Linear<B>,
//! }
//!
//! let device = Default::default();
//! let model = Mlp::<Tracing> {
//!     up: LinearConfig::new(4, 16).init(&device),
//!     down: LinearConfig::new(16, 3).init(&device),
//! };
//! let x = Tensor::<Tracing, 2>::zeros([2, 4], &device);
//! let trace = trace(&model, &Default::default(), x, |m, x| m.down.forward(m.up.forward(x).tanh()))?;
//! let dependencies = trace.dependencies();
//! assert_eq!(dependencies.groups.len(), 1);
//! assert_eq!(dependencies.groups[0].name, "up");
//! assert_eq!(dependencies.groups[0].units, 16);
//! # Ok::<(), briquette_graph::TraceError>(())
//! ```
//!
//! What decides:
//!
//! - Values that are multiplied with a parameter and summed (a linear layer, a convolution) can be removed if the
//!   parameter's entries for them are zero: the parameter [consumes](briquette_core::Role::Consumes) them.
//! - Sums over anything else hold the entries: queries and keys are multiplied over a head's width, so heads go whole.
//! - An axis that is split goes by its outer part, unless what follows says otherwise: heads, not entries of heads.
//! - Groups of a convolution keep their number, channels go by their position within the group; in a depthwise
//!   convolution filters follow the channels.
//! - Every sum of products counts its multiplications by the units that its axes hold: [`briquette_core::Cost`] says what
//!   the model costs without some of them.
//! - A mean over entries that can go needs a layer that is told which are left: the one whose scale follows.
//!
//! Models that cannot be traced state their rules with [`DependenciesBuilder`]. [`describe`] and [`dot`] show groups.

mod axes;
mod backend;
mod cost;
mod declared;
mod dot;
mod error;
mod fit;
mod groups;
mod join;
mod labels;
mod names;
mod reshape;
mod rules;
mod text;
mod trace;
mod walk;
mod why;

pub use backend::{Bridge, Channel, Client, Tracing, TracingDevice};
pub use declared::DependenciesBuilder;
pub use dot::dot;
pub use error::{DeclareError, TraceError};
pub use fit::fitted;
pub use text::describe;
pub use trace::{OutputList, Outputs, Trace, trace};
