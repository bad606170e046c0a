//! The smaller tools in one program: `pvesm`, `pveum`, `pveversion` and others.
//!
//! The name by which it was started says which tool it is; packaging makes a link for each. Called by its own name it
//! takes the tool as its first word. One program instead of eighteen keeps the package small and links once.

use std::path::Path;
use std::process::ExitCode;

/// The tools that are links to this program. `qm`, `pct` and `pvesh` are programs of their own, the daemons as well.
const TOOLS: &[&str] = &[
    "ha-manager",
    "pve-firewall",
    "pve-network-interface-pinning",
    "pve8to9",
    "pveam",
    "pveceph",
    "pvecm",
    "pvenet",
    "pvenode",
    "pveperf",
    "pvereport",
    "pvesm",
    "pvesr",
    "pvesubscription",
    "pveum",
    "pveupgrade",
    "pveversion",
    "qmrestore",
    "vzdump",
];

const USAGE: &str = "\
ferrovisor-tools --list                 the tools that this program is
ferrovisor-tools --completions FOLDER   write completion scripts of all tools for bash, zsh and fish
TOOL ...                                through a link of that name
";

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if TOOLS.contains(&name.as_str()) {
        return cli::main(&name);
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match (arguments.first().and_then(|word| word.to_str()), arguments.get(1)) {
        (Some("--list"), None) => {
            println!("{}", TOOLS.join("\n"));
            ExitCode::SUCCESS
        }
        (Some("--completions"), Some(folder)) => match cli::write_completions(Path::new(folder)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("unable to write completion scripts: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprint!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}
