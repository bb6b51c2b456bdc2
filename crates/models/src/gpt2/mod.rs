//! GPT-2 with its language-model head (Radford et al. 2019).

mod config;
mod model;

pub use config::Gpt2Config;
pub use model::{Gpt2Attention, Gpt2Block, Gpt2LmHead, Gpt2Mlp, Gpt2Model};
