//! The processor.

use super::{On, Work, start};
use crate::error::CliError;
use briquette_kernels::backend::Cpu;

pub(super) fn run(work: impl Work) -> Result<(), CliError> {
    start::<Cpu>(work, On { device: Default::default(), backend: "cpu", name: processor() })
}

/// The processor's name and number of threads, as far as the system tells.
fn processor() -> String {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{model}, {threads} threads")
}
