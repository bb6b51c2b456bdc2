//! The rows that were measured, read back.

use serde_json::Value;
use std::path::Path;

/// A kernel beside plain loops.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) what: String,
    pub(super) float: String,
    pub(super) cases: u64,
    pub(super) worst: f64,
    pub(super) limit: f64,
}

/// A layer of a model, `[d_input, d_output]`.
pub(super) type LayerOf = (String, [usize; 2]);

/// A linear layer that was timed.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub(super) what: String,
    pub(super) layer: LayerOf,
    pub(super) rows: usize,
    pub(super) device_us: f64,
    pub(super) call_us: f64,
    pub(super) bytes: f64,
}

impl Linear {
    /// Multiplications and additions.
    pub(super) fn operations(&self) -> f64 {
        let [d_input, d_output] = self.layer.1;
        2.0 * (self.rows * d_input * d_output) as f64
    }
}

/// A forward pass or a step of training that was timed.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) what: String,
    pub(super) model: String,
    /// `[batch, seq]`.
    pub(super) shape: [usize; 2],
    pub(super) median_ms: f64,
    /// The fastest one; of forward passes.
    pub(super) min_ms: Option<f64>,
    pub(super) runs: u64,
}

/// One kind of operation of a forward pass.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) what: String,
    pub(super) model: String,
    pub(super) shape: [usize; 2],
    pub(super) part: String,
    pub(super) calls: u64,
    pub(super) device_us: f64,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    pub(super) device: String,
    pub(super) backend: String,
    /// PyTorch and its version, where it was there.
    pub(super) torch: Option<String>,
    pub(super) checks: Vec<Check>,
    /// Who, what and the rate in bytes or operations per second.
    pub(super) ceilings: Vec<(String, String, f64)>,
    pub(super) linear: Vec<Linear>,
    pub(super) passes: Vec<Pass>,
    pub(super) parts: Vec<Part>,
    /// Steps of training.
    pub(super) steps: Vec<Pass>,
    /// What could not be measured, and why.
    pub(super) left_out: Vec<(String, String)>,
}

impl Rows {
    /// Adds those of a file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds anything else.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut who = String::new();
        for (index, line) in text.lines().enumerate() {
            let place = |error: String| format!("{}:{}: {error}", path.display(), index + 1);
            let row = serde_json::from_str(line).map_err(|e| place(e.to_string()))?;
            self.add(&Line(&row), &mut who).map_err(place)?;
        }
        Ok(())
    }

    fn add(&mut self, row: &Line<'_>, who: &mut String) -> Result<(), String> {
        match row.text("kind")?.as_str() {
            "device" => {
                *who = row.text("program")?;
                let backend = row.text("backend")?;
                if backend == "torch" {
                    self.torch = Some(who.clone());
                } else {
                    (self.device, self.backend) = (row.text("name")?, backend);
                }
            }
            "check" => self.checks.push(Check {
                what: row.text("what")?,
                float: row.text("float")?,
                cases: row.count("cases")? as u64,
                worst: row.number("worst")?,
                limit: row.number("limit")?,
            }),
            "ceiling" => self.ceilings.push((who.clone(), row.text("what")?, row.number("per_second")?)),
            "linear" => self.linear.push(row.linear()?),
            "model" => self.passes.push(row.pass()?),
            "part" => self.parts.push(row.part()?),
            "step" => self.steps.push(row.pass()?),
            "left_out" => self.left_out.push((row.text("what")?, row.text("why")?)),
            other => return Err(format!("a row of kind `{other}`")),
        }
        Ok(())
    }

    /// The best rate of a kind that anyone reached.
    pub(super) fn ceiling(&self, kind: &str) -> Option<f64> {
        self.ceilings.iter().filter(|(_, what, _)| what == kind).map(|(.., rate)| *rate).reduce(f64::max)
    }

    /// Microseconds on the device of a layer.
    pub(super) fn linear_us(&self, what: &str, layer: &LayerOf, rows: usize) -> Option<f64> {
        let found = self.linear.iter().find(|l| l.what == what && l.layer == *layer && l.rows == rows);
        found.map(|l| l.device_us)
    }

    /// Milliseconds of a forward pass.
    pub(super) fn pass_ms(&self, what: &str, model: &str, shape: [usize; 2]) -> Option<f64> {
        let found = self.passes.iter().find(|p| p.what == what && p.model == model && p.shape == shape);
        found.map(|p| p.median_ms)
    }
}

/// The distinct values of `of` in the order in which they come.
pub(super) fn distinct<T, K: PartialEq>(items: &[T], of: impl Fn(&T) -> K) -> Vec<K> {
    let mut found = Vec::new();
    for item in items {
        let key = of(item);
        if !found.contains(&key) {
            found.push(key);
        }
    }
    found
}

/// One object of a file.
struct Line<'a>(&'a Value);

impl Line<'_> {
    fn text(&self, key: &str) -> Result<String, String> {
        self.0[key].as_str().map(String::from).ok_or_else(|| format!("no text `{key}`"))
    }

    fn number(&self, key: &str) -> Result<f64, String> {
        self.0[key].as_f64().ok_or_else(|| format!("no number `{key}`"))
    }

    fn count(&self, key: &str) -> Result<usize, String> {
        let count = self.0[key].as_u64().and_then(|n| usize::try_from(n).ok());
        count.ok_or_else(|| format!("no whole number `{key}`"))
    }

    fn shape(&self) -> Result<[usize; 2], String> {
        Ok([self.count("batch")?, self.count("seq")?])
    }

    fn linear(&self) -> Result<Linear, String> {
        Ok(Linear {
            what: self.text("what")?,
            layer: (self.text("model")?, [self.count("d_input")?, self.count("d_output")?]),
            rows: self.count("rows")?,
            device_us: self.number("device_us")?,
            call_us: self.number("call_us")?,
            bytes: self.number("bytes")?,
        })
    }

    fn pass(&self) -> Result<Pass, String> {
        Ok(Pass {
            what: self.text("what")?,
            model: self.text("model")?,
            shape: self.shape()?,
            median_ms: self.number("median_ms")?,
            min_ms: self.0["min_ms"].as_f64(),
            runs: self.count("runs")? as u64,
        })
    }

    fn part(&self) -> Result<Part, String> {
        Ok(Part {
            what: self.text("what")?,
            model: self.text("model")?,
            shape: self.shape()?,
            part: self.text("part")?,
            calls: self.count("calls")? as u64,
            device_us: self.number("device_us")?,
        })
    }
}
