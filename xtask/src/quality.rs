//! `cargo xtask quality`: compresses real models by the recipes of this repository (and any folder of
//! DeepSpeed recipes beside the data), measures each reloaded artefact, and writes a result file.

use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One model, its data and the recipes to try.
struct Suite {
    model: &'static str,
    data: &'static str,
    calib: Option<usize>,
    recipes: &'static [&'static str],
}

/// The suites by name. Recipes that begin with `deepspeed/` lie in the data folder's `recipes/`.
const SUITES: &[(&str, Suite)] = &[
    (
        "zeroquant_bert",
        Suite {
            model: "minilm-sst2",
            data: "sst2/dev.tsv",
            calib: None,
            recipes: &["deepspeed/zeroquant_w8a8_bert", "deepspeed/zeroquant_w48a8_bert", "bert_w8a8"],
        },
    ),
    (
        "zeroquant_gpt2",
        Suite {
            model: "gpt2-wikitext2",
            data: "wikitext2/valid.txt",
            calib: None,
            recipes: &["deepspeed/zeroquant_w8a8_gpt2", "deepspeed/zeroquant_w48a8_gpt2", "gpt2_w8a8"],
        },
    ),
    (
        "weight_only_bert",
        Suite {
            model: "minilm-sst2",
            data: "sst2/dev.tsv",
            calib: None,
            recipes: &[
                "bert_deepspeed_w8",
                "bert_w8",
                "bert_w4",
                "bert_w4g64",
                "bert_w3",
                "bert_w2",
                "bert_w1",
            ],
        },
    ),
    (
        "weight_only_gpt2",
        Suite {
            model: "gpt2-wikitext2",
            data: "wikitext2/valid.txt",
            calib: None,
            recipes: &[
                "gpt2_deepspeed_w8",
                "gpt2_deepspeed_w4",
                "gpt2_deepspeed_w3",
                "gpt2_deepspeed_w2",
                "gpt2_w8",
                "gpt2_w4",
                "gpt2_w4g64",
                "gpt2_w3",
                "gpt2_w2",
                "gpt2_w1",
            ],
        },
    ),
    (
        "observers_bert",
        Suite {
            model: "minilm-sst2",
            data: "sst2/dev.tsv",
            calib: Some(64),
            recipes: &[
                "bert_w8a8",
                "bert_w8a8_static_min_max",
                "bert_w8a8_static_moving_average",
                "bert_w8a8_static_percentile",
                "bert_w8a8_static_mse",
            ],
        },
    ),
    (
        "resnet20",
        Suite {
            model: "resnet20-cifar10",
            data: "cifar10/test_first5000.bin",
            calib: None,
            recipes: &["resnet20_w8a8"],
        },
    ),
];

/// How to run.
struct Options {
    suite: String,
    program: PathBuf,
    shared: PathBuf,
    recipes: PathBuf,
    backend: String,
    commit: String,
    out: PathBuf,
}

/// Runs the suite that the arguments name.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let (_, suite) = SUITES.iter().find(|(name, _)| *name == options.suite).ok_or_else(usage)?;
    let scratch = std::env::temp_dir().join(format!("briquette-quality-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let rows = suite.recipes.iter().map(|recipe| row(&options, suite, recipe, &scratch));
    let rows = rows.collect::<Result<Vec<Value>, String>>();
    // Best effort: a leftover folder harms nothing, and the rows are what counts.
    let _ = std::fs::remove_dir_all(&scratch);
    write(&options, suite, rows?, arguments)
}

fn usage() -> String {
    let names: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
    format!(
        "usage: cargo xtask quality SUITE [--program BRIQUETTE] [--shared DIR] [--recipes DIR] [--backend cpu|wgpu|cuda]\n       \
         [--commit ID] [--out FILE.json]\nsuites: {}",
        names.join(", ")
    )
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let (suite, rest) = arguments.split_first().ok_or_else(usage)?;
        let mut given: HashMap<&str, &str> = HashMap::new();
        for pair in rest.chunks(2) {
            match pair {
                [key, value] if key.starts_with("--") => given.insert(&key[2..], value),
                _ => return Err(usage()),
            };
        }
        let mut take = |key: &str, default: &str| given.remove(key).unwrap_or(default).to_string();
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository's root");
        let at = |path: &str| root.join(path).display().to_string();
        let options = Self {
            program: take("program", &at("target/release/briquette")).into(),
            shared: take("shared", &std::env::var("BRIQUETTE_DATA").unwrap_or_else(|_| at("../shared")))
                .into(),
            recipes: take("recipes", &at("recipes")).into(),
            backend: take("backend", "cpu"),
            commit: take("commit", "unknown"),
            out: take("out", &at(&format!("docs/results/{suite}.json"))).into(),
            suite: suite.clone(),
        };
        if given.is_empty() { Ok(options) } else { Err(usage()) }
    }
}

