//! `cargo xtask curve`: accuracy and time of a pruned model over the operations it has left, drawn from result files.

use crate::font::{self, SANS};
use crate::options::{at, json};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Width and height of the picture.
const SIZE: (u32, u32) = (1100, 430);
/// Colours that remain distinguishable to people who are colour-blind (Okabe and Ito 2008).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// What to draw.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Results of `xtask trained`.
    #[arg(long, value_name = "FILE.json", default_value_os_t = at("docs/results/pruned_resnet20.json"))]
    trained: PathBuf,
    /// Results of `xtask bench-cpu` with the same rows.
    #[arg(long, value_name = "FILE.json", default_value_os_t = at("docs/results/speed_cpu_pruned_resnet20.json"))]
    speed: PathBuf,
    /// The picture.
    #[arg(long, value_name = "FILE.png", default_value_os_t = at("docs/results/pruned_resnet20.png"))]
    out: PathBuf,
}

/// A point and what it is called.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    name: String,
    /// Share of the operations that is left.
    left: f64,
    value: f64,
}

/// A line of points, by what it is called.
type Line = (String, Vec<Point>);

/// Draws.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let (trained, speed) = (json(&options.trained)?, json(&options.speed)?);
    let accuracy = accuracies(&trained);
    let times = times(&speed);
    if accuracy.len() < 2 || times.iter().any(|(_, points)| points.len() < 2) {
        return Err("a curve needs two points: rows with `operations`, and ratios of the same rows".into());
    }
    draw(&options.out, &accuracy, &times).map_err(|e| format!("{}: {e}", options.out.display()))?;
    eprintln!("{}: {} models", options.out.display(), accuracy.len());
    Ok(())
}

/// Share of operations that is left, of `{"before": .., "after": ..}`.
fn left(operations: &Value) -> Option<f64> {
    Some(operations["after"].as_f64()? / operations["before"].as_f64()?)
}

/// The model as it was, and the mean of each row.
fn accuracies(trained: &Value) -> Vec<Point> {
    let rows = trained["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |row: &Value| {
        let (name, value) = (row["name"].as_str()?.to_string(), row["mean"].as_f64()?);
        Some(Point { name, left: left(&row["runs"][0]["operations"])?, value })
    };
    let before = rows.iter().find_map(|row| row["runs"][0]["before"].as_f64());
    let whole = before.map(|value| Point { name: "whole".into(), left: 1.0, value });
    whole.into_iter().chain(rows.iter().filter_map(row)).collect()
}

