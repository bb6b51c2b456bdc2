//! `cargo xtask bench-a100`: kernels and models on a GPU, beside PyTorch where Python with it is there.
//!
//! `briquette-bench` measures ours and a script PyTorch's, section by section in turn, each in a process of its own:
//! what one loses, the others keep. Both leave rows in the scratch folder, of which the result is made.

mod plots;
mod report;
mod rows;
mod tables;

use crate::options::{at, command, json};
use clap::builder::PossibleValuesParser;
use rows::Rows;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What measures PyTorch.
const TORCH: &str = include_str!("torch_rows.py");
/// Names of the two files of rows in the scratch folder.
const OURS: &str = "ours.jsonl";
const THEIRS: &str = "torch.jsonl";
/// What the rows were measured by, beside them.
const RUN: &str = "run.json";

/// How to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The measured program, built in release mode with the backend's feature.
    #[arg(long, value_name = "FILE", default_value_os_t = at("target/release/briquette-bench"))]
    program: PathBuf,
    /// What computes.
    #[arg(long, default_value = "cuda", value_parser = ["cpu", "wgpu", "cuda"])]
    backend: String,
    /// The Python that has torch; without it those rows are left out.
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// What to measure; everything where nothing is said. Checks are always made.
    #[arg(long, value_name = "SECTION", value_parser = PossibleValuesParser::new(["checks", "models", "operations", "parts", "training"]))]
    only: Vec<String>,
    /// Seconds for all of it, shared out to the sections; what does not fit is left out and named.
    #[arg(long, value_name = "N", default_value_t = 3600)]
    seconds: u64,
    /// Tiny sizes: whether everything runs, not how fast.
    #[arg(long)]
    smoke: bool,
    /// The commit that the program was built from, for the result file.
    #[arg(long, value_name = "ID", default_value = "unknown")]
    commit: String,
    /// The result file; its tables and plots lie beside it.
    #[arg(long, value_name = "FILE.json", default_value_os_t = at("docs/results/speed_gpu.json"))]
    out: PathBuf,
    /// Folder for the rows as they are measured. By default one in the system's temporary folder.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Measure nothing: make the files from the rows of this folder, the scratch folder of an earlier run.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["scratch", "only", "smoke", "commit"])]
    from: Option<PathBuf>,
}

/// One process: who measures, what, and its share of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stage {
    by: Who,
    section: &'static str,
    share: u32,
}

/// Who measures. Ours has one process for each type of floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ours(&'static str),
    Torch,
}

const fn ours(floats: &'static str, section: &'static str, share: u32) -> Stage {
    Stage { by: Who::Ours(floats), section, share }
}

const fn torch(section: &'static str, share: u32) -> Stage {
    Stage { by: Who::Torch, section, share }
}

/// In this order, so that ours and theirs of a section are measured one after the other.
const STAGES: [Stage; 11] = [
    ours("bf16", "checks", 2),
    ours("f32", "checks", 2),
    ours("bf16", "models", 4),
    torch("models", 4),
    ours("f32", "models", 2),
    ours("bf16", "operations", 8),
    torch("operations", 4),
    ours("bf16", "parts", 2),
    ours("f32", "training", 2),
    ours("f32", "operations", 2),
    ours("f32", "parts", 1),
];

/// Measures and writes the files.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let temporary = || std::env::temp_dir().join(format!("briquette-bench-{}", std::process::id()));
    let folder = options.from.clone().or_else(|| options.scratch.clone()).unwrap_or_else(temporary);
    let failed = if options.from.is_none() { measure(options, &folder)? } else { Vec::new() };
    let mut rows = Rows::default();
    rows.read(&folder.join(OURS))?;
    if folder.join(THEIRS).is_file() {
        rows.read(&folder.join(THEIRS))?;
    }
    rows.left_out.extend(failed);
    write(options, &rows, &json(&folder.join(RUN))?)?;
    if options.from.is_none() && options.scratch.is_none() {
        // Best effort: leftovers harm nothing.
        let _ = fs::remove_dir_all(&folder);
    }
    Ok(())
}

