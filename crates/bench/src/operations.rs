//! Linear layers one by one, and what the device can do at best.

use crate::clock::{Clock, median};
use crate::forms::{Form, Layer, LayerSize};
use crate::job::{Floats, Job, Timed};
use crate::numbers::matrix;
use crate::{BenchError, Row};
use briquette_kernels::Activation;
use burn::prelude::*;

/// Measures the ceilings, then every layer at every number of rows.
pub(crate) fn run<B: Backend>(
    job: &mut Job<'_>,
    floats: Floats,
    clock: &Clock<B>,
    device: &B::Device,
) -> Result<(), BenchError> {
    ceilings::<B>(job, floats, clock, device)?;
    // Floats last: a backend that tries out its kernels for products of floats takes its time, and what is not measured in
    // time is left out.
    let (floats_alone, compressed): (Vec<Form>, Vec<Form>) =
        Form::ALL.into_iter().partition(|f| *f == Form::Float);
    let compressed = if floats.timed == Timed::All { compressed } else { Vec::new() };
    for forms in [compressed, floats_alone] {
        for size in layer_sizes(job) {
            for form in &forms {
                layers::<B>(job, (*form, floats), size, clock, device)?;
            }
        }
    }
    Ok(())
}

/// Models and `[d_input, d_output]` of their layers.
fn layer_sizes(job: &Job<'_>) -> Vec<(&'static str, [usize; 2])> {
    let of =
        |&(model, layers): &(&'static str, &'static [[usize; 2]])| layers.iter().map(move |l| (model, *l));
    job.sizes.layers.iter().flat_map(of).collect()
}

/// A layer at every number of rows.
fn layers<B: Backend>(
    job: &mut Job<'_>,
    (form, floats): (Form, Floats),
    (model, [d_input, d_output]): (&str, [usize; 2]),
    clock: &Clock<B>,
    device: &B::Device,
) -> Result<(), BenchError> {
    for &rows in job.sizes.rows {
        let size = LayerSize { d_input, d_output, rows, storage: job.sizes.storage };
        let what = form.name(floats.name);
        let place = format!("{what} {rows} x {d_input} x {d_output}");
        job.measured(place, || layer::<B>(form, what.clone(), model, size, clock, device))?;
    }
    Ok(())
}

fn layer<B: Backend>(
    form: Form,
    what: String,
    model: &str,
    size: LayerSize,
    clock: &Clock<B>,
    device: &B::Device,
) -> Result<Row, String> {
    let layer = Layer::<B>::new(form, size, Activation::Identity, device);
    layer.compare()?;
    let mut at = 0;
    let timing = clock.time(layer.copies() + 3, layer.output_bytes(), || {
        at += 1;
        layer.forward(at)
    });
    let LayerSize { d_input, d_output, rows, .. } = size;
    let (device_us, call_us, bytes) = (timing.device_us, timing.call_us, layer.bytes());
    Ok(Row::Linear { what, model: model.into(), d_input, d_output, rows, device_us, call_us, bytes })
}

/// How often copying is timed.
const COPIES: usize = 15;

/// Copying, as an addition that reads and writes every element once, and the largest product.
fn ceilings<B: Backend>(
    job: &mut Job<'_>,
    floats: Floats,
    clock: &Clock<B>,
    device: &B::Device,
) -> Result<(), BenchError> {
    let (count, side) = (job.sizes.copied, job.sizes.square);
    job.measured("copy bandwidth".into(), || {
        let x = matrix::<B>([1, count], 1.0, device);
        let bytes = 2 * count * x.dtype().size();
        // One at a time: a backend that fuses would read the elements once for several of them.
        let seconds: Vec<f64> =
            (0..COPIES).map(|_| clock.wall(|| x.clone() + 1.0).as_secs_f64()).skip(COPIES / 3).collect();
        Ok(Row::Ceiling { what: "copy".into(), per_second: bytes as f64 / median(&seconds) })
    })?;
    job.measured(format!("largest product in {}", floats.name), || {
        let [x, w] = [0, 1].map(|_| matrix::<B>([side, side], 1.0, device));
        let timing = clock.time(3, side * side * 4, || x.clone().matmul(w.clone()));
        let operations = 2.0 * (side as f64).powi(3);
        Ok(Row::Ceiling { what: floats.name.into(), per_second: operations / timing.device_us * 1e6 })
    })
}
