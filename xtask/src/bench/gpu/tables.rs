//! The result as Markdown.

use super::report::{LINEAR_RATIOS, PASS_RATIOS, beside_floats, layer, of_bandwidth, of_peak, slower};
use super::rows::{LayerOf, Linear, Pass, Rows, distinct};
use crate::bench::written;
use serde_json::Value;

/// All tables. `plots` are names of files beside this one.
pub(super) fn markdown(rows: &Rows, result: &Value, plots: &[String]) -> String {
    let parts = [
        head(rows, result),
        passes(rows),
        pass_ratios(rows),
        parts(rows),
        training(rows),
        linear(rows),
        linear_ratios(rows),
        slower_than_float(rows),
        plots.iter().map(|name| format!("![{name}]({name})\n\n")).collect(),
        checks(rows),
        left_out(rows),
    ];
    format!("{}\n", parts.concat().trim_end())
}

/// The first lines of a table.
fn table(first: &str, columns: &[String]) -> String {
    format!("| {first} | {} |\n|---|{}\n", columns.join(" | "), "---:|".repeat(columns.len()))
}

/// A line of a table; `-` where there is nothing.
fn line(first: &str, cells: impl Iterator<Item = Option<String>>) -> String {
    let cells: Vec<String> = cells.map(|cell| cell.unwrap_or_else(|| "-".into())).collect();
    format!("| {first} | {} |\n", cells.join(" | "))
}

fn head(rows: &Rows, result: &Value) -> String {
    let torch = rows.torch.as_deref().unwrap_or("without PyTorch");
    let mut text = format!(
        "# Speed on {}\n\nBackend `{}`, beside {torch}. Commit {}, `{}`.\n\nLinear layers: microseconds of the device \
         for one call, of many calls queued behind each other, with copies of the weight taking turns so that each \
         comes from memory. In brackets the percentages of copy bandwidth (bytes of packed weight, input and output) \
         and of the best 16-bit product. Forward passes: medians of milliseconds until the result is there.\n\n",
        rows.device,
        rows.backend,
        result["commit"].as_str().unwrap_or_default(),
        result["command"].as_str().unwrap_or_default()
    );
    if !rows.ceilings.is_empty() {
        text.push_str(&table("ceiling", &["by".into(), "per second".into()]));
    }
    for (who, what, rate) in &rows.ceilings {
        let (what, unit) = if what == "copy" {
            ("copy, bytes read and written".to_string(), "TB")
        } else {
            (format!("{what} product"), "TFLOP")
        };
        let rate = format!("{:.4} {unit}", rate / 1e12);
        text.push_str(&line(&what, [Some(who.clone()), Some(rate)].into_iter()));
    }
    text + "\n"
}

fn passes(rows: &Rows) -> String {
    let mut text = String::new();
    for model in distinct(&rows.passes, |p| p.model.clone()) {
        let of: Vec<_> = rows.passes.iter().filter(|p| p.model == model).collect();
        let shapes = distinct(&of, |p| p.shape);
        text += &format!("## {model}, milliseconds, batch x tokens\n\n");
        text += &table("what", &shapes.iter().map(|s| written(*s)).collect::<Vec<_>>());
        for what in distinct(&of, |p| p.what.clone()) {
            let cell = |s: &[usize; 2]| rows.pass_ms(&what, &model, *s).map(|ms| format!("{ms:.3}"));
            text += &line(&what, shapes.iter().map(cell));
        }
        text += "\n";
    }
    text
}

fn pass_ratios(rows: &Rows) -> String {
    let places = distinct(&rows.passes, |p| (p.model.clone(), p.shape));
    let columns: Vec<String> = places.iter().map(|(m, s)| format!("{m} {}", written(*s))).collect();
    let lines = PASS_RATIOS.iter().filter_map(|(of, by)| {
        let ratio = |(model, shape): &(String, [usize; 2])| {
            Some(rows.pass_ms(of, model, *shape)? / rows.pass_ms(by, model, *shape)?)
        };
        ratio_line(of, by, places.iter().map(ratio).collect())
    });
    with_head("Ratios of times of forward passes; below 1 the first is faster", &columns, lines.collect())
}

