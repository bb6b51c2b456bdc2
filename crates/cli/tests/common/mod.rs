//! A folder with a tiny BERT, data for it, and the program.
#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

use briquette_checkpoint::Dtype;
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::{ModelConfig, Pretrained, save};
use burn::backend::Flex;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Words of the vocabulary, `[UNK]` included.
const WORDS: usize = 24;

/// A model, its teacher and data in a folder that is removed at the end.
pub(crate) struct Place(TempDir);

impl Place {
    /// With models of random weights and `sentences` examples.
    pub(crate) fn new(sentences: usize) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for name in ["model", "teacher"] {
            model(&place.path(name));
        }
        fs::write(place.path("train.tsv"), table(sentences)).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a recipe and gives its file.
    pub(crate) fn recipe(&self, recipe: &Value) -> PathBuf {
        let file = self.path("recipe.json");
        fs::write(&file, recipe.to_string()).unwrap();
        file
    }

    /// `briquette compress` of the model by `recipe.json` into the folder `out`. Words that name something in the
    /// place become its path.
    pub(crate) fn compress(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_briquette"));
        let own = ["model", "teacher", "train.tsv"];
        let word = |w: &&str| if own.contains(w) { self.path(w).into_os_string() } else { (*w).into() };
        command.arg("compress").arg("--model").arg(self.path("model"));
        command.arg("--recipe").arg(self.path("recipe.json")).arg("--out").arg(self.path(out));
        command.args(more.iter().map(word));
        command
    }
}

/// Random weights, other ones at each call.
fn model(folder: &Path) {
    let config = json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": WORDS,
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 12, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1
    });
    let ModelConfig::Bert(config) = ModelConfig::from_json(&config).unwrap() else { panic!("not a BERT") };
    fs::create_dir(folder).unwrap();
    let weights = BertForSequenceClassification::<Flex>::init(&config, &Default::default());
    save(&weights, &config, folder, &|_| Dtype::F32).unwrap();
    let mut vocabulary = Map::from_iter([("[UNK]".to_string(), json!(0))]);
    (1..WORDS).for_each(|i| drop(vocabulary.insert(format!("w{i}"), json!(i))));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Sentences of different lengths and whether their first word has an even number.
fn table(sentences: usize) -> String {
    let word = |n: usize, place: usize| 1 + (n * 31 + place * 17) % (WORDS - 1);
    let line = |n: usize| {
        let words: Vec<String> = (0..3 + n % 7).map(|place| format!("w{}", word(n, place))).collect();
        format!("{}\t{}\n", words.join(" "), (word(n, 0) + 1) % 2)
    };
    format!("sentence\tlabel\n{}", (0..sentences).map(line).collect::<String>())
}

/// What the program said, which must have ended with `status`.
pub(crate) fn said(output: &Output, status: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}
