//! Logits of real models on one backend against the stored reference and against the CPU.
//!
//! `fidelity MODELS_DIR [cpu|wgpu|cuda] [EXAMPLES]`: for every model in the folder that has a
//! `reference.safetensors`, a line of JSON with the largest absolute differences.

use briquette_checkpoint::{TensorFiles, TensorRef};
use briquette_core::host_floats;
use briquette_kernels::backend::Cpu;
use briquette_models::{IMAGE_SIDE, Inputs, ModelConfig, ModelJob, Pretrained, Task, load};
use burn::prelude::*;
use serde_json::json;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("usage: fidelity MODELS_DIR [cpu|wgpu|cuda] [EXAMPLES]")?;
    let backend = arguments.get(1).map_or("cpu", String::as_str);
    let examples = arguments.get(2).map_or(Ok(usize::MAX), |n| n.parse())?;
    let mut models: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    models.sort();
    for model in models.iter().filter(|m| m.join("reference.safetensors").is_file()) {
        let check = Check { folder: model, examples };
        match backend {
            "cpu" => check.run::<Cpu>(backend)?,
            #[cfg(feature = "wgpu")]
            "wgpu" => check.run::<briquette_kernels::backend::Wgpu>(backend)?,
            #[cfg(feature = "cuda")]
            "cuda" => check.run::<briquette_kernels::backend::Cuda>(backend)?,
            other => return Err(format!("backend `{other}` is not built in").into()),
        }
    }
    Ok(())
}

struct Check<'a> {
    folder: &'a Path,
    examples: usize,
}

impl Check<'_> {
    fn run<B: Backend>(&self, backend: &str) -> Outcome<()> {
        let config = ModelConfig::from_dir(self.folder)?;
        let (found, stored) = self.logits::<B>(&config)?;
        let (oracle, _) = self.logits::<Cpu>(&config)?;
        let line = json!({
            "model": self.folder.file_name().map(|n| n.to_string_lossy().into_owned()),
            "backend": backend,
            "values": found.len(),
            "max_abs_difference_to_reference": largest_difference(&found, &stored),
            "max_abs_difference_to_cpu": largest_difference(&found, &oracle),
        });
        writeln!(std::io::stdout(), "{line}")?;
        Ok(())
    }

    /// Logits on backend `B` and those stored, of the same examples and positions.
    fn logits<B: Backend>(&self, config: &ModelConfig) -> Outcome<(Vec<f32>, Vec<f32>)> {
        config.run(Logits::<B> { check: self, task: config.task(), device: Default::default() })
    }
}

struct Logits<'a, B: Backend> {
    check: &'a Check<'a>,
    task: Task,
    device: B::Device,
}

impl<B: Backend> ModelJob<B> for Logits<'_, B> {
    type Output = Outcome<(Vec<f32>, Vec<f32>)>;

    fn run<M: Pretrained<B>>(self, config: &M::Config) -> Self::Output {
        let model: M = load(config, self.check.folder, &self.device)?;
        let files = TensorFiles::open(self.check.folder.join("reference.safetensors"))?;
        let (inputs, examples) = self.inputs(&files)?;
        let found = model.logits(inputs);
        if !matches!(self.task, Task::LanguageModel { .. }) {
            let stored = files.get("logits")?.to_f32()?;
            let found = host_floats(found);
            let stored = stored[..found.len()].to_vec();
            return Ok((found, stored));
        }
        // The reference keeps the last positions of every window.
        let stored = files.get("logits_last16")?;
        let (kept, classes) = (stored.shape()[1], stored.shape()[2]);
        let seq = found.dims()[0] / examples;
        let found = found.reshape([examples, seq, classes]).slice([0..examples, seq - kept..seq, 0..classes]);
        let found = host_floats(found);
        let stored = stored.to_f32()?[..found.len()].to_vec();
        Ok((found, stored))
    }
}

impl<B: Backend> Logits<'_, B> {
    fn inputs(&self, files: &TensorFiles) -> Outcome<(Inputs<B>, usize)> {
        if let Task::Vision { mean, std, .. } = &self.task {
            let pixels = files.get("pixels_u8")?;
            let examples = pixels.shape()[0].min(self.check.examples);
            let plane = IMAGE_SIDE * IMAGE_SIDE;
            let values: Vec<f32> = pixels.to_i64()?[..examples * 3 * plane]
                .iter()
                .enumerate()
                .map(|(i, p)| (*p as f32 / 255.0 - mean[i / plane % 3]) / std[i / plane % 3])
                .collect();
            let data = TensorData::new(values, [examples, 3, IMAGE_SIDE, IMAGE_SIDE]);
            return Ok((Inputs::Images(Tensor::from_data(data, &self.device)), examples));
        }
        let (ids, examples) = self.ints(files.get("input_ids")?)?;
        let mask = match files.contains("attention_mask") {
            true => Some(self.ints(files.get("attention_mask")?)?.0),
            false => None,
        };
        Ok((Inputs::Tokens { ids, mask }, examples))
    }

    fn ints(&self, tensor: TensorRef<'_>) -> Outcome<(Tensor<B, 2, Int>, usize)> {
        let [rows, columns] = <[usize; 2]>::try_from(tensor.shape())?;
        let rows = rows.min(self.check.examples);
        let values: Vec<i32> = tensor.to_i64()?[..rows * columns].iter().map(|n| *n as i32).collect();
        Ok((Tensor::from_data(TensorData::new(values, [rows, columns]), &self.device), rows))
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
