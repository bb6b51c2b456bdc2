//! `cargo xtask trained`: trains real models by recipes with several seeds, measures each reloaded artefact, and writes
//! a result file with means and spreads.

use crate::options::{Common, command, json};
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A model, its data and what is trained on them.
struct Suite {
    model: &'static str,
    /// More than one is read as one file: records of images follow each other.
    train: &'static [&'static str],
    eval: &'static str,
    rows: &'static [Row],
}

/// One recipe. The teacher is always the suite's model.
struct Row {
    name: &'static str,
    /// `deepspeed/` ones lie in the data folder's `recipes/`.
    recipe: &'static str,
    /// The row whose artefact of the same seed is compressed further, instead of the suite's model.
    from: Option<&'static str>,
    /// Where the recipe does not say it.
    epochs: Option<&'static str>,
}

const fn row(name: &'static str, recipe: &'static str) -> Row {
    Row { name, recipe, from: None, epochs: None }
}

const fn deepspeed(name: &'static str, recipe: &'static str, epochs: &'static str) -> Row {
    Row { name, recipe, from: None, epochs: Some(epochs) }
}

const SUITES: &[(&str, Suite)] = &[
    (
        "trained_bert",
        Suite {
            model: "minilm-sst2",
            train: &["sst2/train.tsv"],
            eval: "sst2/dev.tsv",
            rows: &[
                row("layers 6 -> 3", "bert_layers_3"),
                row("W1A8", "bert_w1a8"),
                row("W2A8", "bert_w2a8"),
                deepspeed("W1A8, DeepSpeed's recipe", "deepspeed/xtc_w1a8_bert", "3"),
                deepspeed("W2A8, DeepSpeed's recipe", "deepspeed/xtc_w2a8_bert", "3"),
                deepspeed("MoQ 12 -> 8, DeepSpeed's recipe", "deepspeed/moq_12_to_8_bert", "1"),
                Row {
                    name: "3 layers, W1A8",
                    recipe: "bert_3_layers_w1a8",
                    from: Some("layers 6 -> 3"),
                    epochs: None,
                },
            ],
        },
    ),
    (
        "trained_gpt2",
        Suite {
            model: "gpt2-wikitext2",
            train: &["wikitext2/train.txt"],
            eval: "wikitext2/valid.txt",
            rows: &[
                row("layers 12 -> 10", "gpt2_layers_10"),
                row("W4A8", "gpt2_w4a8"),
                row("W2A8", "gpt2_w2a8"),
                Row {
                    name: "10 layers, W8A8",
                    recipe: "gpt2_w8a8",
                    from: Some("layers 12 -> 10"),
                    epochs: None,
                },
            ],
        },
    ),
    (
        "pruned_bert",
        Suite {
            model: "minilm-sst2",
            train: &["sst2/train.tsv"],
            eval: "sst2/dev.tsv",
            rows: &[
                deepspeed("rows keep 0.6, DeepSpeed's recipe", "deepspeed/row_topk_bert", "2"),
                deepspeed("heads keep 0.6, DeepSpeed's recipe", "deepspeed/head_topk_bert", "2"),
                deepspeed("sparse l1 keep 0.4, DeepSpeed's recipe", "deepspeed/sparse_l1_bert", "2"),
                deepspeed("snip 4x1 keep 0.2, DeepSpeed's recipe", "deepspeed/sparse_snip_bert", "2"),
                row("rows keep 0.6", "bert_rows"),
                row("heads keep 0.6", "bert_heads"),
                row("2:4", "bert_2_4"),
                row("rows, heads keep 0.75, W8A8", "bert_rows_heads_w8a8_trained"),
            ],
        },
    ),
    (
        "pruned_resnet20",
        Suite {
            model: "resnet20-cifar10",
            train: &["cifar10/data_batch_1.bin", "cifar10/data_batch_2.bin"],
            eval: "cifar10/test_first5000.bin",
            rows: &[
                deepspeed("channels keep 0.5, DeepSpeed's recipe", "deepspeed/channel_topk_resnet20", "15"),
                row("channels keep 0.5", "resnet20_channels"),
                row("0.75 of the FLOPs", "resnet20_flops_75"),
                row("half the FLOPs", "resnet20_half_flops"),
                row("0.35 of the FLOPs", "resnet20_flops_35"),
            ],
        },
    ),
];

