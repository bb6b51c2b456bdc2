//! The language of Briquette. No algorithm, no file format, no command line.
//!
//! - [`ModelView`]: a model as names, layer kinds and shapes; made without touching a weight.
//! - [`Selector`]: which layers a recipe entry means.
//! - [`Diagnostics`]: every problem of a recipe at once, each with its place.
//! - [`Schedule`] and [`Clock`]: when a method acts.
//! - [`CompressionMethod`] and [`Stage`]: what a technique has to provide.
//! - [`Joint`]: what a technique does over all its layers at once; [`Dependencies`]: what can only be removed
//!   together; [`Cost`]: what a model costs without it.
//! - [`Step`]: one method on one layer, as the plan states it.
//!
//! Axes used everywhere: `out` is a layer's number of outputs (vocabulary entries of an
//! embedding), `in` its number of inputs (the width of an embedding). The canonical view of a
//! weight is `[out, in]`; a convolution's is `[out, in * kh * kw]`.

mod block_list;
mod cost;
mod counts;
mod dependencies;
mod diagnostics;
pub mod fields;
mod input;
mod joint;
mod method;
mod model_view;
mod plan;
mod removal;
mod schedule;
mod selector;
mod sensitivity;
mod state;
mod weight;

pub use block_list::BlockList;
pub use cost::{Cost, CostGroup, CostTerm, Length, LengthPart, Measure};
pub use counts::{Counts, OutputCount};
pub use dependencies::{Dependencies, DimensionGroup, Fixed, Member, Role};
pub use diagnostics::{Diagnostic, Diagnostics, Problem, nearest};
pub use input::{InputObserver, InputQuantization, InputRange, ScaleRule};
pub use joint::{Joint, UnitMask};
pub use method::{
    Attached, CodeKind, CodedWeight, Compensation, CompressionMethod, KeptPart, Left, LowRank, Outcome,
    SparsePattern, SparseWeight, Stage, StageKind,
};
pub use model_view::{LayerKind, ModelView, NameTable, Parameter, Site, materialize};
pub use plan::{GroupCut, PlanBuilder, Step};
pub use removal::{KeptUnits, Removal, UnknownGroup};
pub use schedule::{Clock, Schedule};
pub use selector::{LayerPattern, PatternError, Selector};
pub use sensitivity::{Curve, SensitivityCurve, Within};
pub use state::{SessionState, SharedKeys, StateBuilder};
pub use weight::{canonical_shape, from_canonical, host_floats, stop, to_canonical};
