//! How a tool says that something went wrong (pve-common PVE/Exception.pm `stringify`).
//! Clients read the status at the start of the first line; a plain failure (500) has none.

use engine::Error;
use std::io::Write;
use std::process::ExitCode;

/// The exit code of every failure.
pub const FAILED: u8 = 255;

/// Says on standard error what went wrong. `usage` follows where the command line itself was refused.
pub fn report(error: &Error, usage: Option<String>) -> ExitCode {
    let mut text = text(error);
    if error.status() == 400 {
        text.push_str(&usage.unwrap_or_default());
    }
    // Standard output first: a reader sees both in the order in which they were written.
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(FAILED)
}

fn text(error: &Error) -> String {
    match error {
        Error::Parameters(errors) => errors.to_string(),
        Error::Failed(_) => format!("{}\n", error.message()),
        other => format!("{} {}\n", other.status(), other.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use engine::Error;

    #[test]
    fn only_plain_failures_have_no_status() {
        for (error, expected) in [
            (Error::new("VM 100 already running"), "VM 100 already running\n"),
            (Error::parameter("vmid", "no"), "400 Parameter verification failed.\nvmid: no\n"),
            (
                Error::Forbidden("Permission check failed (/, Sys.Audit)".into()),
                "403 Permission check failed (/, Sys.Audit)\n",
            ),
            (Error::NotImplemented("not built".into()), "501 not built\n"),
            (Error::BadRequest("odd".into()), "400 odd\n"),
        ] {
            assert_eq!(text(&error), expected);
        }
    }
}