/// Time by that of the whole model, for each shape of the input.
fn times(speed: &Value) -> Vec<Line> {
    let ratios = speed["ratios"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines: Vec<Line> = Vec::new();
    for ratio in ratios {
        let (Some(name), Some(shape)) = (ratio["time_of"].as_str(), ratio["shape"].as_str()) else {
            continue;
        };
        let (Some(left), Some(value)) = (left(&speed["compressed"][name]["flops"]), ratio["ratio"].as_f64())
        else {
            continue;
        };
        let batch = format!("batch {}", shape.split('x').next().unwrap_or(shape));
        let point = Point { name: name.into(), left, value };
        match lines.iter_mut().find(|(known, _)| *known == batch) {
            Some((_, points)) => points.push(point),
            None => {
                lines.push((batch, vec![Point { name: "whole".into(), left: 1.0, value: 1.0 }, point]));
            }
        }
    }
    for (_, points) in &mut lines {
        points.sort_by(|a, b| a.left.total_cmp(&b.left));
    }
    lines
}

type Failure = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

fn draw(out: &Path, accuracy: &[Point], times: &[Line]) -> Result<(), Failure> {
    font::register()?;
    let root = BitMapBackend::new(out, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (first, second) = root.split_horizontally(SIZE.0 / 2);
    accuracy_panel(accuracy, &first)?;
    time_panel(times, &second)?;
    Ok(root.present()?)
}

/// A range around values, a share of it free on either side.
fn around(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    let free = ((high - low) * 0.15).max(1e-6);
    low - free..high + free
}

fn accuracy_panel(points: &[Point], area: &Area<'_>) -> Result<(), Failure> {
    let mut chart = ChartBuilder::on(area)
        .caption("accuracy", (SANS, 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.25..1.1, around(points.iter().map(|p| p.value)))?;
    chart
        .configure_mesh()
        .x_desc("share of the operations that is left")
        .y_desc("share of images classified rightly")
        .y_label_formatter(&|v| format!("{v:.3}"))
        .max_light_lines(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    for point in points {
        let at = (point.left, point.value);
        chart.draw_series([Circle::new(at, 5, COLOURS[0].filled())])?;
        let name = Text::new(point.name.clone(), (8, -14), (SANS, 13));
        chart.draw_series([EmptyElement::at(at) + name])?;
    }
    Ok(())
}

fn time_panel(lines: &[Line], area: &Area<'_>) -> Result<(), Failure> {
    let values = lines.iter().flat_map(|(_, points)| points.iter().map(|p| p.value));
    let mut chart = ChartBuilder::on(area)
        .caption("time on the processor", (SANS, 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.25..1.1, 0.0..around(values).end)?;
    chart
        .configure_mesh()
        .x_desc("share of the operations that is left")
        .y_desc("time by that of the whole model")
        .max_light_lines(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    let ideal = LineSeries::new([(0.25, 0.25), (1.0, 1.0)], BLACK.mix(0.4));
    chart.draw_series(ideal)?.label("as the operations").legend(|(x, y)| key(x, y, BLACK.mix(0.4)));
    for ((name, points), colour) in lines.iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> = points.iter().map(|p| (p.left, p.value)).collect();
        let line = LineSeries::new(points, colour.stroke_width(2)).point_size(4);
        chart.draw_series(line)?.label(name).legend(move |(x, y)| key(x, y, colour.mix(1.0)));
    }
    let labels = SeriesLabelPosition::LowerRight;
    chart.configure_series_labels().position(labels).label_font((SANS, 14)).draw()?;
    Ok(())
}

/// A stroke of a legend.
fn key(x: i32, y: i32, colour: RGBAColor) -> PathElement<(i32, i32)> {
    PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails where something is missing")]
mod tests {
    use super::*;
    use serde_json::json;

    fn files() -> (Value, Value) {
        let run = |after| json!({"before": 0.9, "operations": {"before": 100.0, "after": after}});
        let trained = json!({"rows": [
            {"name": "half", "mean": 0.85, "runs": [run(50.0)]}, {"name": "cut off", "mean": null, "runs": []}]});
        let flops = json!({"flops": {"before": 100.0, "after": 50.0}});
        let ratio = |shape: &str, ratio| json!({"time_of": "half", "by_time_of": "f32", "shape": shape, "ratio": ratio});
        let speed = json!({"compressed": {"half": flops}, "ratios": [ratio("1", 0.6), ratio("8", 0.55)]});
        (trained, speed)
    }

    #[test]
    fn points_follow_the_files() {
        let (trained, speed) = files();
        let point = |name: &str, left, value| Point { name: name.into(), left, value };
        assert_eq!(accuracies(&trained), [point("whole", 1.0, 0.9), point("half", 0.5, 0.85)]);
        let lines = times(&speed);
        assert_eq!(lines[0], ("batch 1".into(), vec![point("half", 0.5, 0.6), point("whole", 1.0, 1.0)]));
        assert_eq!(lines[1].1[0].value, 0.55);
        assert!(times(&json!({})).is_empty() && accuracies(&json!({})).is_empty());
    }

    #[test]
    fn a_picture_is_drawn_with_a_font_of_its_own() {
        let (trained, speed) = files();
        let out = std::env::temp_dir().join(format!("briquette-curve-{}.png", std::process::id()));
        draw(&out, &accuracies(&trained), &times(&speed)).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 5000, "{} bytes", bytes.len());
        std::fs::remove_file(&out).unwrap();
    }
}