fn ratio_line(of: &str, by: &str, ratios: Vec<Option<f64>>) -> Option<String> {
    let any = ratios.iter().any(Option::is_some);
    any.then(|| line(&format!("{of} / {by}"), ratios.into_iter().map(|r| r.map(|r| format!("{r:.2}")))))
}

/// A table of ratios under its title; nothing where there is no line.
fn with_head(title: &str, columns: &[String], lines: Vec<String>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("{title}:\n\n{}{}\n", table("ratio", columns), lines.concat())
}

/// Where the time of a forward pass goes.
fn parts(rows: &Rows) -> String {
    let mut text = String::new();
    for (model, shape) in distinct(&rows.parts, |p| (p.model.clone(), p.shape)) {
        let of: Vec<_> = rows.parts.iter().filter(|p| p.model == model && p.shape == shape).collect();
        let forms = distinct(&of, |p| p.what.clone());
        let ms = |what: &str, part: &str| {
            let found = of.iter().find(|p| p.what == what && p.part == part);
            found.map(|p| p.calls as f64 * p.device_us / 1e3)
        };
        let shown = |ms: Option<f64>| ms.map(|ms| format!("{ms:.3}"));
        text +=
            &format!("## Where the time of {model} {} goes, milliseconds on the device\n\n", written(shape));
        text += &table("operation", &forms);
        let kinds = distinct(&of, |p| p.part.clone());
        for part in &kinds {
            text += &line(part, forms.iter().map(|what| shown(ms(what, part))));
        }
        let rest = |what: &String| {
            let known: Option<f64> = kinds.iter().map(|part| ms(what, part)).sum();
            Some(rows.pass_ms(what, &model, shape)? - known?)
        };
        text +=
            &line("embeddings, gaps between launches, waiting", forms.iter().map(|what| shown(rest(what))));
        let whole = |what: &String| shown(rows.pass_ms(what, &model, shape));
        text += &line("a forward pass", forms.iter().map(whole));
        text += "\n";
    }
    text
}

/// Steps of training, and what simulation costs.
fn training(rows: &Rows) -> String {
    let Some(plain) = rows.steps.first() else { return String::new() };
    let title = format!("{}, batch {}", plain.model, written(plain.shape));
    let mut text = format!("## Training steps of {title}, milliseconds\n\n");
    text += &table("what", &["step".into(), "steps timed".into()]);
    for step in &rows.steps {
        let cells = [format!("{:.3}", step.median_ms), step.runs.to_string()];
        text += &line(&step.what, cells.into_iter().map(Some));
    }
    let ratio = |step: &Pass| {
        line(
            &format!("{} / {}", step.what, plain.what),
            [Some(format!("{:.3}", step.median_ms / plain.median_ms))].into_iter(),
        )
    };
    let lines = rows.steps.iter().skip(1).map(ratio).collect();
    text + "\n" + &with_head("Ratios of times of steps", &["time".into()], lines)
}

fn linear(rows: &Rows) -> String {
    let mut text = String::new();
    for place in distinct(&rows.linear, |l| l.layer.clone()) {
        let of: Vec<&Linear> = rows.linear.iter().filter(|l| l.layer == place).collect();
        let mut counts = distinct(&of, |l| l.rows);
        counts.sort_unstable();
        text += &format!("## {}, linear {}, microseconds by rows\n\n", place.0, layer(place.1));
        text += &table("what", &counts.iter().map(ToString::to_string).collect::<Vec<_>>());
        for what in distinct(&of, |l| l.what.clone()) {
            let cell = |n: &usize| of.iter().find(|l| l.what == what && l.rows == *n).map(|l| cell(rows, l));
            text += &line(&what, counts.iter().map(cell));
        }
        text += "\n";
    }
    text
}

