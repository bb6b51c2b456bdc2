//! Repository tasks: `cargo xtask check` holds the repository to its own rules, `cargo xtask quality` makes the
//! result files.

#![expect(clippy::print_stdout, reason = "a program that reports on the terminal")]

mod check;
mod quality;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str =
    "usage: cargo xtask check           layers, module docs, lengths, printing, unsafe, words, results
       cargo xtask quality SUITE   compress real models, measure them, write docs/results/SUITE.json";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => report(),
        ["quality", ..] => match quality::run(&arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
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
