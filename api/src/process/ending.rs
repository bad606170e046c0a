//! How a daemon that can be replaced beside itself comes to its end: the front server and the SPICE proxy.

use super::control::Running;
use super::signals::{Signals, Stop};
use engine::Result;
use std::net::TcpListener;

/// What is left to be done when the last answer is finished.
pub enum Ending {
    /// The end for good.
    End(Running),
    /// This process becomes the next image, which serves on the socket.
    Replace(Running, TcpListener),
    /// The next image serves already.
    HandedOver,
}

impl Ending {
    /// Says that requests are answered from now on, and waits until the daemon is told to end or to start again; a fresh
    /// image beside it serves when this returns. The socket is closed unless the next image of this very process needs it.
    ///
    /// # Errors
    /// A pid file that cannot be written.
    pub async fn wait(mut running: Running, mut listener: TcpListener) -> Result<(Stop, Ending)> {
        let mut signals = Signals::new()?;
        running.ready()?;
        loop {
            match signals.next().await {
                Stop::Restart if running.may_hand_over() => {
                    // It takes some time to start, and clients are served meanwhile.
                    let start = move || (running.hand_over(&listener), running, listener);
                    let (started, same, socket) = tokio::task::spawn_blocking(start).await.expect("it does not panic");
                    let Err(error) = started else {
                        same.retire();
                        return Ok((Stop::HandedOver, Ending::HandedOver));
                    };
                    eprintln!("restart: {error}");
                    (running, listener) = (same, socket);
                }
                Stop::Restart => return Ok((Stop::Restart, Ending::Replace(running, listener))),
                stop => return Ok((stop, Ending::End(running))),
            }
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// An image that does not start.
    pub fn finish(self) -> Result<()> {
        match self {
            Ending::Replace(running, listener) => Err(running.replace(&listener)),
            Ending::End(running) => {
                running.end();
                Ok(())
            }
            Ending::HandedOver => Ok(()),
        }
    }
}
