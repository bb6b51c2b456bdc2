//! What can only be removed together in a model of a known architecture.

use briquette_composer::{Kept, ReducedLayers};
use briquette_core::Dependencies;
use briquette_graph::{Tracing, trace};
use briquette_layer_reduce::reduce;
use briquette_models::{Inputs, ModelConfig, ModelJob, Pretrained, PretrainedConfig, Task};
use burn::prelude::*;

/// Examples of the input that the model is traced with; their values do not matter.
const EXAMPLES: usize = 2;
/// Tokens of each, as far as the model takes them: what products of activations cost depends on it. The usual length
/// when encoders are timed.
const TOKENS: usize = 128;

/// Traces the architecture, of which only some layers stay where they are given. No weight is made or read.
pub(crate) fn find(config: &ModelConfig, kept: Option<&ReducedLayers>) -> Result<Dependencies, String> {
    config.run(Find { kept })
}

struct Find<'a> {
    kept: Option<&'a ReducedLayers>,
}

impl ModelJob<Tracing> for Find<'_> {
    type Output = Result<Dependencies, String>;

    fn run<M: Pretrained<Tracing>>(self, config: &M::Config) -> Self::Output {
        let device = Default::default();
        let mut model = M::init(config, &device);
        if let Some(layers) = self.kept {
            let kept = match &layers.kept {
                Kept::Indices(kept) => kept.clone(),
                // All of them are alike, and are numbered from 0 whichever stay.
                Kept::ByInfluence(count) => (0..*count).collect(),
            };
            reduce(&mut model, &layers.path, &kept).map_err(|e| e.to_string())?;
        }
        let tokens = match config.task() {
            Task::Classification { max_tokens: most, .. } | Task::LanguageModel { window: most, .. } => {
                TOKENS.min(most)
            }
            Task::Vision { .. } => 0,
        };
        let mut inputs =
            Inputs::dummy(&config.task(), EXAMPLES, tokens, &device).map_err(|e| e.to_string())?;
        if let Inputs::Tokens { mask, .. } = &mut inputs {
            *mask = Some(Tensor::ones([EXAMPLES, tokens], &device));
        }
        let traced = trace(&model, &model.naming().layers, inputs, |model, inputs| model.logits(inputs));
        let traced = traced.map_err(|e| format!("the model cannot be traced: {e}"))?;
        let mut found = traced.dependencies();
        found.cost = found.cost.map(|cost| cost.of_examples(EXAMPLES));
        Ok(found)
    }
}