/// Runs the stages; what failed as a whole, and why.
fn measure(options: &Options, folder: &Path) -> Result<Vec<(String, String)>, String> {
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for name in [OURS, THEIRS] {
        // Rows of an earlier run are none of this one.
        let _ = fs::remove_file(folder.join(name));
    }
    let script = folder.join("torch_rows.py");
    let made_by = json!({"command": command(), "commit": options.commit}).to_string();
    for (path, text) in [(&script, TORCH), (&folder.join(RUN), made_by.as_str())] {
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let wanted = |stage: &Stage| {
        let there = options.backend == "cuda" || stage.by != Who::Ours("bf16");
        let asked = options.only.is_empty() || options.only.iter().any(|only| only == stage.section);
        there && (stage.section == "checks" || asked)
    };
    let stages: Vec<Stage> = STAGES.into_iter().filter(wanted).collect();
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let mut failed = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        let seconds = left * u64::from(stage.share) / u64::from(sum(&stages[index..]));
        let who = match stage.by {
            Who::Torch => "torch".into(),
            Who::Ours(floats) => format!("briquette in {floats}"),
        };
        eprintln!("{who}: {}, at most {seconds} s", stage.section);
        let mut command = process(options, stage, folder, &script);
        command.args(["--only", stage.section, "--seconds", &seconds.to_string()]);
        let why = match command.status() {
            Ok(status) if status.success() => continue,
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("{}: {error}", command.get_program().display()),
        };
        if stage.section == "checks" {
            return Err(format!("kernels were not found right, nothing is measured: {why}"));
        }
        failed.push((format!("{who}: {}", stage.section), why));
    }
    Ok(failed)
}

fn sum(stages: &[Stage]) -> u32 {
    stages.iter().map(|stage| stage.share).sum()
}

fn process(options: &Options, stage: &Stage, folder: &Path, script: &Path) -> Command {
    let program = if stage.by == Who::Torch { &options.python } else { &options.program };
    let mut command = Command::new(program);
    match stage.by {
        Who::Torch => {
            command.arg(script).arg("--rows").arg(folder.join(THEIRS));
            command.args(["--device", if options.backend == "cpu" { "cpu" } else { "cuda" }]);
        }
        Who::Ours(floats) => {
            command.args(["--backend", &options.backend, "--floats", floats, "--rows"]);
            command.arg(folder.join(OURS));
        }
    }
    if options.smoke {
        command.arg("--smoke");
    }
    command
}

