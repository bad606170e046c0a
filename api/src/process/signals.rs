//! The signals of a daemon: end, or start again.

use engine::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Why a daemon stops serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// For good.
    End,
    /// To be replaced by a fresh image of the program with the same pid and sockets.
    Restart,
}

/// Waits for a signal that ends serving.
pub async fn wait() -> Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = terminate.recv() => Stop::End,
        _ = interrupt.recv() => Stop::End,
        _ = hang_up.recv() => Stop::Restart,
    })
}
