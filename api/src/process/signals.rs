//! Signals as a state that all threads can watch: end, or start again.

use engine::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Why a daemon stops serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// For good.
    End,
    /// To be replaced by a fresh image of the program with the same pid and sockets.
    Restart,
}

/// Waits for the signal that ends serving, and tells all watchers.
pub async fn wait(ending: &watch::Sender<bool>) -> Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let stop = tokio::select! {
        _ = terminate.recv() => Stop::End,
        _ = interrupt.recv() => Stop::End,
        _ = hang_up.recv() => Stop::Restart,
    };
    ending.send_replace(true);
    Ok(stop)
}
