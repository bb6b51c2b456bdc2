//! A model's folder or an artefact, opened and loaded alike.

use crate::backend::On;
use crate::error::CliError;
use briquette_checkpoint::TensorFiles;
use briquette_composer::artefact::{Artefact, CONFIG};
use briquette_models::{Examples, ModelConfig, ModelError, Pretrained, PretrainedConfig, resolve};
use burn::prelude::*;
use std::path::{Path, PathBuf};

/// What a `--model` argument leads to.
pub(crate) struct Opened {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// What is in it.
    pub(crate) config: ModelConfig,
    /// The artefact, where it is one.
    pub(crate) artefact: Option<Artefact>,
}

impl Opened {
    /// Finds and checks the model; no weight is read into memory as numbers yet.
    pub(crate) fn new(model: &str) -> Result<Self, CliError> {
        Self::at(resolve(model)?)
    }

    /// The same for a folder that is known to be there.
    pub(crate) fn at(folder: PathBuf) -> Result<Self, CliError> {
        let (artefact, config) = match Artefact::is_at(&folder) {
            true => {
                let artefact = Artefact::open(&folder)?;
                let config = ModelConfig::from_json(artefact.config())
                    .map_err(|problems| ModelError::Config { file: folder.join(CONFIG), problems })?;
                (Some(artefact), config)
            }
            false => (None, ModelConfig::from_dir(&folder)?),
        };
        Ok(Self { folder, config, artefact })
    }

    /// The model with its weights; packed ones stay packed.
    pub(crate) fn load<B: Backend, M: Pretrained<B>>(
        &self,
        config: &M::Config,
        on: &On<B>,
    ) -> Result<M, CliError> {
        let device = &on.device;
        match &self.artefact {
            None => Ok(briquette_models::load(config, &self.folder, device)?),
            Some(artefact) => {
                let model = M::init(config, device);
                let naming = model.naming();
                Ok(artefact.load(model, &naming, device)?)
            }
        }
    }

    /// The model with float weights that can be compressed: pruned ones with their zeros.
    pub(crate) fn load_floats<B: Backend, M: Pretrained<B>>(
        &self,
        config: &M::Config,
        on: &On<B>,
    ) -> Result<M, CliError> {
        let Some(artefact) = &self.artefact else { return self.load(config, on) };
        let model = M::init(config, &on.device);
        let naming = model.naming();
        Ok(artefact.load_floats(model, &naming, &on.device)?)
    }

    /// [`load`](Self::load) for an architecture that is known to be the folder's.
    pub(crate) fn load_as<B: Backend, M: Pretrained<B>>(&self, on: &On<B>) -> Result<M, CliError> {
        match M::Config::pick(&self.config) {
            Some(config) => self.load(config, on),
            None => {
                let text = format!("{}: is a model of another architecture", self.folder.display());
                Err(CliError::Usage(text))
            }
        }
    }

    /// A data file for this model, batches padded as the device likes it.
    pub(crate) fn examples<B: Backend>(&self, file: &Path, on: &On<B>) -> Result<Examples, CliError> {
        let examples = Examples::read(file, &self.config.task(), &self.folder)?;
        Ok(examples.in_multiples_of(on.multiple()))
    }

    /// Whether it is an artefact whose weights or inputs are quantized.
    pub(crate) fn is_packed(&self) -> bool {
        let manifest = self.artefact.as_ref().map(Artefact::manifest);
        manifest.is_some_and(|m| !m.layers.is_empty() || !m.inputs.is_empty())
    }

    /// Bytes of all tensors.
    pub(crate) fn tensor_bytes(&self) -> Result<u64, CliError> {
        match &self.artefact {
            Some(artefact) => Ok(artefact.files().data_bytes()),
            None => Ok(TensorFiles::open(&self.folder)?.data_bytes()),
        }
    }
}

/// Name of a folder or hub id for people.
pub(crate) fn short_name(model: &str) -> String {
    let last = Path::new(model).file_name().map(|n| n.to_string_lossy().into_owned());
    last.unwrap_or_else(|| model.to_string())
}
