//! Models of the Hugging Face hub.

use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use std::path::PathBuf;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What goes with the weights, where a model has it.
const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "briquette.json",
    "generation_config.json",
];

/// The folder of a downloaded model. What the cache has already is not downloaded again; a model that is there
/// in full is found without a network.
pub(crate) fn download(model: &str) -> Result<PathBuf, String> {
    download_with(ApiBuilder::from_env(), &Cache::from_env(), model)
}

fn download_with(builder: ApiBuilder, cache: &Cache, model: &str) -> Result<PathBuf, String> {
    let api = builder.with_progress(false).build().map_err(|e| e.to_string())?;
    let repo = api.model(model.to_string());
    let files = match repo.info() {
        Ok(info) => info.siblings.into_iter().map(|s| s.rfilename).collect::<Vec<_>>(),
        Err(error) => return cached(cache, model).ok_or_else(|| error.to_string()),
    };
    let wanted = wanted(&files)?;
    tracing::info!("downloading {model}: {}", wanted.join(", "));
    fetch(&repo, &wanted)
}

/// Downloads files; all of them end up in the folder of the first.
fn fetch(repo: &ApiRepo, wanted: &[&str]) -> Result<PathBuf, String> {
    let mut folder = None;
    for file in wanted {
        let path = repo.get(file).map_err(|e| format!("{file}: {e}"))?;
        folder = folder.or(path.parent().map(PathBuf::from));
    }
    folder.ok_or_else(|| "it has no files".into())
}

/// Configuration, weights and companions among a model's files.
fn wanted(files: &[String]) -> Result<Vec<&str>, String> {
    let has = |name: &str| files.iter().any(|f| f == name);
    if !has(CONFIG) {
        return Err(format!("it has no {CONFIG}"));
    }
    let mut wanted = vec![CONFIG];
    if has(WEIGHTS) {
        wanted.push(WEIGHTS);
    } else if has(INDEX) {
        wanted.push(INDEX);
        let shard = |f: &&String| f.starts_with("model-") && f.ends_with(".safetensors") && !f.contains('/');
        wanted.extend(files.iter().filter(shard).map(String::as_str));
    } else {
        return Err(format!("it has neither {WEIGHTS} nor {INDEX}"));
    }
    wanted.extend(COMPANIONS.into_iter().filter(|name| has(name)));
    Ok(wanted)
}

/// The folder of a model that an earlier run downloaded.
fn cached(cache: &Cache, model: &str) -> Option<PathBuf> {
    let cache = cache.model(model.to_string());
    let config = cache.get(CONFIG)?;
    cache.get(WEIGHTS).or_else(|| cache.get(INDEX))?;
    config.parent().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_companions_are_chosen() {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let single = list(&["README.md", "config.json", "model.safetensors", "vocab.txt", "tf_model.h5"]);
        assert_eq!(wanted(&single), Ok(vec!["config.json", "model.safetensors", "vocab.txt"]));
        let shards = list(&["config.json", "model-1.safetensors", "model.safetensors.index.json"]);
        let files = vec!["config.json", "model.safetensors.index.json", "model-1.safetensors"];
        assert_eq!(wanted(&shards), Ok(files));
        assert!(wanted(&list(&["config.json"])).is_err());
        assert!(wanted(&list(&["model.safetensors"])).is_err());
    }

    #[test]
    fn without_a_network_only_the_cache_helps() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(dir.path().into());
        // Port 9 discards: nothing answers there.
        let nowhere = || ApiBuilder::from_cache(cache.clone()).with_endpoint("http://127.0.0.1:9".into());
        let error = download_with(nowhere(), &cache, "owner/name").expect_err("no network");
        assert!(!error.is_empty());
        let repo = dir.path().join("models--owner--name");
        let snapshot = repo.join("snapshots/abc");
        for folder in [&snapshot, &repo.join("refs")] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        for (file, text) in [("refs/main", "abc"), ("snapshots/abc/config.json", "{}")] {
            std::fs::write(repo.join(file), text).expect("a file");
        }
        assert!(download_with(nowhere(), &cache, "owner/name").is_err(), "weights are missing");
        std::fs::write(snapshot.join(WEIGHTS), "").expect("a file");
        assert_eq!(download_with(nowhere(), &cache, "owner/name"), Ok(snapshot));
    }
}
