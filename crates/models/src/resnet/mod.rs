//! Residual networks for CIFAR-10 (He et al. 2015, arXiv 1512.03385, section 4.2).

mod config;
mod model;

pub use config::ResNetConfig;
pub use model::{CifarResNet, ResidualBlock};
