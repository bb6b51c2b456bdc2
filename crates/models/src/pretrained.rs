//! What all models have in common, and how a program is written once for all of them.

use crate::bert::BertForSequenceClassification;
use crate::config::{CONFIG_FILE, ModelConfig, PretrainedConfig};
use crate::error::ModelError;
use crate::gpt2::Gpt2LmHead;
use crate::resnet::CifarResNet;
use crate::task::Inputs;
use briquette_checkpoint::{Dtype, Naming, TensorFiles, load_module, module_tensors, write};
use briquette_core::ModelView;
use briquette_kernels::backend::Cpu;
use briquette_nn::{Blocks, Compressible, Tapped, Wanted};
use burn::module::{AutodiffModule, ModuleDisplay};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

/// The name of the weights in a model's folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// A model with the names and the layout of its Hugging Face checkpoint.
pub trait Pretrained<B: Backend>:
    Module<B> + ModuleDisplay + Compressible<B> + Tapped<B, Input = Inputs<B>>
{
    /// Its `config.json`.
    type Config: PretrainedConfig;

    /// A model with fresh weights, which stay lazy until they are used.
    fn init(config: &Self::Config, device: &B::Device) -> Self;

    /// How its checkpoint's tensors are called and laid out.
    fn naming(&self) -> Naming;

    /// The configuration with the number of layers that the model has now, and with its dimensions as far as a
    /// configuration of this architecture can state them: those that all layers share. A model from it has the
    /// dimensions of the one that it was made for where this one has others still.
    fn config_now(&self, config: &Self::Config) -> Self::Config;

    /// One row of scores per text or image, `[batch, classes]`; for language models one per token,
    /// `[batch * seq, vocabulary]`.
    ///
    /// # Panics
    /// When the inputs are of another task or exceed what the model takes.
    fn logits(&self, inputs: Inputs<B>) -> Tensor<B, 2> {
        self.tapped(inputs, Wanted::default()).logits
    }

    /// The model with all dropout switched off, for training that follows a teacher closely. Dropout acts on
    /// backends with gradients only; nothing else changes, and [`config_now`](Self::config_now) keeps the
    /// configuration's probabilities.
    fn without_dropout(self) -> Self;

    /// Names, kinds and shapes. Lazy weights stay lazy; layers with a packed weight are left out.
    fn view(&self) -> ModelView {
        let mut view = ModelView::with_names(self, &self.naming().layers);
        view.sites.retain(|site| !site.is_empty());
        view
    }
}

/// Whether the parameters of two models have the same shapes. Lazy weights stay lazy.
pub(crate) fn same_shapes<B: Backend, M: Module<B>>(one: &M, other: &M) -> bool {
    let shapes = |model: &M| ModelView::of(model).parameters.into_iter().map(|p| p.shape).collect::<Vec<_>>();
    shapes(one) == shapes(other)
}

/// The value that all of these have, if there is one.
pub(crate) fn uniform(mut values: impl Iterator<Item = usize>) -> Option<usize> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// A model with the weights of a folder.
///
/// # Errors
/// When the weights are damaged or do not fit the configuration.
pub fn load<B: Backend, M: Pretrained<B>>(
    config: &M::Config,
    folder: impl AsRef<Path>,
    device: &B::Device,
) -> Result<M, ModelError> {
    let files = TensorFiles::open(folder)?;
    let model = M::init(config, device);
    let naming = model.naming();
    Ok(load_module(model, &naming, &files, &HashSet::new())?)
}

