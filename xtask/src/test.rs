//! `cargo xtask test`: every tier that this machine can run, and a count of what was skipped and why.

use crate::{Outcome, cargo, lab, packages, sh, target};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Builds the programs that the tests drive, runs all tests, reports skips. The runner's own closing line comes last.
/// With `--lab` as first argument machines of the lab are made meanwhile, if they are not kept from an earlier run.
pub fn main(arguments: &[&str]) -> Outcome {
    packages::ensure()?;
    let (with_lab, arguments) = match arguments {
        ["--lab", rest @ ..] => (true, rest),
        all => (false, all),
    };
    let machines = with_lab.then(|| std::thread::spawn(|| lab::prepare().map_err(|error| error.to_string())));
    sh(cargo().args(["build", "--workspace", "--bins"]))?;
    let skips = target("debug").join("skipped-tests");
    // A list of an earlier run would be counted again.
    let _ = std::fs::remove_file(&skips);
    let has_nextest = Command::new("cargo-nextest").arg("--version").output().is_ok_and(|out| out.status.success());
    let mut tests = cargo();
    if has_nextest {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        // Guests share memory and bridges: one test at a time within a program.
        tests.args(["test", "--workspace", "--no-fail-fast", "--", "--test-threads=1"]);
    }
    tests.args(arguments).env("COMPAT_SKIPS", &skips);
    if let Some(machines) = machines {
        let answer = match machines.join() {
            Ok(Ok(())) => "ready".to_owned(),
            Ok(Err(error)) => format!("no machine of the lab: {}", error.lines().next().unwrap_or_default()),
            Err(_) => "no machine of the lab: making it panicked".to_owned(),
        };
        tests.env("COMPAT_LAB", answer);
    }
    let (passed, closing) = run(&mut tests)?;
    let list = std::fs::read_to_string(&skips).unwrap_or_default();
    for (reason, tests) in count(&list) {
        println!("could not run here ({}: {}): {reason}", tests.len(), tests.join(", "));
    }
    println!("{closing}");
    if passed { Ok(()) } else { Err("some tests failed".into()) }
}

/// Runs the runner and shows what it says; gives back whether all passed, and its closing line, which is held back.
fn run(runner: &mut Command) -> Outcome<(bool, String)> {
    let mut child = runner.stderr(Stdio::piped()).spawn()?;
    let pipe = child.stderr.take().ok_or("standard error is a pipe")?;
    let mut closing = String::new();
    for line in BufReader::new(pipe).lines() {
        let line = line?;
        if line.trim_start().starts_with("Summary [") {
            closing = line;
        } else {
            eprintln!("{line}");
        }
    }
    Ok((child.wait()?.success(), closing))
}

/// Skipped tests by reason. Each line of the list is `TEST<TAB>REASON`.
fn count(list: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (test, reason) in list.lines().filter_map(|line| line.split_once('\t')) {
        reasons.entry(reason).or_default().push(test);
    }
    reasons
}

#[cfg(test)]
mod tests {
    #[test]
    fn skips_are_counted_by_reason() {
        let counted = super::count("a\tno kvm\nb\tno kvm\nc\tno lvm\n");
        assert_eq!(counted["no kvm"], ["a", "b"]);
        assert_eq!(counted.len(), 2);
    }
}
