//! The result as plots: time over rows for each model's layers, and of forward passes over batches.

use super::report::layer;
use super::rows::{Rows, distinct};
use crate::bench::written;
use crate::font::{self, SANS};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

/// Width and height of one panel.
const PANEL: (u32, u32) = (520, 420);
/// Width of the list of contenders beside the panels, and height of a line of it.
const KEY: (u32, i32) = (190, 22);
/// Colours of contenders, the same in all plots: those that remain distinguishable to people who are colour-blind
/// (Okabe and Ito 2008) for compressed layers, greys for burn's floats, thin lines for PyTorch.
const COLOURS: [(&str, RGBColor); 14] = [
    ("burn f32", RGBColor(150, 150, 150)),
    ("burn bf16", RGBColor(0, 0, 0)),
    ("W8A8", RGBColor(0, 114, 178)),
    ("W8A16", RGBColor(86, 180, 233)),
    ("W4A16", RGBColor(0, 158, 115)),
    ("W4A8", RGBColor(230, 159, 0)),
    ("W8A8 f32", RGBColor(86, 180, 233)),
    ("torch bf16", RGBColor(213, 94, 0)),
    ("torch int4 tinygemm", RGBColor(0, 158, 115)),
    ("torch _int_mm alone", RGBColor(204, 121, 167)),
    ("torch compiled W8A8", RGBColor(0, 114, 178)),
    ("torch fp16 eager", RGBColor(230, 159, 0)),
    ("torch fp16 SDPA", RGBColor(213, 94, 0)),
    ("torch fp16 compiled", RGBColor(204, 121, 167)),
];

/// Points `(x, y)` under a name.
type Line = (String, Vec<(f64, f64)>);

/// One panel: logarithmic axes, a line for each contender.
struct Panel {
    title: String,
    x: &'static str,
    y: &'static str,
    lines: Vec<Line>,
}

/// Draws all plots beside `out`; their file names.
pub(super) fn draw(rows: &Rows, out: &Path) -> Result<Vec<String>, String> {
    font::register()?;
    let stem = out.file_stem().map_or_else(|| "speed".into(), |stem| stem.to_string_lossy().into_owned());
    let mut names = Vec::new();
    let mut sheet = |name: String, panels: Vec<Panel>| {
        if panels.iter().all(|panel| panel.lines.is_empty()) {
            return Ok(());
        }
        let path = out.with_file_name(&name);
        write(&path, &panels).map_err(|e| format!("{}: {e}", path.display()))?;
        names.push(name);
        Ok::<(), String>(())
    };
    sheet(format!("{stem}_models.svg"), models(rows))?;
    for model in distinct(&rows.linear, |l| l.layer.0.clone()) {
        let name = model.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        sheet(format!("{stem}_linear_{name}.svg"), layers(rows, &model))?;
    }
    Ok(names)
}

fn layers(rows: &Rows, model: &str) -> Vec<Panel> {
    let of: Vec<_> = rows.linear.iter().filter(|l| l.layer.0 == model).collect();
    let lines = |place: [usize; 2]| {
        let here: Vec<_> = of.iter().filter(|l| l.layer.1 == place).collect();
        let line = |what: String| {
            let mut points: Vec<(f64, f64)> =
                here.iter().filter(|l| l.what == what).map(|l| (l.rows as f64, l.device_us)).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            (what, points)
        };
        distinct(&here, |l| l.what.clone()).into_iter().map(line).collect()
    };
    let panel = |place| Panel {
        title: format!("{model}, linear {}", layer(place)),
        x: "rows",
        y: "microseconds on the device",
        lines: lines(place),
    };
    distinct(&of, |l| l.layer.1).into_iter().map(panel).collect()
}

fn models(rows: &Rows) -> Vec<Panel> {
    let panel = |model: String| {
        let of: Vec<_> = rows.passes.iter().filter(|p| p.model == model).collect();
        let line = |what: String| {
            let here = of.iter().filter(|p| p.what == what);
            (what.clone(), here.map(|p| (p.shape[0] as f64, p.median_ms)).collect())
        };
        let shapes: Vec<String> = distinct(&of, |p| p.shape).into_iter().map(written).collect();
        Panel {
            title: format!("{model}, {}", shapes.join(", ")),
            x: "batch",
            y: "milliseconds of a forward pass",
            lines: distinct(&of, |p| p.what.clone()).into_iter().map(line).collect(),
        }
    };
    distinct(&rows.passes, |p| p.model.clone()).into_iter().map(panel).collect()
}

fn write(path: &Path, panels: &[Panel]) -> Result<(), String> {
    let width = PANEL.0 * panels.len() as u32;
    let root = SVGBackend::new(path, (width + KEY.0, PANEL.1)).into_drawing_area();
    let draw = || -> Result<(), Failure> {
        root.fill(&WHITE)?;
        let (charts, key) = root.split_horizontally(width);
        for (panel, area) in panels.iter().zip(&charts.split_evenly((1, panels.len()))) {
            one(panel, area)?;
        }
        let lines: Vec<&Line> = panels.iter().flat_map(|p| &p.lines).collect();
        names(&distinct(&lines, |line| line.0.clone()), &key)?;
        Ok(root.present()?)
    };
    draw().map_err(|e| e.to_string())
}

type Failure = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colour and width of a contender's line.
fn style(name: &str) -> ShapeStyle {
    let colour = COLOURS.iter().find(|(known, _)| *known == name).map_or(RGBColor(90, 90, 90), |(_, c)| *c);
    colour.stroke_width(if name.starts_with("torch") { 1 } else { 3 })
}

/// The contenders, one below the other.
fn names(names: &[String], area: &Area<'_>) -> Result<(), Failure> {
    for (at, name) in names.iter().enumerate() {
        let y = 50 + KEY.1 * at as i32;
        area.draw(&PathElement::new(vec![(6, y + 6), (32, y + 6)], style(name)))?;
        area.draw(&Text::new(name.clone(), (40, y), (SANS, 14)))?;
    }
    Ok(())
}

fn one(panel: &Panel, area: &Area<'_>) -> Result<(), Failure> {
    let points = || panel.lines.iter().flat_map(|(_, points)| points);
    // A range of one point would have no length.
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let low = points().map(of).fold(f64::INFINITY, f64::min);
        let high = points().map(of).fold(0.0, f64::max);
        low / 1.3..high * 1.3
    };
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (SANS, 17))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(range(&|p| p.0).log_scale().base(2.0), range(&|p| p.1).log_scale().base(2.0))?;
    let label = |v: &f64| if *v < 10.0 && v.fract() != 0.0 { format!("{v:.2}") } else { format!("{v:.0}") };
    chart
        .configure_mesh()
        .x_desc(panel.x)
        .y_desc(panel.y)
        .x_labels(8)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .max_light_lines(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    for (name, points) in &panel.lines {
        chart.draw_series(LineSeries::new(points.iter().copied(), style(name)).point_size(3))?;
    }
    Ok(())
}
