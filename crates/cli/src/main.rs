//! The `briquette` program.

mod args;
mod backend;
mod commands;
mod dependencies;
mod error;
mod model;
mod output;
mod progress;
mod reduction;

use args::{Cli, Command};
use clap::Parser;
use error::CliError;
use std::process::ExitCode;

/// Exit status for anything wrong in what the user gave.
const USER_ERROR: u8 = 2;
/// Exit status for a fault of ours.
const INTERNAL_ERROR: u8 = 1;

fn main() -> ExitCode {
    // Panics on a GPU's device thread are only logged: without a logger they would go unnoticed.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    match std::panic::catch_unwind(|| run(&cli)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.is_internal() { INTERNAL_ERROR } else { USER_ERROR })
        }
        // The panic's own message has been printed.
        Err(_) => {
            eprintln!("error: this is a fault of briquette, not of what you gave it");
            ExitCode::from(INTERNAL_ERROR)
        }
    }
}

fn run(cli: &Cli) -> Result<(), CliError> {
    match &cli.command {
        Command::Plan(args) => commands::plan::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Compress(args) => backend::run(args.device.backend, commands::compress::Compress(args)),
        Command::Eval(args) => backend::run(args.device.backend, commands::eval::Eval(args)),
        Command::Bench(args) => backend::run(args.device.backend, commands::bench::Bench(args)),
    }
}
