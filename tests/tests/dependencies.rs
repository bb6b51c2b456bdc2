//! What a trace finds in BERT, GPT-2 and ResNet-20, against groups stated by hand.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_core::Role::{Consumes, Follows, Produces};
use briquette_core::{Dependencies, DimensionGroup, ModelView};
use briquette_graph::{DependenciesBuilder, Tracing, describe, dot, fitted, trace};
use briquette_models::{Inputs, ModelConfig, ModelJob, Pretrained, PretrainedConfig};
use burn::prelude::*;
use serde_json::json;

/// Traces a model of a known architecture with an input of two examples.
struct Find<'a>(Option<&'a ModelView>);

impl ModelJob<Tracing> for Find<'_> {
    type Output = (ModelView, Dependencies);

    fn run<M: Pretrained<Tracing>>(self, config: &M::Config) -> Self::Output {
        let device = Default::default();
        let mut model = M::init(config, &device);
        if let Some(view) = self.0 {
            model = fitted(model, view).unwrap();
        }
        let mut inputs = Inputs::dummy(&config.task(), 2, 3, &device).unwrap();
        if let Inputs::Tokens { mask, .. } = &mut inputs {
            *mask = Some(Tensor::ones([2, 3], &device));
        }
        let trace = trace(&model, &model.naming().layers, inputs, |m, inputs| m.logits(inputs)).unwrap();
        (model.view(), trace.dependencies())
    }
}

fn find(config: &serde_json::Value) -> (ModelView, Dependencies) {
    ModelConfig::from_json(config).unwrap().run(Find(None))
}

fn check(found: &Dependencies, stated: DependenciesBuilder<'_>) {
    let stated = stated.build().unwrap();
    let names =
        |groups: &[DimensionGroup]| groups.iter().map(|g| (g.name.clone(), g.units)).collect::<Vec<_>>();
    assert_eq!(names(&found.groups), names(&stated.groups), "{}", describe(found));
    for (found, stated) in found.groups.iter().zip(&stated.groups) {
        assert_eq!(found, stated);
    }
}

#[test]
fn bert_has_neurons_heads_a_hidden_width_and_a_pooled_one() {
    let (view, found) = find(&json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30,
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 40,
        "max_position_embeddings": 16
    }));
    let layer = |l: usize, rest: &str| format!("bert.encoder.layer.{l}.{rest}");
    let mut stated = DependenciesBuilder::new(&view).group(24);
    for table in ["word_embeddings", "position_embeddings", "token_type_embeddings"] {
        let name = format!("bert.embeddings.{table}.weight");
        let one = (0..24).map(|i| vec![i]).collect();
        // One row of each for all texts: added to the words, whatever the text.
        stated = stated.member(&name, 1, Produces, one);
    }
    stated = stated
        .follows("bert.embeddings.LayerNorm.weight")
        .follows("bert.embeddings.LayerNorm.bias")
        .averaged_by("bert.embeddings.LayerNorm");
    for l in 0..2 {
        for part in ["query", "key", "value"] {
            stated = stated.consumes(&layer(l, &format!("attention.self.{part}.weight")));
        }
        for half in ["attention.output", "output"] {
            stated = stated
                .produces(&layer(l, &format!("{half}.dense.weight")))
                .produces(&layer(l, &format!("{half}.dense.bias")))
                .follows(&layer(l, &format!("{half}.LayerNorm.weight")))
                .follows(&layer(l, &format!("{half}.LayerNorm.bias")))
                .averaged_by(&layer(l, &format!("{half}.LayerNorm")));
        }
        stated = stated.consumes(&layer(l, "intermediate.dense.weight"));
    }
    stated = stated.consumes("bert.pooler.dense.weight");
    for l in 0..2 {
        stated = stated.group(6).consumes(&layer(l, "attention.output.dense.weight"));
        for part in ["query", "key", "value"] {
            let own = |p: &str| layer(l, &format!("attention.self.{part}.{p}"));
            stated = stated.produces(&own("weight")).produces(&own("bias"));
        }
        stated = stated
            .group(40)
            .produces(&layer(l, "intermediate.dense.weight"))
            .produces(&layer(l, "intermediate.dense.bias"))
            .consumes(&layer(l, "output.dense.weight"));
    }
    stated = stated
        .group(24)
        .produces("bert.pooler.dense.weight")
        .produces("bert.pooler.dense.bias")
        .consumes("classifier.weight");
    check(&found, stated);
    let stays: Vec<_> = found.fixed.iter().map(|f| (f.name.as_str(), f.axis)).collect();
    let expected = [
        ("bert.embeddings.word_embeddings.weight", 0),
        ("bert.embeddings.position_embeddings.weight", 0),
        ("bert.embeddings.token_type_embeddings.weight", 0),
        ("classifier.weight", 1),
        ("classifier.bias", 0),
    ];
    assert_eq!(stays, expected);
}

