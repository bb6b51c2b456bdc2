//! From a recipe to an artefact: recipe, registry of methods, plan, session, artefact, report.
//!
//! ```text
//! Recipe -> Plan -> Session -> Finished -> artefact and report
//! ```
//!
//! Each arrow is a type that is made from the last. [`init_compression`] and [`redundancy_clean`]
//! are the same road under DeepSpeed's names.

pub mod artefact;
mod deepspeed_api;
mod plan;
pub mod recipe;
mod registry;
pub mod report;
pub mod sensitivity;
mod session;

pub use briquette_layer_reduce::{Kept, ReducedLayers};
pub use deepspeed_api::{InitError, init_compression, redundancy_clean};
pub use plan::{Composer, Plan, Trace};
pub use recipe::{
    Augmentation, BlockInput, Decay, Keep, LayerByLayerSettings, OptimizerKind, Recipe, RecipeError, Scanned,
    SensitivitySettings, TrainingSettings,
};
pub use registry::{NameTaken, Registry};
pub use sensitivity::{Scan, ScanError, SensitivityRow};
pub use session::{
    CalibrationError, FinishError, Finished, FinishedLayer, FollowsRemoval, Misfit, Position, Removals,
    Removed, RemovedUnits, ResumeError, Session, ShorterAxis, ShrinkError, Trainable, Trained,
};