/// Compresses by one recipe and measures; the row of the table.
fn row(options: &Options, suite: &Suite, recipe: &str, scratch: &Path) -> Result<Value, String> {
    let file = match recipe.strip_prefix("deepspeed/") {
        Some(name) => options.shared.join("recipes").join(format!("{name}.json")),
        None => options.recipes.join(format!("{recipe}.json")),
    };
    let (artefact, json) = (scratch.join("artefact"), scratch.join("report.json"));
    let mut command = Command::new(&options.program);
    command.args(["compress", "--model"]).arg(options.shared.join("models").join(suite.model));
    command.arg("--recipe").arg(&file).arg("--out").arg(&artefact).arg("--json").arg(&json);
    command.arg("--eval").arg(options.shared.join("data").join(suite.data));
    command.args(["--backend", &options.backend]);
    if let Some(lines) = suite.calib.filter(|_| recipe.contains("static")) {
        command.arg("--calib").arg(calibration(options, lines, scratch)?);
    }
    eprintln!("{recipe}");
    let done = command.output().map_err(|e| format!("{}: {e}", options.program.display()))?;
    if !done.status.success() {
        return Err(format!("{recipe}: {}", String::from_utf8_lossy(&done.stderr)));
    }
    let text = std::fs::read_to_string(&json).map_err(|e| format!("{}: {e}", json.display()))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", json.display()))?;
    Ok(summary(recipe, &report))
}

/// The first sentences of the training data.
fn calibration(options: &Options, lines: usize, scratch: &Path) -> Result<PathBuf, String> {
    let source = options.shared.join("data/sst2/train.tsv");
    let text = std::fs::read_to_string(&source).map_err(|e| format!("{}: {e}", source.display()))?;
    let head: String = text.split_inclusive('\n').take(lines + 1).collect();
    let path = scratch.join("calibration.tsv");
    std::fs::write(&path, head).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

fn summary(recipe: &str, report: &Value) -> Value {
    let sum = |key: &str| -> f64 {
        let layers = report["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        layers.iter().filter_map(|l| l[key].as_f64()).sum()
    };
    let mut row = Map::new();
    row.insert("recipe".into(), json!(recipe));
    for key in ["metric", "before", "after", "n"] {
        row.insert(key.into(), report["quality"][key].clone());
    }
    row.insert("tensor_bytes_before".into(), report["bytes_before"]["total"].clone());
    row.insert("tensor_bytes_after".into(), report["bytes_after"]["total"].clone());
    row.insert("packed_share_of_fp32".into(), json!(sum("bytes") / sum("fp32_bytes")));
    row.insert("latency".into(), report["latency"].clone());
    row.insert("device".into(), report["device"].clone());
    row.insert("seed".into(), report["seed"].clone());
    Value::Object(row)
}

fn write(options: &Options, suite: &Suite, rows: Vec<Value>, arguments: &[String]) -> Result<(), String> {
    let first = |key: &str| rows.first().map_or(Value::Null, |r| r[key].clone());
    let named = arguments.iter().map(|a| a.rsplit('/').next().unwrap_or(a));
    let command = format!("cargo xtask quality {}", named.collect::<Vec<_>>().join(" "));
    let value = json!({
        "command": command,
        "commit": options.commit,
        "seed": first("seed"),
        "device": first("device"),
        "backend": options.backend,
        "model": suite.model,
        "data": suite.data,
        "rows": rows,
    });
    std::fs::write(&options.out, format!("{value:#}\n"))
        .map_err(|e| format!("{}: {e}", options.out.display()))?;
    let table = options.out.with_extension("md");
    std::fs::write(&table, markdown(options, suite, &value)).map_err(|e| format!("{}: {e}", table.display()))
}

fn markdown(options: &Options, suite: &Suite, value: &Value) -> String {
    let mut text =
        format!("# {}\n\n{} on {}, {}.\n\n", options.suite, suite.model, suite.data, value["device"]);
    text.push_str("| recipe | before | after | packed / f32 | tensors, MB |\n|---|---:|---:|---:|---:|\n");
    for row in value["rows"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        text.push_str(&format!(
            "| {} | {:.4} | {:.4} | {:.4} | {:.3} |\n",
            row["recipe"].as_str().unwrap_or_default(),
            number("before"),
            number("after"),
            number("packed_share_of_fp32"),
            number("tensor_bytes_after") / 1e6
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_options_are_refused() {
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        assert!(Options::parse(&words("resnet20 --backend cuda --commit abc")).is_ok());
        assert!(Options::parse(&words("resnet20 --speed fast")).is_err());
        assert!(Options::parse(&[]).is_err());
        assert!(run(&words("no_such_suite")).is_err());
    }

    #[test]
    fn every_native_recipe_of_a_suite_is_there() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
        for name in SUITES.iter().flat_map(|(_, s)| s.recipes).filter(|n| !n.starts_with("deepspeed/")) {
            assert!(recipes.join(format!("{name}.json")).is_file(), "{name}");
        }
    }
}