/// Writes `config.json` and `model.safetensors` into a folder, which is made where it does not exist. `dtype` says
/// of which type a tensor's elements shall be; [`Naming::dtypes`] tells what they were in the source.
///
/// # Errors
/// When a value does not fit its type or a file cannot be written.
pub fn save<B: Backend, M: Pretrained<B>>(
    model: &M,
    config: &M::Config,
    folder: impl AsRef<Path>,
    dtype: &dyn Fn(&str) -> Dtype,
) -> Result<(), ModelError> {
    let folder = folder.as_ref();
    std::fs::create_dir_all(folder).map_err(|source| ModelError::Io { file: folder.into(), source })?;
    let tensors = module_tensors(model, &model.naming(), dtype)?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write(folder.join(WEIGHTS_FILE), &tensors, &metadata)?;
    let file = folder.join(CONFIG_FILE);
    let text = format!("{:#}\n", model.config_now(config).to_json());
    std::fs::File::create(&file)
        .and_then(|mut out| out.write_all(text.as_bytes()))
        .map_err(|source| ModelError::Io { file, source })
}

/// Something done with a model of whatever architecture.
pub trait ModelJob<B: Backend> {
    /// What comes out.
    type Output;

    /// Does it for an architecture `M`; the model is not made yet.
    fn run<M: Pretrained<B>>(self, config: &M::Config) -> Self::Output;
}

/// Something done with a model that can be trained.
pub trait TrainingJob<B: AutodiffBackend> {
    /// What comes out.
    type Output;

    /// Does it for an architecture `M`; the model is not made yet.
    fn run<M>(self, config: &M::Config) -> Self::Output
    where
        M: Pretrained<B> + AutodiffModule<B>,
        M::InnerModule: Pretrained<B::InnerBackend, Config = M::Config>;
}

/// Something done with a model that can be trained block by block.
pub trait BlocksJob<B: AutodiffBackend> {
    /// What comes out.
    type Output;

    /// Does it for an architecture `M`; the model is not made yet.
    fn run<M>(self, config: &M::Config) -> Self::Output
    where
        M: Pretrained<B> + Blocks<B, Input = Inputs<B>> + AutodiffModule<B>,
        M::InnerModule: Pretrained<B::InnerBackend, Config = M::Config>
            + Blocks<B::InnerBackend, Input = Inputs<B::InnerBackend>>;
}

impl ModelConfig {
    /// Does `job` for this configuration's architecture.
    pub fn run<B: Backend, J: ModelJob<B>>(&self, job: J) -> J::Output {
        match self {
            Self::Bert(config) => job.run::<BertForSequenceClassification<B>>(config),
            Self::Gpt2(config) => job.run::<Gpt2LmHead<B>>(config),
            Self::ResNet(config) => job.run::<CifarResNet<B>>(config),
        }
    }

    /// Does `job`, which needs gradients, for this configuration's architecture.
    pub fn run_training<B: AutodiffBackend, J: TrainingJob<B>>(&self, job: J) -> J::Output {
        match self {
            Self::Bert(config) => job.run::<BertForSequenceClassification<B>>(config),
            Self::Gpt2(config) => job.run::<Gpt2LmHead<B>>(config),
            Self::ResNet(config) => job.run::<CifarResNet<B>>(config),
        }
    }

    /// Whether the architecture's body is a stack of blocks of one kind, which [`run_blocks`](Self::run_blocks)
    /// needs.
    pub fn has_blocks(&self) -> bool {
        match self {
            Self::Bert(_) | Self::Gpt2(_) => true,
            Self::ResNet(_) => false,
        }
    }

    /// Does `job`, which needs gradients and blocks, for this configuration's architecture.
    ///
    /// # Errors
    /// The job itself where the architecture [has no blocks](Self::has_blocks).
    pub fn run_blocks<B: AutodiffBackend, J: BlocksJob<B>>(&self, job: J) -> Result<J::Output, J> {
        match self {
            Self::Bert(config) => Ok(job.run::<BertForSequenceClassification<B>>(config)),
            Self::Gpt2(config) => Ok(job.run::<Gpt2LmHead<B>>(config)),
            Self::ResNet(_) => Err(job),
        }
    }

    /// The model as names, kinds and shapes; no weight is made or read.
    pub fn view(&self) -> ModelView {
        struct View;
        impl ModelJob<Cpu> for View {
            type Output = ModelView;
            fn run<M: Pretrained<Cpu>>(self, config: &M::Config) -> ModelView {
                M::init(config, &Default::default()).view()
            }
        }
        self.run(View)
    }
}
