//! `cargo xtask check`: what review assumes: format, lints, table checks, generated documents.

use crate::{Outcome, cargo, documents, packages, sh};

/// Runs all checks; with `--fix` formats and rewrites generated documents first.
pub fn main(arguments: &[&str]) -> Outcome {
    packages::ensure()?;
    let fix = arguments.contains(&"--fix");
    if fix {
        sh(cargo().args(["fmt", "--all"]))?;
    }
    sh(cargo().args(["fmt", "--all", "--check"]))?;
    sh(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    documents::check(fix)?;
    let mut storages = cargo();
    storages.args(["test", "--quiet", "-p", "engine", "--lib", "storage::tests_documents"]);
    if fix {
        storages.env("UPDATE_GOLDEN", "1");
    }
    sh(&mut storages)?;
    check_file_lengths()
}

/// No file of code has more than 600 lines.
fn check_file_lengths() -> Outcome {
    let files =
        crate::output(std::process::Command::new("git").current_dir(crate::workspace()).args(["ls-files", "*.rs"]))?;
    let long: Vec<String> = files
        .lines()
        .filter_map(|file| {
            let lines = std::fs::read_to_string(crate::workspace().join(file)).ok()?.lines().count();
            (lines > 600).then(|| format!("{file}: {lines} lines"))
        })
        .collect();
    if long.is_empty() { Ok(()) } else { Err(format!("files over 600 lines:\n{}", long.join("\n")).into()) }
}