fn cell(rows: &Rows, l: &Linear) -> String {
    let percent = |part: Option<f64>| part.map_or("?".into(), |part| format!("{:.0}", 100.0 * part));
    format!("{:.1} ({}, {})", l.device_us, percent(of_bandwidth(rows, l)), percent(of_peak(rows, l)))
}

fn linear_ratios(rows: &Rows) -> String {
    let places = distinct(&rows.linear, |l| l.layer.clone());
    let mut counts = distinct(&rows.linear, |l| l.rows);
    counts.sort_unstable();
    let columns: Vec<String> = counts.iter().map(ToString::to_string).collect();
    let lines = |place: &LayerOf| {
        let lines = LINEAR_RATIOS.iter().filter_map(|(of, by)| {
            let ratio = |n: &usize| Some(rows.linear_us(of, place, *n)? / rows.linear_us(by, place, *n)?);
            ratio_line(of, by, counts.iter().map(ratio).collect())
        });
        let title = format!("Ratios of times, {} {}; below 1 the first is faster", place.0, layer(place.1));
        with_head(&title, &columns, lines.collect())
    };
    places.iter().map(lines).collect()
}

fn slower_than_float(rows: &Rows) -> String {
    let compared = beside_floats(rows).count();
    if compared == 0 {
        return String::new();
    }
    let found = slower(rows);
    if found.is_empty() {
        return format!("None of {compared} compressed layers is slower than the float one.\n\n");
    }
    let one = |(l, ratio): &(&Linear, f64)| {
        format!("{} {} at {} rows ({ratio:.2}x the time)", l.what, layer(l.layer.1), l.rows)
    };
    let all: Vec<String> = found.iter().map(one).collect();
    format!("Slower than burn's float layer: {}.\n\n", all.join("; "))
}

fn checks(rows: &Rows) -> String {
    let mut text = String::from("## Kernels beside plain loops on the CPU\n\n");
    text += &table("kernel", &["floats", "cases", "largest difference", "accepted"].map(String::from));
    for c in &rows.checks {
        let cells =
            [c.float.clone(), c.cases.to_string(), format!("{:.1e}", c.worst), format!("{:.0e}", c.limit)];
        text += &line(&c.what, cells.into_iter().map(Some));
    }
    text + "\n"
}

/// What is missing, by reason.
fn left_out(rows: &Rows) -> String {
    let mut text = String::new();
    for why in distinct(&rows.left_out, |(_, why)| why.clone()) {
        let of: Vec<&str> = rows.left_out.iter().filter(|l| l.1 == why).map(|l| l.0.as_str()).collect();
        text += &format!("- {why}: {}\n", of.join("; "));
    }
    if text.is_empty() { text } else { format!("## Left out\n\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_is_said_of_floats_that_were_not_measured() {
        let of = |what: &str, us: f64| {
            format!(
                r#"{{"kind": "linear", "what": "{what}", "model": "BERT-base", "d_input": 32, "d_output": 64, "rows": 1, "device_us": {us}, "call_us": {us}, "bytes": 8192}}"#
            )
        };
        let said = |lines: &[String]| {
            let path = std::env::temp_dir().join(format!("briquette-xtask-tables-{}", std::process::id()));
            fs::write(&path, lines.join("\n")).expect("written");
            let mut rows = Rows::default();
            rows.read(&path).expect("rows");
            fs::remove_file(&path).expect("removed");
            slower_than_float(&rows)
        };
        assert_eq!(said(&[of("W8A8", 2.0)]), "");
        assert_eq!(
            said(&[of("W8A8", 2.0), of("burn bf16", 3.0)]),
            "None of 1 compressed layers is slower than the float one.\n\n"
        );
        let slower = said(&[of("W8A8", 2.0), of("burn f32", 1.0)]);
        assert_eq!(slower, "Slower than burn's float layer: W8A8 32x64 at 1 rows (2.00x the time).\n\n");
    }
}
