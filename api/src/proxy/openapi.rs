//! The description of the API. It is made by a process of its own, once per request: reading the whole table would double
//! the memory of this one for good, and hardly anybody asks for it.

use super::respond::Exchange;
use crate::wire::envelope::{JSON_TYPE, Rendered};
use crate::wire::response;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use tokio::sync::Semaphore;

/// Where it is served.
pub const PATH: &str = "/api2/openapi.json";
/// The argument of the program that makes it.
pub const ARGUMENT: &str = "openapi";

/// One at a time.
static TURN: Semaphore = Semaphore::const_new(1);

/// Serves the document.
pub async fn serve(program: &Path) -> Exchange {
    let _turn = TURN.acquire().await;
    let program = program.to_owned();
    let made = tokio::task::spawn_blocking(move || {
        std::process::Command::new(program).arg(ARGUMENT).stdin(Stdio::null()).stderr(Stdio::null()).output()
    });
    let response = match made.await {
        Ok(Ok(output)) if output.status.success() => response::rendered(Rendered {
            status: 200,
            reason: String::new(),
            content_type: JSON_TYPE,
            body: output.stdout,
        }),
        _ => response::plain(500, "unable to describe the API"),
    };
    Exchange::own(response, None)
}

/// Writes the document to standard output.
pub fn print() -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, &contract::openapi::document())?;
    output.flush()
}
