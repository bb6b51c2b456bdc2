//! `cargo xtask quality`: compresses real models by the recipes of this repository (and any folder of
//! DeepSpeed recipes beside the data), measures each reloaded artefact, and writes a result file.

use crate::options::{Common, command, json};
use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};
use std::path::Path;
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
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure.
    #[arg(value_parser = PossibleValuesParser::new(SUITES.iter().map(|(name, _)| *name)))]
    suite: String,
    #[command(flatten)]
    common: Common,
}

/// Runs a suite.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let (_, suite) = SUITES.iter().find(|(name, _)| *name == options.suite).expect("checked when parsed");
    let scratch = options.common.scratch();
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let rows = suite.recipes.iter().map(|recipe| row(&options.common, suite, recipe, &scratch));
    let rows = rows.collect::<Result<Vec<Value>, String>>();
    // Best effort: a leftover folder harms nothing, and the rows are what counts.
    let _ = std::fs::remove_dir_all(&scratch);
    write(options, suite, rows?)
}

/// Compresses by one recipe and measures; the row of the table.
fn row(options: &Common, suite: &Suite, recipe: &str, scratch: &Path) -> Result<Value, String> {
    let (artefact, report) = (scratch.join("artefact"), scratch.join("report.json"));
    let mut command = Command::new(&options.program);
    command.args(["compress", "--model"]).arg(options.model(suite.model));
    command
        .arg("--recipe")
        .arg(options.recipe(recipe))
        .arg("--out")
        .arg(&artefact)
        .arg("--json")
        .arg(&report);
    command.arg("--eval").arg(options.data(suite.data)).args(["--backend", &options.backend]);
    if let Some(lines) = suite.calib.filter(|_| recipe.contains("static")) {
        command.arg("--calib").arg(options.calibration(lines, scratch)?);
    }
    eprintln!("{recipe}");
    let done = command.output().map_err(|e| format!("{}: {e}", options.program.display()))?;
    if !done.status.success() {
        return Err(format!("{recipe}: {}", String::from_utf8_lossy(&done.stderr)));
    }
    Ok(summary(recipe, &json(&report)?))
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

fn write(options: &Options, suite: &Suite, rows: Vec<Value>) -> Result<(), String> {
    let first = |key: &str| rows.first().map_or(Value::Null, |r| r[key].clone());
    let value = json!({
        "command": command(),
        "commit": options.common.commit,
        "seed": first("seed"),
        "device": first("device"),
        "backend": options.common.backend,
        "model": suite.model,
        "data": suite.data,
        "rows": rows,
    });
    options.common.write(&options.suite, &value, &markdown(options, suite, &value))
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
        use crate::options::parse;
        assert!(parse::<Options>("resnet20 --backend cuda --commit abc").is_ok());
        for wrong in ["resnet20 --speed fast", "", "no_such_suite", "resnet20 --backend abacus"] {
            assert!(parse::<Options>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_native_recipe_of_a_suite_is_there() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
        for name in SUITES.iter().flat_map(|(_, s)| s.recipes).filter(|n| !n.starts_with("deepspeed/")) {
            assert!(recipes.join(format!("{name}.json")).is_file(), "{name}");
        }
    }
}
