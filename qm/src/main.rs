//! `qm`: virtual machines. Everything it does is in the table of its commands.

fn main() -> std::process::ExitCode {
    cli::main("qm")
}
