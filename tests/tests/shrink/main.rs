//! Units that are masked and then removed: the smaller model computes what the masked one did.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod artefact;
mod calibration;
mod cost;
mod equality;
mod groups;
mod keep_units;
mod networks;
mod plans;
mod training;
