//! Repository tasks: `cargo xtask check` holds the repository to its own rules, `cargo xtask quality` makes the
//! result files.

#![expect(clippy::print_stdout, reason = "a program that reports on the terminal")]

mod bench;
mod check;
mod quality;
mod trained;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str =
    "usage: cargo xtask check           layers, module docs, lengths, printing, unsafe, words, results
       cargo xtask quality SUITE   compress real models, measure them, write docs/results/SUITE.json
       cargo xtask trained SUITE   the same with training, over several seeds
       cargo xtask bench-cpu       time all forms of a model on the processor, write docs/results/speed_cpu_bert.json";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => report(),
        ["quality", ..] => ended(quality::run(&arguments[1..])),
        ["bench-cpu", ..] => ended(bench::run(&bench::cpu::SUITE, "cpu", &arguments[1..])),
        ["trained", ..] => ended(trained::run(&arguments[1..])),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
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
