//! Repository tasks: `cargo xtask check` holds the repository to its own rules, `cargo xtask quality` makes the
//! result files.

#![expect(clippy::print_stdout, reason = "a program that reports on the terminal")]

mod bench;
mod check;
mod curve;
mod font;
mod options;
mod quality;
mod trained;

use clap::Parser;
use std::path::Path;
use std::process::ExitCode;

/// Tasks of the repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Layers, module docs, lengths, printing, unsafe, words, results.
    Check,
    /// Compress real models, measure them, write docs/results/SUITE.json.
    Quality(quality::Options),
    /// The same with training, over several seeds.
    Trained(trained::Options),
    /// Time all forms of a model on the processor, write docs/results/SUITE.json.
    BenchCpu(bench::Options),
    /// Draw accuracy and time of a pruned model over the operations it has left, from result files.
    Curve(curve::Options),
    /// Time kernels and models on a GPU, beside PyTorch; write docs/results/speed_gpu.json, tables and plots.
    BenchA100(bench::gpu::Options),
}

fn main() -> ExitCode {
    match Task::parse() {
        Task::Check => report(),
        Task::Quality(options) => ended(quality::run(&options)),
        Task::Trained(options) => ended(trained::run(&options)),
        Task::BenchCpu(options) => ended(bench::run(&options)),
        Task::Curve(options) => ended(curve::run(&options)),
        Task::BenchA100(options) => ended(bench::gpu::run(&options)),
    }
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints every violation with its place; fails when there is one.
fn report() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository's root");
    match check::repository(root) {
        Ok((files, violations)) => {
            for violation in &violations {
                println!("{violation}");
            }
            println!("{files} files, {} violations", violations.len());
            if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
