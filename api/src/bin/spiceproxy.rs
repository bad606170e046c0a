//! `spiceproxy`: the way of SPICE viewers to the displays of VMs.

fn main() -> std::process::ExitCode {
    api::spice::main()
}
