//! `pvesh`: every method of the interface. Everything it does is in the table of its commands.

fn main() -> std::process::ExitCode {
    cli::main("pvesh")
}
