//! Distillation: a model, the student, is trained to compute what another, its teacher, computes.
//!
//! - [`DistillationSettings`]: what a recipe says, which losses with which weights, in which stages of a training;
//! - [`Distillation`]: the same resolved for two models, by their shapes alone; it adds up the losses of a batch;
//! - [`losses`]: each loss by itself, one file a kind;
//! - [`LayerMapping`]: which layers are compared; [`Projections`]: how, where they differ in width.
//!
//! Models take part through [`briquette_nn::Tapped`].

mod distillation;
pub mod losses;
mod mapping;
mod projection;
mod settings;

pub use distillation::{Distillation, LossParts};
pub use mapping::{LayerMapping, Layers, MappingError};
pub use projection::Projections;
pub use settings::{
    DistillationSettings, LogitsLoss, LogitsTerm, Preset, ProbabilitiesLoss, ProbabilitiesTerm, StageSettings,
};
