//! The signals of a daemon: end, or start again.

use engine::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why a daemon stops serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// For good.
    End,
    /// To become a fresh image of the program, with the same pid and sockets.
    Restart,
    /// A fresh image serves already, beside this one.
    HandedOver,
}

/// What a daemon is told by signals from now on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Signals no longer end the process by themselves.
    pub fn new() -> Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that ends serving.
    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::End,
            _ = self.interrupt.recv() => Stop::End,
            _ = self.hang_up.recv() => Stop::Restart,
        }
    }
}
