//! A model's folder or an artefact, opened and loaded alike.

use crate::backend::On;
use crate::error::CliError;
use briquette_checkpoint::TensorFiles;
use briquette_composer::artefact::{Artefact, CONFIG};
use briquette_core::LayerKind;
use briquette_models::{ModelConfig, ModelError, Pretrained, resolve};
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
        self.refuse_wrong_results(on.backend)?;
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

    /// Rows of a packed embedding come out wrong through Vulkan (the kernels' Vulkan tests show it); an
    /// error is better than a wrong answer.
    fn refuse_wrong_results(&self, backend: &str) -> Result<(), CliError> {
        let layers = self.artefact.as_ref().map_or(&[][..], |a| &a.manifest().layers);
        match layers.iter().find(|l| backend == "wgpu" && l.kind == LayerKind::Embedding) {
            Some(l) => {
                let text =
                    "packed embeddings are not computed rightly on wgpu in this version; use cpu or cuda";
                Err(CliError::Backend(format!("{}: {text}", l.name)))
            }
            None => Ok(()),
        }
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
