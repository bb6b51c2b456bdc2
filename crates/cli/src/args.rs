//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Compresses neural networks: quantization, planned and checked before any compute is spent.
#[derive(Debug, Parser)]
#[command(name = "briquette", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a recipe would do to a model; reads no weights.
    Plan(PlanArgs),
    /// Compress a model by a recipe and write an artefact.
    Compress(CompressArgs),
    /// Measure accuracy or perplexity.
    Eval(EvalArgs),
    /// Time the forward pass.
    Bench(BenchArgs),
    /// Show what is in a model's folder or an artefact.
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Folder of a Hugging Face model, or its id on the hub.
    #[arg(long)]
    pub(crate) model: String,
    /// The recipe, JSON.
    #[arg(long)]
    pub(crate) recipe: PathBuf,
    /// Write the plan as JSON to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CompressArgs {
    /// Folder of a Hugging Face model, or its id on the hub.
    #[arg(long)]
    pub(crate) model: String,
    /// The recipe, JSON.
    #[arg(long)]
    pub(crate) recipe: PathBuf,
    /// Folder of the artefact; an older artefact there is replaced.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Teacher for distillation.
    #[arg(long)]
    pub(crate) teacher: Option<String>,
    /// Training data.
    #[arg(long)]
    pub(crate) train: Option<PathBuf>,
    /// Data to calibrate static input ranges on.
    #[arg(long)]
    pub(crate) calib: Option<PathBuf>,
    /// Data to measure quality on, before and after.
    #[arg(long)]
    pub(crate) eval: Option<PathBuf>,
    /// Epochs of training.
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Learning rate.
    #[arg(long)]
    pub(crate) lr: Option<f64>,
    /// Examples at once; for training as the recipe says or as is usual for the task, else 32.
    #[arg(long, value_parser = positive)]
    pub(crate) batch: Option<usize>,
    /// The only source of randomness.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Continue an interrupted training.
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Write the report as JSON to this file too.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// Examples at once where nothing is said: enough to keep two cores busy, little enough to stay in
/// their caches.
pub(crate) const DEFAULT_BATCH: usize = 32;

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Folder of a Hugging Face model or of an artefact.
    #[arg(long)]
    pub(crate) model: String,
    /// `.tsv` (sentence, label), `.txt` (running text) or `.bin` (CIFAR-10 records).
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Examples at once.
    #[arg(long, default_value_t = DEFAULT_BATCH, value_parser = positive)]
    pub(crate) batch: usize,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Write the result as JSON to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Folder of a Hugging Face model or of an artefact.
    #[arg(long)]
    pub(crate) model: String,
    /// Examples at once.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub(crate) batch: usize,
    /// Tokens of each example; 128 where nothing is said. Images have none.
    #[arg(long, value_parser = positive)]
    pub(crate) seq: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Write the result as JSON to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Folder of a model or of an artefact.
    pub(crate) dir: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute. `wgpu` and `cuda` must have been built in.
    #[arg(long, value_enum, default_value_t = BackendChoice::Cpu)]
    pub(crate) backend: BackendChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendChoice {
    /// The processor.
    Cpu,
    /// A GPU through Vulkan.
    Wgpu,
    /// An NVIDIA GPU.
    Cuda,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is expected".into()),
        Ok(n) => Ok(n),
    }
}