/// Writes result, tables and plots.
fn write(options: &Options, rows: &Rows, made_by: &Value) -> Result<(), String> {
    let out = &options.out;
    let plots = plots::draw(rows, out)?;
    let result = report::result(rows, made_by);
    let text = tables::markdown(rows, &result, &plots);
    for (path, text) in [(out.clone(), format!("{result:#}\n")), (out.with_extension("md"), text)] {
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    eprintln!("{}: {}, {} rows left out", out.display(), rows.device, rows.left_out.len());
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails where something is missing")]
mod tests {
    use super::*;
    use crate::options::parse;
    use briquette_bench::{BackendChoice, FloatsChoice, Section};
    use clap::ValueEnum;
    use std::collections::BTreeSet;

    /// Rows as the script for PyTorch writes them, of the layers and models that tiny runs measure.
    const TORCH_ROWS: &str = r#"{"kind": "device", "name": "a GPU", "backend": "torch", "program": "torch 9.9"}
{"kind": "ceiling", "what": "copy", "per_second": 4e12}
{"kind": "ceiling", "what": "bf16", "per_second": 8e14}
{"kind": "linear", "what": "torch bf16", "model": "BERT-base", "d_input": 32, "d_output": 64, "rows": 16, "device_us": 0.001, "call_us": 0.001, "bytes": 8192}
{"kind": "model", "what": "torch fp16 SDPA", "model": "BERT-base", "batch": 2, "seq": 8, "median_ms": 1.5, "min_ms": 1.25, "runs": 9}
{"kind": "left_out", "what": "torch int4 tinygemm 1 x 32 x 32", "why": "RuntimeError: no such kernel"}
"#;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("briquette-xtask-gpu-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// What `briquette-bench` itself measures with tiny sizes becomes a result, tables and plots.
    #[test]
    fn rows_become_a_result_with_tables_and_plots() {
        let folder = folder("result");
        let bench = briquette_bench::Options {
            backend: BackendChoice::Cpu,
            floats: FloatsChoice::F32,
            rows: folder.join(OURS),
            only: Vec::new(),
            smoke: true,
            seconds: 600,
        };
        briquette_bench::run(&bench).unwrap();
        fs::write(folder.join(THEIRS), TORCH_ROWS).unwrap();
        let out = folder.join("speed.json");
        fs::write(folder.join(RUN), r#"{"command": "cargo xtask bench-a100", "commit": "abc"}"#).unwrap();
        let words = format!("--from {} --out {}", folder.display(), out.display());
        run(&parse::<Options>(&words).unwrap()).unwrap();

        let text = fs::read_to_string(&out).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        for key in ["command", "commit", "seed", "device", "data"] {
            assert!(!value[key].is_null() && value[key] != "", "{key}");
        }
        assert_eq!(value["torch"], "torch 9.9");
        assert_eq!(value["checks"].as_array().unwrap().len(), 9);
        let linear = value["linear"].as_array().unwrap();
        assert_eq!(linear.len(), 2 * 3 * 5 + 1);
        let theirs = linear.iter().find(|l| l["what"] == "torch bf16").unwrap();
        // 8192 bytes in a nanosecond by 4 TB/s, and 2 * 16 * 32 * 64 operations by 800 T/s.
        assert!((theirs["of_copy_bandwidth"].as_f64().unwrap() - 2.048).abs() < 1e-9);
        assert!((theirs["of_peak"].as_f64().unwrap() - 0.08192).abs() < 1e-9);
        let ratios = value["linear_ratios"].as_array().unwrap();
        assert!(ratios.iter().any(|r| r["time_of"] == "W8A8" && r["by_time_of"] == "torch bf16"));
        assert_eq!(value["training"].as_array().unwrap().len(), 3);

        let tables = fs::read_to_string(out.with_extension("md")).unwrap();
        for part in [
            "## BERT-base, linear 32x64",
            "| torch fp16 SDPA | - | 1.500 |",
            "| W8A8 / burn f32 |",
            "| attention |",
            "| W1A8 / plain |",
            "| linear_quantized | f32 |",
            "RuntimeError: no such kernel: torch int4 tinygemm",
        ] {
            assert!(tables.contains(part), "{part} in\n{tables}");
        }
        for (name, contender) in
            [("speed_models.svg", "torch fp16 SDPA"), ("speed_linear_bert_base.svg", "W4A16")]
        {
            let plot = fs::read_to_string(folder.join(name)).unwrap();
            assert!(plot.starts_with("<svg") && plot.contains(contender), "{name}");
            assert!(tables.contains(&format!("]({name})")), "{name}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn every_section_of_the_program_has_its_stage_and_checks_come_first() {
        let named = |section: &Section| section.to_possible_value().unwrap().get_name().to_string();
        let sections: BTreeSet<String> = Section::value_variants().iter().map(named).collect();
        let of = |floats| {
            let own = STAGES.iter().filter(move |stage| stage.by == Who::Ours(floats));
            own.map(|stage| stage.section.to_string()).collect::<Vec<String>>()
        };
        for (floats, missing) in [("f32", None), ("bf16", Some("training"))] {
            let own = of(floats);
            assert_eq!(own[0], "checks");
            let mut all = BTreeSet::from_iter(own.clone());
            assert_eq!(own.len(), all.len());
            all.extend(missing.map(String::from));
            assert_eq!(all, sections);
        }
        for section in sections {
            assert!(parse::<Options>(&format!("--only {section}")).is_ok(), "{section}");
            assert!(TORCH.contains(&format!("\"{section}\"")), "{section}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for wrong in
            ["--only speed", "--backend abacus", "--from a --smoke", "--from a --commit b", "--seconds x"]
        {
            assert!(parse::<Options>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse::<Options>("").unwrap().backend, "cuda");
    }

    #[test]
    fn a_program_that_fails_its_checks_ends_the_run() {
        let folder = folder("fails");
        let words = format!("--program /nowhere/briquette-bench --scratch {}", folder.display());
        let error = run(&parse::<Options>(&words).unwrap()).unwrap_err();
        assert!(error.contains("nothing is measured") && error.contains("/nowhere"), "{error}");
        assert!(fs::read_to_string(folder.join("torch_rows.py")).unwrap().contains("_int_mm"));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn rows_that_are_none_are_named_with_their_line() {
        let folder = folder("wrong");
        let path = folder.join(OURS);
        fs::write(&path, "{\"kind\": \"ceiling\", \"what\": \"copy\"}\n").unwrap();
        let error = Rows::default().read(&path).unwrap_err();
        assert!(error.ends_with("ours.jsonl:1: no number `per_second`"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