/// How to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to train.
    #[arg(value_parser = PossibleValuesParser::new(SUITES.iter().map(|(name, _)| *name)))]
    suite: String,
    /// Names of rows, if not all.
    #[arg(long, value_name = "NAME;NAME", value_delimiter = ';')]
    rows: Vec<String>,
    /// What each row is trained with, once each.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [0, 1, 2])]
    seeds: Vec<u64>,
    /// Trainings side by side.
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// Folder with compiled kernels, copied for each job.
    #[arg(long, value_name = "DIR")]
    warm: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Runs a suite.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let (_, suite) = SUITES.iter().find(|(name, _)| *name == options.suite).expect("checked when parsed");
    let wanted = |row: &&Row| options.rows.is_empty() || options.rows.iter().any(|r| r == row.name);
    let rows: Vec<&Row> = suite.rows.iter().filter(wanted).collect();
    let (mut done, mut failed) = (HashMap::new(), 0);
    for later in [false, true] {
        let wave = rows.iter().filter(|r| r.from.is_some() == later);
        let jobs: Vec<(&Row, u64)> = wave.flat_map(|r| options.seeds.iter().map(|s| (*r, *s))).collect();
        let trained = all(options, suite, &jobs)?;
        failed += jobs.len() - trained.len();
        done.extend(trained);
        // Written as soon as there is something: a long run that is cut off keeps its first half.
        write(options, suite, &rows, &done)?;
    }
    if failed > 0 { Err(format!("{failed} trainings failed")) } else { Ok(()) }
}

