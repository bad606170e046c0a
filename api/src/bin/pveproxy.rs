//! `pveproxy`: the front server.

fn main() -> std::process::ExitCode {
    api::proxy::main()
}
