//! Every chore of the project is one command here: `cargo xtask run | test | check | bench | lab | deb | …`.

mod bench;
mod check;
mod contract;
mod deb;
mod demo;
mod documents;
mod lab;
mod packages;
mod run;
mod test;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// What a chore ends with.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
cargo xtask COMMAND

  run [--demo] [--port N] [--listen ADDRESS]   install what is missing, build, start a node; --demo starts guests, too
  run --stop                                   stop the node (guests, then daemons); its state is kept
  test [--lab] [FILTER]                        install what is missing, run all tests that this machine can run;
                                               --lab: also those that need machines of the lab
  check [--fix]                                format, lints, table checks, generated documents
  bench [FILTER]                               release figures next to the raw tool's, from the same run
  deb [--debug] [--output FOLDER]              our Debian package, from the release programs
  lab build | start | stop | run | shell | …   Debian machines of our own for tests; see `cargo xtask lab help`
  completions FOLDER                           write completion scripts of all tools for bash, zsh and fish
  contract --dump FILE | --compare DIR | --openapi FILE
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.split_first() {
        Some((&"run", rest)) => run::main(rest),
        Some((&"test", rest)) => test::main(rest),
        Some((&"check", rest)) => check::main(rest),
        Some((&"bench", rest)) => bench::main(rest),
        Some((&"contract", rest)) => contract::main(rest),
        Some((&"deb", rest)) => deb::main(rest),
        Some((&"lab", rest)) => lab::main(rest),
        Some((&"completions", [folder])) => completions(folder),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Completion scripts come from the tools themselves; the smaller ones write those of all.
fn completions(folder: &str) -> Outcome {
    std::fs::create_dir_all(folder)?;
    let folder = std::fs::canonicalize(folder)?;
    sh(cargo().args(["run", "--quiet", "--package", "tools", "--", "--completions"]).arg(folder))
}

/// The top of the checkout.
fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// Cargo, in the workspace.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The directory of the built programs of a profile.
fn target(profile: &str) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from).join(profile)
}

/// Runs a command to its end; a bad status is an error that names it.
fn sh(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}

/// Runs a command and gives back its standard output.
fn output(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()).into())
}
