//! What the tasks that measure have in common: where things are, and how their result files are written.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where things are, and on what to compute.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// The program, built in release mode.
    #[arg(long, value_name = "FILE", default_value_os_t = at("target/release/briquette"))]
    pub(crate) program: PathBuf,
    /// Folder of models, data and DeepSpeed's recipes; BRIQUETTE_DATA says it too.
    #[arg(long, value_name = "DIR", default_value_os_t = shared())]
    pub(crate) shared: PathBuf,
    /// Folder of the native recipes.
    #[arg(long, value_name = "DIR", default_value_os_t = at("recipes"))]
    pub(crate) recipes: PathBuf,
    /// What computes.
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "wgpu", "cuda"])]
    pub(crate) backend: String,
    /// The commit that the program was built from, for the result file.
    #[arg(long, value_name = "ID", default_value = "unknown")]
    pub(crate) commit: String,
    /// The result file; its table lies beside it. By default docs/results/NAME.json.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Folder for what is made on the way. By default one in the system's temporary folder.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl Common {
    /// The folder of a model.
    pub(crate) fn model(&self, name: &str) -> PathBuf {
        self.shared.join("models").join(name)
    }

    /// A file of data.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.shared.join("data").join(name)
    }

    /// The file of a recipe; those that begin with `deepspeed/` lie beside the data.
    pub(crate) fn recipe(&self, name: &str) -> PathBuf {
        match name.strip_prefix("deepspeed/") {
            Some(name) => self.shared.join("recipes").join(format!("{name}.json")),
            None => self.recipes.join(format!("{name}.json")),
        }
    }

    /// The folder for what is made on the way.
    pub(crate) fn scratch(&self) -> PathBuf {
        let temporary = || std::env::temp_dir().join(format!("briquette-xtask-{}", std::process::id()));
        self.scratch.clone().unwrap_or_else(temporary)
    }

    /// Writes the first sentences of the training data to a file in `folder`.
    pub(crate) fn calibration(&self, sentences: usize, folder: &Path) -> Result<PathBuf, String> {
        let source = self.data("sst2/train.tsv");
        let text = std::fs::read_to_string(&source).map_err(|e| format!("{}: {e}", source.display()))?;
        // The header is a line too.
        let head: String = text.split_inclusive('\n').take(sentences + 1).collect();
        let path = folder.join("calibration.tsv");
        std::fs::write(&path, head).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }

    /// Writes a result and its table.
    pub(crate) fn write(&self, name: &str, result: &Value, table: &str) -> Result<(), String> {
        let out = self.out.clone().unwrap_or_else(|| at(&format!("docs/results/{name}.json")));
        for (path, text) in [(out.clone(), format!("{result:#}\n")), (out.with_extension("md"), table.into())]
        {
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }
}

/// A place in the repository.
pub(crate) fn at(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository's root");
    root.join(path)
}

fn shared() -> PathBuf {
    std::env::var_os("BRIQUETTE_DATA").map_or_else(|| at("../shared"), PathBuf::from)
}

/// This run's command for a result file; of paths the last part.
pub(crate) fn command() -> String {
    let arguments = std::env::args().skip(1);
    let named: Vec<String> = arguments.map(|a| a.rsplit('/').next().unwrap_or_default().into()).collect();
    format!("cargo xtask {}", named.join(" "))
}

/// A file's JSON.
pub(crate) fn json(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
pub(crate) fn parse<T: clap::Args>(text: &str) -> Result<T, clap::Error> {
    let words = std::iter::once("xtask").chain(text.split(' ').filter(|word| !word.is_empty()));
    let matches = T::augment_args(clap::Command::new("xtask")).try_get_matches_from(words)?;
    T::from_arg_matches(&matches)
}
