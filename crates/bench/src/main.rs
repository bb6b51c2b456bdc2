//! `briquette-bench`: the program behind `cargo xtask bench-a100`.

use briquette_bench::{Options, run};
use clap::Parser;
use std::process::ExitCode;

/// Measures kernels and models of random weights.
#[derive(Debug, Parser)]
#[command(name = "briquette-bench", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    // Panics on a GPU's device thread are only logged: without a logger they would go unnoticed.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&Cli::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
