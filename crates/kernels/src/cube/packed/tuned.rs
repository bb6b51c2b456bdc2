//! Which of two forms of a product a device computes faster: measured once between neighbouring powers of two of rows, and
//! kept on disk where cubecl keeps what it measures.

use super::Coding;
use super::forms::Form;
use crate::product_kernel::PackedProduct;
use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, CubeTuneId};
use cubecl::client::ComputeClient;
use cubecl::tune::{AutotuneOutput, LocalTuner, Tunable, TunableSet, local_tuner};
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// What a choice is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cube) struct Key {
    /// A power of two at least as large as the input's rows.
    rows: usize,
    /// `[out, in]`.
    shape: [usize; 2],
    coding: Coding,
    /// Of inputs.
    dtype: DType,
    /// Whether inputs are quantized.
    quantized: bool,
}

impl Key {
    pub(in crate::cube) fn of(product: PackedProduct, dtype: DType) -> Self {
        let coding = Coding::of_product(product);
        let PackedProduct { rows, shape, input, .. } = product;
        Self { rows: rows.next_power_of_two(), shape, coding, dtype, quantized: input.is_some() }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, shape: [out, columns], coding, dtype, quantized } = self;
        let Coding { bits, code, group, .. } = coding;
        write!(f, "{out} x {columns}, {bits} bits {code:?} by {group}, {rows} rows {dtype:?}")?;
        if *quantized { write!(f, " quantized") } else { Ok(()) }
    }
}

/// A form, and how to compute the product with it.
pub(in crate::cube) type Candidate = (Form, Arc<dyn Fn() + Send + Sync>);

static FOUND: LazyLock<RwLock<HashMap<(String, Key), Form>>> = LazyLock::new(RwLock::default);

/// What was found faster on a device, if that is known.
pub(in crate::cube) fn known<R: CubeRuntime>(device: &R::Device, key: Key) -> Option<Form> {
    let found = FOUND.read().unwrap_or_else(PoisonError::into_inner);
    found.get(&(name::<R>(device), key)).copied()
}

/// The faster of two candidates, which are computed a few times where that is not known yet.
pub(in crate::cube) fn faster<R: CubeRuntime>(
    client: &ComputeClient<R>,
    device: &R::Device,
    key: Key,
    candidates: [Candidate; 2],
) -> Form {
    static TUNER: LocalTuner<String, CubeTuneId> = local_tuner!("product-with-packed-weight");
    // What burn tunes itself on the way is tuned before anything is timed.
    for (_, compute) in &candidates {
        compute();
    }
    let tunables = TUNER.init(|| {
        TunableSet::<String, Trial, Fastest>::new_cloning_inputs(|trial: &Trial| trial.key.to_string())
            .with(Tunable::new("few rows", |trial: Trial| trial.compute(0)))
            .with(Tunable::new("unpacked", |trial: Trial| trial.compute(1)))
    });
    let trial = Trial { key, candidates };
    let Fastest(form) = TUNER.execute(&CubeTuneId::new(client, device), client, tunables, trial);
    let mut found = FOUND.write().unwrap_or_else(PoisonError::into_inner);
    found.insert((name::<R>(device), key), form);
    form
}

/// What tells devices apart.
fn name<R: CubeRuntime>(device: &R::Device) -> String {
    format!("{} {device:?}", std::any::type_name::<R>())
}

/// What is measured.
#[derive(Clone)]
struct Trial {
    key: Key,
    candidates: [Candidate; 2],
}

impl Trial {
    /// Several times: cubecl counts uneven times against a candidate, and what keeps the host for a moment counts for less then.
    fn compute(&self, which: usize) -> Result<Fastest, String> {
        const TIMES: usize = 4;
        let (form, compute) = &self.candidates[which];
        (0..TIMES).for_each(|_| compute());
        Ok(Fastest(*form))
    }
}

/// The form that was computed.
struct Fastest(Form);

impl AutotuneOutput for Fastest {}