#[test]
fn gpt2_has_heads_in_fused_projections_and_a_tied_width() {
    let config = json!({
        "model_type": "gpt2", "vocab_size": 30, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 6
    });
    let (view, found) = find(&config);
    let block = |l: usize, rest: &str| format!("transformer.h.{l}.{rest}");
    let mut stated = DependenciesBuilder::new(&view)
        .group(24)
        .produces("transformer.wte.weight")
        .consumes("transformer.wte.weight")
        .produces("transformer.wpe.weight");
    for l in 0..2 {
        for (norm, reads, makes) in
            [("ln_1", "attn.c_attn", "attn.c_proj"), ("ln_2", "mlp.c_fc", "mlp.c_proj")]
        {
            stated = stated
                .follows(&block(l, &format!("{norm}.weight")))
                .follows(&block(l, &format!("{norm}.bias")))
                .averaged_by(&block(l, norm))
                .consumes(&block(l, &format!("{reads}.weight")))
                .produces(&block(l, &format!("{makes}.weight")))
                .produces(&block(l, &format!("{makes}.bias")));
        }
    }
    stated = stated
        .follows("transformer.ln_f.weight")
        .follows("transformer.ln_f.bias")
        .averaged_by("transformer.ln_f");
    for l in 0..2 {
        let runs = |part: usize, head: usize| part * 24 + head * 4..part * 24 + head * 4 + 4;
        let heads = || (0..6).map(|head| (0..3).flat_map(|part| runs(part, head)).collect()).collect();
        stated = stated
            .group(6)
            .member(&block(l, "attn.c_attn.weight"), 1, Produces, heads())
            .member(&block(l, "attn.c_attn.bias"), 0, Produces, heads())
            .consumes(&block(l, "attn.c_proj.weight"))
            .group(96)
            .produces(&block(l, "mlp.c_fc.weight"))
            .produces(&block(l, "mlp.c_fc.bias"))
            .consumes(&block(l, "mlp.c_proj.weight"));
    }
    check(&found, stated);
    assert_eq!(dot(&found).lines().filter(|line| line.contains("ellipse")).count(), 5);
}

/// Of each unit of the residual stream its channel in this stage. Units are counted as channels first occur: the first
/// stage's, then those that the second adds before and after them, then those of the third.
fn stream(stage: usize) -> Vec<Vec<usize>> {
    let first = (0..16).map(|i| [Some(i), Some(8 + i), Some(24 + i)]);
    let second = (0..8).chain(24..32).map(|i| [None, Some(i), Some(16 + i)]);
    let third = (0..16).chain(48..64).map(|i| [None, None, Some(i)]);
    first.chain(second).chain(third).map(|unit| unit[stage - 1].into_iter().collect()).collect()
}

fn batch_norm<'a>(mut stated: DependenciesBuilder<'a>, norm: &str, stage: usize) -> DependenciesBuilder<'a> {
    for own in ["weight", "bias", "running_mean", "running_var"] {
        stated = stated.member(&format!("{norm}.{own}"), 0, Follows, stream(stage));
    }
    stated
}

#[test]
fn resnet_has_channels_within_blocks_and_one_stream_through_its_shortcuts() {
    let (view, found) = find(&json!({
        "model_type": "cifar-resnet", "depth": 20, "num_classes": 10,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]
    }));
    let mut stated = DependenciesBuilder::new(&view).group(64).member("conv1.weight", 0, Produces, stream(1));
    stated = batch_norm(stated, "bn1", 1);
    for stage in 1..=3 {
        for b in 0..3 {
            let from = if b == 0 { (stage - 1).max(1) } else { stage };
            stated = stated
                .member(&format!("layer{stage}.{b}.conv1.weight"), 1, Consumes, stream(from))
                .member(&format!("layer{stage}.{b}.conv2.weight"), 0, Produces, stream(stage));
            stated = batch_norm(stated, &format!("layer{stage}.{b}.bn2"), stage);
        }
    }
    stated = stated.member("linear.weight", 0, Consumes, stream(3));
    for (stage, width) in [(1, 16), (2, 32), (3, 64)] {
        for b in 0..3 {
            let block = |rest: &str| format!("layer{stage}.{b}.{rest}");
            stated = stated
                .group(width)
                .produces(&block("conv1.weight"))
                .follows(&block("bn1.weight"))
                .follows(&block("bn1.bias"))
                .follows(&block("bn1.running_mean"))
                .follows(&block("bn1.running_var"))
                .consumes(&block("conv2.weight"));
        }
    }
    check(&found, stated);
}

#[test]
fn a_model_that_lost_neurons_is_traced_as_it_is() {
    let config = json!({
        "model_type": "gpt2", "vocab_size": 30, "n_positions": 16, "n_embd": 24, "n_layer": 1, "n_head": 6
    });
    let (mut view, _) = find(&config);
    for (name, shape) in
        [("c_fc.weight", vec![24, 90]), ("c_fc.bias", vec![90]), ("mlp.c_proj.weight", vec![90, 24])]
    {
        view.parameters.iter_mut().find(|p| p.name.ends_with(name)).unwrap().shape = shape;
    }
    let (_, found) = ModelConfig::from_json(&config).unwrap().run(Find(Some(&view)));
    let units: Vec<usize> = found.groups.iter().map(|g| g.units).collect();
    assert_eq!(units, [24, 6, 90]);
}
