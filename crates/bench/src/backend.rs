//! Backends: generic code is instantiated here and nowhere else, each backend behind its feature.

use crate::clock::Clock;
use crate::job::{Floats, Job, Timed, said};
use crate::{
    BackendChoice, BenchError, FloatsChoice, Options, Row, Section, checks, models, operations, parts,
    training,
};
use briquette_kernels::backend::Cpu;
use burn::backend::Autodiff;
use burn::prelude::*;
use std::panic::AssertUnwindSafe;

/// Measures what is asked for and adds rows to the file.
///
/// # Errors
/// When the backend is not built in or finds no device, a kernel is wrong, or the file cannot be written. What cannot
/// be measured is no error but a row.
pub fn run(options: &Options) -> Result<(), BenchError> {
    if options.floats == FloatsChoice::Bf16 && options.backend != BackendChoice::Cuda {
        return Err(BenchError::Backend("floats of 16 bits are measured with CUDA only".into()));
    }
    let mut job = Job::new(options)?;
    match options.backend {
        BackendChoice::Cpu => {
            described(&mut job, "the processor".into())?;
            sections::<Cpu>(&mut job, Floats { name: "f32", timed: Timed::All })
        }
        #[cfg(feature = "wgpu")]
        BackendChoice::Wgpu => vulkan(&mut job),
        #[cfg(feature = "cuda")]
        BackendChoice::Cuda => cuda(&mut job),
        #[cfg(not(all(feature = "wgpu", feature = "cuda")))]
        #[allow(unreachable_patterns, reason = "reached by the choices whose feature is off")]
        other => {
            let name = format!("{other:?}").to_lowercase();
            Err(BenchError::Backend(format!("`{name}` is not built in: build with `--features {name}`")))
        }
    }
}

#[cfg(feature = "wgpu")]
fn vulkan(job: &mut Job<'_>) -> Result<(), BenchError> {
    use briquette_kernels::backend::{FusedWgpu, Wgpu, configure_gpu};
    configure_gpu(false);
    briquette_kernels::register::<Wgpu>();
    briquette_kernels::register::<Autodiff<Wgpu>>();
    described(job, Wgpu::name(&Default::default()))?;
    sections::<Wgpu>(job, Floats { name: "f32", timed: Timed::All })?;
    fused::<FusedWgpu>(job, Floats { name: "f32 fused", timed: Timed::Eight }, true)
}

/// Models, and steps of training where it trains, as burn fuses their operations.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn fused<B>(job: &mut Job<'_>, floats: Floats, trains: bool) -> Result<(), BenchError>
where
    B: briquette_kernels::CompressOps,
    Autodiff<B>: briquette_kernels::CompressOps,
{
    briquette_kernels::register::<B>();
    briquette_kernels::register::<Autodiff<B>>();
    if job.options.wants(Section::Models) {
        models::run::<B>(job, floats, &Default::default())?;
    }
    if trains && job.options.wants(Section::Training) {
        eprintln!("{}: training", floats.name);
        training::run::<Autodiff<B>>(job, " fused", &Default::default())?;
    }
    Ok(())
}

/// Compressed layers are timed in 16-bit floats; models of floats also as burn fuses their operations.
#[cfg(feature = "cuda")]
fn cuda(job: &mut Job<'_>) -> Result<(), BenchError> {
    use briquette_kernels::backend::{Cuda, FusedCuda, configure_gpu};
    configure_gpu(false);
    briquette_kernels::register::<Cuda>();
    briquette_kernels::register::<Autodiff<Cuda>>();
    briquette_kernels::register::<Cuda<half::bf16>>();
    described(job, gpu())?;
    if job.options.floats == FloatsChoice::F32 {
        sections::<Cuda>(job, Floats { name: "f32", timed: Timed::Eight })?;
        return fused::<FusedCuda>(job, Floats { name: "f32 fused", timed: Timed::Floats }, true);
    }
    sections::<Cuda<half::bf16>>(job, Floats { name: "bf16", timed: Timed::All })?;
    fused::<FusedCuda<half::bf16>>(job, Floats { name: "bf16 fused", timed: Timed::Floats }, false)
}

/// The GPU's name as the driver's own tool says it.
#[cfg(feature = "cuda")]
fn gpu() -> String {
    let query =
        std::process::Command::new("nvidia-smi").args(["--query-gpu=name", "--format=csv,noheader"]).output();
    let names = query.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    names.lines().next().map_or("an NVIDIA GPU", str::trim).to_string()
}

/// Writes down on what is measured.
fn described(job: &mut Job<'_>, name: String) -> Result<(), BenchError> {
    let backend = format!("{:?}", job.options.backend).to_lowercase();
    let program = concat!("briquette ", env!("CARGO_PKG_VERSION")).into();
    eprintln!("{name} ({backend})");
    job.add(&Row::Device { name, backend, program })
}

/// The sections asked for, with these floats.
fn sections<B: Backend>(job: &mut Job<'_>, floats: Floats) -> Result<(), BenchError> {
    let device = B::Device::default();
    answers::<B>(&device)?;
    if job.options.wants(Section::Checks) {
        checks::run::<B>(job, floats, &device)?;
    }
    let wanted = |section: Section| job.options.wants(section);
    let (operations, models, parts) =
        (wanted(Section::Operations), wanted(Section::Models), wanted(Section::Parts));
    if models {
        eprintln!("{}: models", floats.name);
        models::run::<B>(job, floats, &device)?;
    }
    if job.options.wants(Section::Training) && floats.name == "f32" {
        eprintln!("{}: training", floats.name);
        training::run::<Autodiff<B>>(job, "", &device)?;
    }
    if operations || parts {
        let clock = Clock::<B>::new(&device, job.care());
        if parts {
            eprintln!("{}: parts of models", floats.name);
            parts::run(job, floats, &clock, &device)?;
        }
        if operations {
            eprintln!("{}: operations", floats.name);
            operations::run(job, floats, &clock, &device)?;
        }
    }
    Ok(())
}

/// Whether there is a device.
fn answers<B: Backend>(device: &B::Device) -> Result<(), BenchError> {
    let first = AssertUnwindSafe(|| Tensor::<B, 1>::zeros([1], device).into_data());
    let answer = std::panic::catch_unwind(first);
    answer
        .map(drop)
        .map_err(|panic| BenchError::Backend(format!("no device answers: {}", said(panic.as_ref()))))
}
