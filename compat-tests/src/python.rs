//! Real clients from PyPI, in a virtual environment below the target directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the tests drive, with its versions.
const PACKAGES: &[&str] =
    &["proxmoxer==2.3.0", "requests==2.32.5", "requests-toolbelt==1.0.0", "openapi-spec-validator==0.7.2"];

/// Runs a script of `clients/` with one argument.
///
/// # Errors
/// Why the packages cannot be had here.
pub fn run(script: &str, argument: &str) -> Result<Output, String> {
    let python = environment()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    Command::new(python).arg("-W").arg("ignore").arg(script).arg(argument).output().map_err(|error| error.to_string())
}

/// The interpreter of the virtual environment; made at the first use.
fn environment() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = own.ancestors().nth(2).ok_or("a test lies in target/PROFILE/deps")?;
    let environment = target.join("python-clients");
    let lock = std::fs::File::create(target.join("python-clients.lock")).map_err(|error| error.to_string())?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
    let stamp = environment.join("installed");
    if std::fs::read_to_string(&stamp).unwrap_or_default() != PACKAGES.join("\n") {
        check(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        check(Command::new(environment.join("bin/pip")).args(["install", "--quiet"]).args(PACKAGES))?;
        std::fs::write(&stamp, PACKAGES.join("\n")).map_err(|error| error.to_string())?;
    }
    Ok(environment.join("bin/python"))
}

fn check(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