type Done = HashMap<(&'static str, u64), Value>;

/// Runs jobs side by side.
fn all(options: &Options, suite: &Suite, jobs: &[(&Row, u64)]) -> Result<Done, String> {
    let train = training_file(&options.common, suite)?;
    let (next, done, failed) = (AtomicUsize::new(0), Mutex::new(Done::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for worker in 0..options.jobs.get() {
            let (next, done, failed, train) = (&next, &done, &failed, &train);
            scope.spawn(move || {
                while let Some((row, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match one(options, suite, (row, *seed), train, worker) {
                        Ok(value) => {
                            eprintln!("{}, seed {seed}: {}", row.name, value["after"]);
                            done.lock().expect("no worker panics").insert((row.name, *seed), value);
                        }
                        Err(e) => failed.lock().expect("no worker panics").push(e),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no worker panics");
    failed.iter().for_each(|e| eprintln!("{e}"));
    Ok(done.into_inner().expect("no worker panics"))
}

/// Trains once; what the report says of it.
fn one(
    options: &Options,
    suite: &Suite,
    (row, seed): (&Row, u64),
    train: &Path,
    worker: usize,
) -> Result<Value, String> {
    let (common, scratch) = (&options.common, options.common.scratch());
    let folder =
        |row: &str| scratch.join(format!("{}-{seed}", row.replace(|c: char| !c.is_alphanumeric(), "_")));
    let teacher = common.model(suite.model);
    let model = row.from.map_or(teacher.clone(), folder);
    let (out, report) = (folder(row.name), folder(row.name).with_extension("json"));
    let recipe = common.recipe(row.recipe);
    let mut command = Command::new(&common.program);
    command.current_dir(desk(options, worker)?);
    command.arg("compress").arg("--model").arg(model).arg("--recipe").arg(&recipe).arg("--out").arg(&out);
    command.arg("--json").arg(&report).arg("--eval").arg(common.data(suite.eval));
    command.args(["--backend", &common.backend, "--seed", &seed.to_string()]);
    let text = std::fs::read_to_string(&recipe).map_err(|e| format!("{}: {e}", recipe.display()))?;
    if row.epochs.is_some() || text.contains("\"epochs\"") || text.contains("\"layer_by_layer\"") {
        command.arg("--train").arg(train).arg("--teacher").arg(&teacher);
    }
    if let Some(epochs) = row.epochs {
        command.args(["--epochs", epochs]);
    }
    let done = command.output().map_err(|e| format!("{}: {e}", common.program.display()))?;
    if !done.status.success() {
        return Err(format!("{}, seed {seed}: {}", row.name, String::from_utf8_lossy(&done.stderr)));
    }
    let report = json(&report)?;
    let training = &report["training"];
    Ok(json!({
        "seed": seed,
        "before": report["quality"]["before"], "after": report["quality"]["after"], "n": report["quality"]["n"],
        "measured": training["measured"], "steps": training["steps"], "seconds": training["seconds"],
        "settings": training["settings"], "distillation": training["distillation"],
        "bytes_after": report["bytes_after"]["total"], "operations": report["operations"], "device": report["device"],
    }))
}

/// The training data as one file.
fn training_file(options: &Common, suite: &Suite) -> Result<PathBuf, String> {
    if let [one] = suite.train {
        return Ok(options.data(one));
    }
    let scratch = options.scratch();
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let mut bytes = Vec::new();
    for file in suite.train.iter().map(|name| options.data(name)) {
        bytes.extend(std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?);
    }
    let whole = scratch.join(suite.train.join("+").replace('/', "_"));
    std::fs::write(&whole, bytes).map_err(|e| format!("{}: {e}", whole.display()))?;
    Ok(whole)
}

/// A worker's own folder, so that compiled kernels of one are not overwritten by another.
fn desk(options: &Options, worker: usize) -> Result<PathBuf, String> {
    let desk = options.common.scratch().join(format!("worker-{worker}"));
    if desk.is_dir() {
        return Ok(desk);
    }
    let problem = |e: std::io::Error| format!("{}: {e}", desk.display());
    std::fs::create_dir_all(&desk).map_err(problem)?;
    if let Some(warm) = &options.warm {
        let copied = Command::new("cp").arg("-r").arg(format!("{}/.", warm.display())).arg(&desk).status();
        if !copied.map_err(problem)?.success() {
            return Err(format!("{}: cannot be copied", warm.display()));
        }
    }
    Ok(desk)
}

fn write(options: &Options, suite: &Suite, rows: &[&Row], done: &Done) -> Result<(), String> {
    let rows: Vec<Value> = rows.iter().filter_map(|row| summary(row, &options.seeds, done)).collect();
    let device = rows.first().map_or(Value::Null, |r| r["runs"][0]["device"].clone());
    let value = json!({
        "command": command(), "commit": options.common.commit, "seed": options.seeds, "device": device,
        "backend": options.common.backend, "model": suite.model, "train": suite.train.join(" + "),
        "data": suite.eval, "rows": rows,
    });
    options.common.write(&options.suite, &value, &markdown(&options.suite, &value))
}

fn summary(row: &Row, seeds: &[u64], done: &Done) -> Option<Value> {
    let runs: Vec<&Value> = seeds.iter().filter_map(|s| done.get(&(row.name, *s))).collect();
    let values: Vec<f64> = runs.iter().filter_map(|r| r["after"].as_f64()).collect();
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    Some(json!({
        "name": row.name, "recipe": row.recipe, "from": row.from, "mean": mean, "lowest": low, "highest": high,
        "runs": runs,
    }))
}

fn markdown(name: &str, value: &Value) -> String {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    let mut out = format!(
        "# {name}\n\n{}, trained on {}, measured on {}, {}. Values of the reloaded artefact.\n\n",
        text("model"),
        text("train"),
        text("data"),
        text("device")
    );
    out.push_str("| row | recipe | mean | lowest | highest | seeds | steps | steps a second |\n|---|---|---:|---:|---:|---:|---:|---:|\n");
    for row in value["rows"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let runs = row["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let first = runs.first().cloned().unwrap_or_default();
        let steps = first["steps"].as_f64().unwrap_or(f64::NAN);
        let rate = steps / first["seconds"].as_f64().unwrap_or(f64::NAN);
        out.push_str(&format!(
            "| {} | {} | {:.4} | {:.4} | {:.4} | {} | {steps} | {rate:.1} |\n",
            row["name"].as_str().unwrap_or_default(),
            row["recipe"].as_str().unwrap_or_default(),
            number("mean"),
            number("lowest"),
            number("highest"),
            runs.len(),
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_options_are_refused() {
        use crate::options::parse;
        let options = parse::<Options>("trained_bert --seeds 0,5 --jobs 2 --rows W1A8;W2A8").expect("good");
        assert_eq!((options.seeds, options.rows), (vec![0, 5], vec!["W1A8".into(), "W2A8".into()]));
        assert_eq!(parse::<Options>("trained_bert").expect("good").seeds, [0, 1, 2]);
        for wrong in ["--seeds a", "--speed fast", "--jobs 0"] {
            assert!(parse::<Options>(&format!("trained_bert {wrong}")).is_err(), "{wrong}");
        }
        assert!(parse::<Options>("no_such_suite").is_err());
    }

    #[test]
    fn every_row_has_its_recipe_and_the_row_it_begins_from() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
        for (_, suite) in SUITES {
            for row in suite.rows {
                let own = !row.recipe.starts_with("deepspeed/");
                assert!(!own || recipes.join(format!("{}.json", row.recipe)).is_file(), "{}", row.recipe);
                assert!(
                    row.from.is_none_or(|from| suite.rows.iter().any(|r| r.name == from)),
                    "{}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn rows_are_averaged_over_their_seeds() {
        let run = |value: f64| json!({"after": value, "steps": 10, "seconds": 5.0, "device": "d"});
        let done = Done::from([(("a", 0), run(0.5)), (("a", 2), run(0.7))]);
        let found = summary(&row("a", "r"), &[0, 1, 2], &done).expect("two runs");
        assert!((found["mean"].as_f64().expect("a number") - 0.6).abs() < 1e-12);
        assert!(summary(&row("b", "r"), &[0, 1, 2], &done).is_none());
        let value = json!({"rows": [found]});
        assert!(markdown("t", &value).contains("| a | r | 0.6000 | 0.5000 | 0.7000 | 2 | 10 | 2.0 |"));
    }
}
