//! What the speed measurements of all devices share: contenders that take turns, ratios round by round, and the
//! files that the result goes to.
//!
//! A machine's speed drifts while it is measured. So each round runs every contender once at every shape, ratios
//! are taken within a round, and their median over the rounds is quoted.

pub(crate) mod cpu;
pub(crate) mod gpu;

use crate::options::{Common, at, command, json};
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;

/// What is timed.
pub(crate) struct Contender {
    /// As in the table.
    pub(crate) name: &'static str,
    /// How it is run.
    pub(crate) kind: Kind,
}

/// How a contender is run.
pub(crate) enum Kind {
    /// `briquette bench` on the model as it is.
    Float,
    /// `briquette bench` on the artefact of this recipe.
    Recipe(&'static str),
    /// The same, of a recipe that looks at the first sentences of the training data.
    Calibrated(&'static str),
    /// A form that `tests/python/bench_onnxruntime.py` knows.
    OnnxRuntime(&'static str),
}

/// Examples at once, and tokens of each; 0 for images.
pub(crate) type Shape = [usize; 2];

/// One kind of device: what is compared on it.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) model: &'static str,
    pub(crate) contenders: &'static [Contender],
    pub(crate) shapes: &'static [Shape],
    /// Pairs of contenders whose ratio of times is quoted, the first by the second.
    pub(crate) ratios: &'static [(&'static str, &'static str)],
}

/// How to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to time.
    #[arg(value_parser = PossibleValuesParser::new(cpu::SUITES.iter().map(|s| s.name)), default_value = cpu::SUITES[0].name)]
    suite: String,
    /// The Python that has onnxruntime; without it those rows are left out.
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// How often each contender is run at each shape.
    #[arg(long, value_name = "N", default_value_t = FIVE)]
    rounds: NonZeroUsize,
    #[command(flatten)]
    common: Common,
}

const FIVE: NonZeroUsize = NonZeroUsize::new(5).expect("not zero");

/// What the reports say of contenders that were compressed: operations and bytes, before and after.
type Facts = HashMap<&'static str, Value>;

/// Sentences that are looked at where a recipe asks for it.
const CALIBRATION: usize = 256;

/// Milliseconds by contender and shape, one for each round.
type Times = HashMap<(&'static str, Shape), Vec<f64>>;

/// Measures a suite and writes its files.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let suite = cpu::SUITES.iter().find(|suite| suite.name == options.suite).expect("checked when parsed");
    let scratch = options.common.scratch();
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let mut facts = Facts::new();
    for contender in suite.contenders {
        match ready(options, suite, contender) {
            Ok(known) => drop(facts.insert(contender.name, known)),
            Err(why) => eprintln!("{}: left out: {why}", contender.name),
        }
    }
    let present = || suite.contenders.iter().filter(|c| facts.contains_key(c.name));
    let (mut times, mut device) = (Times::new(), Value::Null);
    for round in 0..options.rounds.get() {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for shape in suite.shapes {
            for contender in present() {
                let value = once(options, suite, contender, *shape)?;
                let ms = value["min_ms"].as_f64().ok_or(format!("{}: no time", contender.name))?;
                times.entry((contender.name, *shape)).or_default().push(ms);
                if matches!(contender.kind, Kind::Float) {
                    device = value["device"].clone();
                }
            }
        }
    }
    // Best effort: leftovers harm nothing.
    let _ = std::fs::remove_dir_all(&scratch);
    write(options, suite, (&times, &facts), device)
}

fn script() -> PathBuf {
    at("tests/python/bench_onnxruntime.py")
}

/// Makes what the contender runs on, and says what is known of it; an error where it cannot be had.
fn ready(options: &Options, suite: &Suite, contender: &Contender) -> Result<Value, String> {
    let (common, scratch) = (&options.common, options.common.scratch());
    let (recipe, calibrated) = match contender.kind {
        Kind::Float => return Ok(Value::Null),
        Kind::Recipe(recipe) => (recipe, false),
        Kind::Calibrated(recipe) => (recipe, true),
        Kind::OnnxRuntime(form) => {
            let mut command = Command::new(&options.python);
            command.arg(script()).arg("export").arg(common.model(suite.model));
            let text = output(command.arg(form).arg(scratch.join(form)))?;
            return if text.contains("SKIP") { Err(text.trim().into()) } else { Ok(Value::Null) };
        }
    };
    let report = scratch.join("report.json");
    let mut command = Command::new(&common.program);
    command.args(["compress", "--model"]).arg(common.model(suite.model)).arg("--recipe");
    command.arg(common.recipe(recipe)).arg("--out").arg(scratch.join(recipe)).arg("--json").arg(&report);
    if calibrated {
        command.arg("--calib").arg(common.calibration(CALIBRATION, &scratch)?);
    }
    output(&mut command)?;
    let report = json(&report)?;
    let [before, after] = ["bytes_before", "bytes_after"].map(|key| report[key]["total"].clone());
    Ok(json!({"bytes": {"before": before, "after": after}, "flops": report["operations"]}))
}

/// Times one contender at one shape, in a process of its own.
fn once(options: &Options, suite: &Suite, contender: &Contender, shape: Shape) -> Result<Value, String> {
    let time = options.common.scratch().join("time.json");
    let [batch, seq] = shape.map(|n| n.to_string());
    let mut command = match contender.kind {
        Kind::OnnxRuntime(form) => {
            let mut command = Command::new(&options.python);
            command.arg(script()).arg("time").arg(options.common.scratch().join(form));
            command
        }
        Kind::Float => {
            let mut command = Command::new(&options.common.program);
            command
                .args(["bench", "--backend", &options.common.backend, "--model"])
                .arg(options.common.model(suite.model));
            command
        }
        Kind::Recipe(recipe) | Kind::Calibrated(recipe) => {
            let mut command = Command::new(&options.common.program);
            command.args(["bench", "--backend", &options.common.backend, "--model"]);
            command.arg(options.common.scratch().join(recipe));
            command
        }
    };
    command.args(["--batch", &batch, "--json"]).arg(&time);
    if shape[1] > 0 {
        command.args(["--seq", &seq]);
    }
    output(&mut command)?;
    json(&time)
}

/// What a command writes; an error when it fails.
fn output(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).trim().to_string())
    }
}

