//! The protocol of terminals: the client says who it is, then sends framed input; output is raw.
//!
//! ```text
//! client: USER:TICKET\n          server: OK
//! client: 0:LENGTH:BYTES         typed
//!         1:COLUMNS:ROWS:        resized
//!         2                      still there
//! ```
//! (PVE: pve-xtermjs termproxy/src/main.rs)

use super::Console;
use super::pty::Pty;
use super::relay::{accept, readable};
use crate::{Caller, Context, Error, Result, Task, access, task::abort};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a client may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest first line: a user, a ticket, and some.
const LONGEST_LINE: usize = 1024;

/// What is behind a terminal.
pub enum Behind {
    /// A socket that is one already.
    Socket(UnixStream),
    /// A program that is started once the client is known.
    Program(Vec<String>),
}

/// Serves the one client of a terminal.
pub fn serve(task: &Task, console: &Console, behind: impl FnOnce() -> Result<Behind>) -> Result<()> {
    let mut client = accept(console.listener)?;
    let mut rest = greet(task.ctx, &mut client, console)?;
    let mut end = End::open(behind()?)?;
    client.write_all(b"OK")?;
    let mut buffer = [0; 16 * 1024];
    loop {
        for message in messages(&mut rest)? {
            match message {
                Message::Typed(bytes) => end.write(&bytes)?,
                Message::Resized(columns, rows) => end.resize(columns, rows),
                Message::StillThere => {}
            }
        }
        abort::check()?;
        let [from_client, from_end] = wait(&client, &end)?;
        if from_end {
            match end.read(&mut buffer) {
                // A terminal whose program has ended reads as an error.
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => {
                    if client.write_all(&buffer[..count]).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        if from_client {
            match client.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => rest.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

/// Reads the first line and checks who speaks; gives back what came after it.
fn greet(ctx: &Context, client: &mut TcpStream, console: &Console) -> Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    let end = loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        if line.len() > LONGEST_LINE {
            crate::bail!("authentication data is too long");
        }
        if !readable(&*client, Some(until))? {
            crate::bail!("timeout while waiting for authentication data");
        }
        let mut piece = [0; 512];
        match client.read(&mut piece)? {
            0 => crate::bail!("connection closed before authentication"),
            count => line.extend_from_slice(&piece[..count]),
        }
    };
    let rest = line.split_off(end + 1);
    let text = String::from_utf8_lossy(&line[..end]).trim_end_matches('\r').to_owned();
    let refused = || Error::new("authentication failed");
    let (user, ticket) = text.split_once(':').ok_or_else(refused)?;
    let port = console.listener.local_addr()?.port();
    access::vnc_ticket::verify(ctx, ticket, user, console.path, port).map_err(|_| refused())?;
    let ctx = ctx.with_caller(Caller::verified(user));
    access::check(&ctx, console.path, &[console.privilege])?;
    Ok(rest)
}

/// Waits until the client or the other end has something; looks up from time to time.
pub(super) fn wait(client: &TcpStream, end: &End) -> Result<[bool; 2]> {
    let mut fds = [PollFd::new(client, PollFlags::IN), PollFd::from_borrowed_fd(end.descriptor(), PollFlags::IN)];
    let step = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
    match poll(&mut fds, Some(&step)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok([!fds[0].revents().is_empty(), !fds[1].revents().is_empty()])
}

/// The other end of a terminal.
pub(super) enum End {
    Socket(UnixStream),
    Program(Pty),
}

impl End {
    pub fn open(behind: Behind) -> Result<Self> {
        Ok(match behind {
            Behind::Socket(socket) => End::Socket(socket),
            Behind::Program(command) => End::Program(Pty::start(&command)?),
        })
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            End::Socket(socket) => socket.as_fd(),
            End::Program(pty) => pty.master.as_fd(),
        }
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            End::Socket(socket) => socket.read(buffer),
            End::Program(pty) => pty.master.read(buffer),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            End::Socket(socket) => socket.write_all(bytes),
            End::Program(pty) => pty.master.write_all(bytes),
        }
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        if let End::Program(pty) = self {
            pty.resize(columns, rows);
        }
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Typed(Vec<u8>),
    Resized(u16, u16),
    StillThere,
}

/// Takes whole messages from the front of what has come.
///
/// # Errors
/// When it is none.
fn messages(buffer: &mut Vec<u8>) -> Result<Vec<Message>> {
    let mut found = Vec::new();
    while let Some((message, length)) = first(buffer)? {
        found.push(message);
        buffer.drain(..length);
    }
    Ok(found)
}

fn first(buffer: &[u8]) -> Result<Option<(Message, usize)>> {
    let wrong = || Error::new("invalid message of the terminal's client");
    match buffer {
        [] | [b'0' | b'1'] => Ok(None),
        [b'2', ..] => Ok(Some((Message::StillThere, 1))),
        [b'0', b':', rest @ ..] => {
            let Some((length, start)) = number(rest)? else { return Ok(None) };
            let bytes = rest.get(start..start + usize::from(length));
            Ok(bytes.map(|bytes| (Message::Typed(bytes.to_vec()), 2 + start + bytes.len())))
        }
        [b'1', b':', rest @ ..] => {
            let Some((columns, start)) = number(rest)? else { return Ok(None) };
            let Some((rows, end)) = number(&rest[start..])? else { return Ok(None) };
            Ok(Some((Message::Resized(columns, rows), 2 + start + end)))
        }
        _ => Err(wrong()),
    }
}

/// A number and the colon after it, when both are there: its value and where the rest begins.
fn number(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let wrong = || Error::new("invalid number of the terminal's client");
    match bytes.iter().position(|byte| *byte == b':') {
        None if bytes.len() > 5 || !bytes.iter().all(u8::is_ascii_digit) => Err(wrong()),
        None => Ok(None),
        Some(colon) => {
            let digits = std::str::from_utf8(&bytes[..colon]).map_err(|_| wrong())?;
            Ok(Some((digits.parse().map_err(|_| wrong())?, colon + 1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_may_come_in_pieces() {
        let all = b"20:3:a:b1:120:40:0:2:\xc3\xa42";
        let wanted = [
            Message::StillThere,
            Message::Typed(b"a:b".to_vec()),
            Message::Resized(120, 40),
            Message::Typed("ä".into()),
            Message::StillThere,
        ];
        for cut in 0..all.len() {
            let mut buffer = all[..cut].to_vec();
            let mut found = messages(&mut buffer).unwrap();
            buffer.extend_from_slice(&all[cut..]);
            found.extend(messages(&mut buffer).unwrap());
            assert_eq!(found, wanted, "cut at {cut}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["x", "0x", "0:a:b", "0:123456", "1:80:x:", "0:99999:", "0::"] {
            assert!(messages(&mut bad.as_bytes().to_vec()).is_err(), "{bad}");
        }
    }
}
