//! The one client of a console, and bytes that go both ways until one side ends.

use crate::{Error, Result, task::abort};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a client may take to connect. (PVE: API2/Qemu.pm, vncproxy; termproxy main.rs)
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until a descriptor can be read; `false` when the time is over. Ends when the task is stopped.
pub(super) fn readable(descriptor: impl AsFd, until: Option<Instant>) -> Result<bool> {
    loop {
        abort::check()?;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let step = left.unwrap_or(Duration::MAX).min(Duration::from_millis(250));
        let step = Timespec { tv_sec: step.as_secs().cast_signed(), tv_nsec: i64::from(step.subsec_nanos()) };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(rustix::io::Errno::INTR) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for the client.
///
/// # Errors
/// `connection timed out` after ten seconds.
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    if !readable(listener, Some(Instant::now() + PATIENCE))? {
        return Err(Error::new("connection timed out"));
    }
    let (client, _) = listener.accept()?;
    client.set_nodelay(true)?;
    Ok(client)
}

/// Carries bytes between the client and a socket until one of them ends.
pub fn relay(client: &TcpStream, socket: &UnixStream) -> Result<()> {
    std::thread::scope(|scope| {
        let inward = scope.spawn(|| {
            carry(client, socket);
            // Either may have ended already; the other direction notices.
            let _ = socket.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        });
        let outcome = carry_until_stopped(socket, client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = socket.shutdown(Shutdown::Both);
        // It ends with the sockets and cannot panic.
        let _ = inward.join();
        outcome
    })
}

fn carry(mut from: &TcpStream, mut to: &UnixStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

fn carry_until_stopped(mut from: &UnixStream, mut to: &TcpStream) -> Result<()> {
    let mut buffer = [0; 64 * 1024];
    while readable(from, None)? {
        match from.read(&mut buffer) {
            Ok(count @ 1..) if to.write_all(&buffer[..count]).is_ok() => {}
            _ => break,
        }
    }
    Ok(())
}