/// The middle of some numbers.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The median over the rounds of the time of one contender by that of another.
fn ratio(times: &Times, of: &'static str, by: &'static str, shape: Shape) -> Option<f64> {
    let (of, by) = (times.get(&(of, shape))?, times.get(&(by, shape))?);
    Some(median(&of.iter().zip(by).map(|(of, by)| of / by).collect::<Vec<_>>()))
}

/// Images have no tokens.
fn written([batch, tokens]: Shape) -> String {
    if tokens == 0 { batch.to_string() } else { format!("{batch}x{tokens}") }
}

/// What the inputs are, and what their shapes count.
fn inputs(suite: &Suite) -> (&'static str, &'static str) {
    if suite.shapes.iter().all(|[_, tokens]| *tokens == 0) {
        ("pixels drawn by a formula", "images at once")
    } else {
        ("token ids drawn by a formula", "batch x tokens")
    }
}

fn write(
    options: &Options,
    suite: &Suite,
    (times, facts): (&Times, &Facts),
    device: Value,
) -> Result<(), String> {
    let rows = suite.contenders.iter().flat_map(|c| suite.shapes.iter().map(move |s| (c.name, *s)));
    let rows = rows.filter_map(|(name, shape)| times.get(&(name, shape)).map(|ms| (name, shape, ms)));
    let row = |(name, shape, ms): (&str, Shape, &Vec<f64>)| json!({"what": name, "shape": written(shape), "median_ms": median(ms), "ms": ms});
    let ratios = suite.ratios.iter().flat_map(|r| suite.shapes.iter().map(move |s| (r, *s)));
    let ratios = ratios.filter_map(|((of, by), shape)| {
        let value = ratio(times, of, by, shape)?;
        Some(json!({"time_of": of, "by_time_of": by, "shape": written(shape), "ratio": value}))
    });
    let value = json!({
        "command": command(),
        "commit": options.common.commit,
        "seed": 0,
        "device": device,
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "data": inputs(suite).0,
        "model": suite.model,
        "rounds": options.rounds.get(),
        "rows": rows.map(row).collect::<Vec<_>>(),
        "ratios": ratios.collect::<Vec<_>>(),
        "compressed": facts.iter().filter(|(_, known)| !known.is_null()).collect::<BTreeMap<_, _>>(),
    });
    options.common.write(suite.name, &value, &markdown(suite, times, &value))
}

