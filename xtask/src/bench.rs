//! `cargo xtask bench`: the figures of the budgets, on release programs.

use crate::{Outcome, cargo, packages, run, sh, target};

/// Builds the release programs and measures them; an argument selects `tools`, `api` or `guests`.
pub fn main(arguments: &[&str]) -> Outcome {
    packages::ensure()?;
    run::build()?;
    sh(cargo()
        .args(["bench", "--quiet", "--package", "compat-tests", "--bench", "budgets", "--"])
        .args(arguments)
        .env("FERROVISOR_PROGRAMS", target("release")))
}
