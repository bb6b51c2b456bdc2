//! From what a user calls a model to its folder.

use crate::error::ModelError;
use std::path::{Path, PathBuf};

/// The folder of a model given as a path or, with the feature `hub`, as an id of the Hugging Face hub
/// (`owner/name` or `name`), which is downloaded into the hub's cache.
///
/// # Errors
/// When there is no such folder and the text is no hub id, or the hub does not have it or cannot be reached.
pub fn resolve(model: &str) -> Result<PathBuf, ModelError> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.into());
    }
    if path.exists() {
        return Err(ModelError::NotAFolder { path: path.into() });
    }
    if !is_hub_id(model) {
        return Err(ModelError::NoFolder { path: path.into() });
    }
    download(model)
}

/// Whether a text could be `owner/name` or `name` on the hub.
fn is_hub_id(text: &str) -> bool {
    let legal = |part: &str| {
        let mut letters = part.chars();
        part.len() <= 96
            && letters.next().is_some_and(|c| c.is_ascii_alphanumeric())
            && letters.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.contains("..")
    };
    match text.split_once('/') {
        Some((owner, name)) => legal(owner) && legal(name),
        None => legal(text),
    }
}

#[cfg(feature = "hub")]
fn download(model: &str) -> Result<PathBuf, ModelError> {
    crate::hub::download(model).map_err(|reason| ModelError::Hub { model: model.into(), reason })
}

#[cfg(not(feature = "hub"))]
fn download(model: &str) -> Result<PathBuf, ModelError> {
    let reason = "this program was built without the feature `hub`".into();
    Err(ModelError::Hub { model: model.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        for id in ["gpt2", "bert-base-uncased", "openai-community/gpt2", "a/b.c_d-1"] {
            assert!(is_hub_id(id), "{id}");
        }
        for path in ["./gpt2", "../a/b", "/a/b", "a/b/c", "a//b", "a/", "", "a b", "a/..", "a\\b", "~/x"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }

    #[test]
    fn missing_folders_are_named() {
        let text = resolve("./no/such").expect_err("is not there").to_string();
        assert_eq!(text, "./no/such: no such folder");
        let text = resolve("Cargo.toml").expect_err("is a file").to_string();
        assert_eq!(text, "Cargo.toml: a model is a folder, this is a file");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_an_id_is_an_error_that_says_so() {
        let text = resolve("owner/no-such-model").expect_err("no hub").to_string();
        assert!(text.starts_with("`owner/no-such-model`: there is no such folder"), "{text}");
        assert!(text.ends_with("built without the feature `hub`"), "{text}");
    }
}