fn markdown(suite: &Suite, times: &Times, value: &Value) -> String {
    let shapes: Vec<String> = suite.shapes.iter().map(|s| written(*s)).collect();
    let head = |first: &str| {
        format!("| {first} | {} |\n|---|{}\n", shapes.join(" | "), "---:|".repeat(shapes.len()))
    };
    let line = |name: &str, cell: &dyn Fn(Shape) -> Option<f64>| {
        let cells = suite.shapes.iter().map(|s| cell(*s).map_or("-".to_string(), |v| format!("{v:.2}")));
        format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut text = format!(
        "# {}\n\n{} on {}, {} threads. Each round runs all contenders in turn, each in a process of its own; its time is \
         the fastest forward pass. Medians over {} rounds, ratios taken within a round.\n\nMilliseconds, {}:\n\n",
        suite.name,
        suite.model,
        value["device"],
        value["threads"],
        value["rounds"],
        inputs(suite).1
    );
    text.push_str(&head("what"));
    for contender in suite.contenders {
        text.push_str(&line(contender.name, &|s| times.get(&(contender.name, s)).map(|ms| median(ms))));
    }
    text.push_str("\nRatios of times; below 1 the first is faster:\n\n");
    text.push_str(&head("ratio"));
    for (of, by) in suite.ratios {
        text.push_str(&line(&format!("{of} / {by}"), &|s| ratio(times, of, by, s)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let shape = [1, 16];
        let times = Times::from([(("a", shape), vec![2.0, 40.0, 6.0]), (("b", shape), vec![1.0, 10.0, 3.0])]);
        assert_eq!(ratio(&times, "a", "b", shape), Some(2.0));
        assert_eq!(ratio(&times, "a", "c", shape), None);
        assert_eq!(median(&[3.0, 1.0]), 2.0);
    }

    #[test]
    fn options_are_checked() {
        use crate::options::parse;
        let options = parse::<Options>("--rounds 2 --commit abc").expect("good");
        assert_eq!(options.suite, "speed_cpu_bert");
        assert_eq!((options.rounds.get(), options.common.commit.as_str()), (2, "abc"));
        for wrong in ["--rounds 0", "--rounds", "--speed fast", "--backend abacus", "no_such_suite"] {
            assert!(parse::<Options>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ratios_name_contenders_and_recipes_exist() {
        for suite in cpu::SUITES {
            let names: Vec<&str> = suite.contenders.iter().map(|c| c.name).collect();
            assert!(suite.ratios.iter().all(|(a, b)| names.contains(a) && names.contains(b)));
            for contender in suite.contenders {
                if let Kind::Recipe(name) | Kind::Calibrated(name) = contender.kind {
                    assert!(at(&format!("recipes/{name}.json")).is_file(), "{name}");
                }
            }
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_contender() {
        let times = Times::from([(("f32", [1, 128]), vec![4.0]), (("W8A8", [1, 128]), vec![1.0])]);
        let text = markdown(&cpu::SUITES[0], &times, &json!({"device": "d", "threads": 2, "rounds": 1}));
        assert!(text.contains("| f32 | - | 4.00 | - |"), "{text}");
        assert!(text.contains("| W8A8 / f32 | - | 0.25 | - |"), "{text}");
        assert!(text.contains("Milliseconds, batch x tokens:\n\n| what | 1x16 | 1x128 | 8x128 |"), "{text}");
        let images = cpu::SUITES.iter().find(|suite| suite.model.starts_with("resnet")).expect("a suite");
        let text = markdown(images, &times, &json!({"device": "d", "threads": 2, "rounds": 1}));
        assert!(text.contains("Milliseconds, images at once:\n\n| what | 1 | 8 | 64 |"), "{text}");
    }
}
