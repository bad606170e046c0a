//! `pvedaemon`: the privileged daemon, and the process of each task.

fn main() -> std::process::ExitCode {
    api::daemon::main()
}
