//! The serial terminal of a VM, joined with the terminal of whoever runs a tool.

use super::{files, status};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::{Context, Error, Result, Vmid, error::ResultExt, guest};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// An open serial port of a running VM.
pub struct Terminal {
    /// The port's name, `serial0` for example.
    pub port: String,
    /// What is connected with it.
    pub stream: UnixStream,
}

/// Opens a port, or the first one that is a socket. (PVE: qemu-server CLI/qm.pm, terminal)
pub fn open(ctx: &Context, vmid: Vmid, port: Option<&str>) -> Result<Terminal> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let port = choose(&config, port)?;
    if !status::is_running(ctx, vmid) {
        crate::bail!("VM {vmid} not running");
    }
    let path = files::path(ctx, vmid, &port);
    let stream = UnixStream::connect(&path).context(|| format!("unable to open '{}'", path.display()))?;
    Ok(Terminal { port, stream })
}

fn choose(config: &GuestConfig, port: Option<&str>) -> Result<String> {
    if let Some(port) = port {
        return match config.current.get(port) {
            None => Err(Error::new(format!("serial interface '{port}' is not configured"))),
            Some("socket") => Ok(port.to_owned()),
            Some(_) => Err(Error::new(format!("wrong serial type on interface '{port}'"))),
        };
    }
    let first = config.current.indexed("serial").find(|(_, kind)| *kind == "socket");
    first.map(|(number, _)| format!("serial{number}")).ok_or_else(|| Error::new("unable to find a serial interface"))
}

/// The character that ends a terminal: `^O`, a number, or 0 for none.
pub fn escape_character(text: &str) -> Result<Option<u8>> {
    let wrong = || Error::new(format!("invalid escape character definition: {text}"));
    let code = match text.strip_prefix('^').map(str::as_bytes) {
        Some([letter @ 0x40..=0x7a]) => letter & 0x1f,
        Some(_) => return Err(wrong()),
        None => match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u8::from_str_radix(digits, 16).map_err(|_| wrong())?,
            None => text.parse().map_err(|_| wrong())?,
        },
    };
    Ok(Some(code).filter(|code| *code > 0))
}

/// The way back from raw mode.
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Raw mode, if this is a terminal at all.
    fn enter(terminal: BorrowedFd<'a>) -> Result<Option<Self>> {
        if !isatty(terminal) {
            return Ok(None);
        }
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Some(RawMode { terminal, before }))
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

impl Terminal {
    /// Carries bytes both ways until the escape character is typed, the guest closes, or the input ends.
    pub fn join(mut self, escape: Option<u8>) -> Result<()> {
        let (stdin, mut stdout) = (std::io::stdin(), std::io::stdout());
        let _raw = RawMode::enter(stdin.as_fd())?;
        // Buffering would hide from poll what has been read already.
        let mut input = File::from(stdin.as_fd().try_clone_to_owned()?);
        let mut buffer = [0; 4096];
        loop {
            let mut fds = [PollFd::new(&input, PollFlags::IN), PollFd::new(&self.stream, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            let ready = [fds[0].revents(), fds[1].revents()].map(|events| !events.is_empty());
            if ready[1] {
                match self.stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush())?,
                }
            }
            if ready[0] {
                let count = input.read(&mut buffer)?;
                let typed = &buffer[..count];
                let end = escape.and_then(|escape| typed.iter().position(|byte| *byte == escape));
                self.stream.write_all(&typed[..end.unwrap_or(count)])?;
                if count == 0 || end.is_some() {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_letters_with_control_or_numbers() {
        let code = |text| escape_character(text).unwrap();
        assert_eq!((code("^O"), code("0x1d"), code("15"), code("0")), (Some(15), Some(29), Some(15), None));
        assert!(escape_character("O").is_err() && escape_character("^").is_err());
    }

    #[test]
    fn only_sockets_are_terminals() {
        let config = GuestConfig::parse(GuestKind::Qemu, "serial0: /dev/ttyS0\nserial2: socket\n");
        assert_eq!(choose(&config, None).unwrap(), "serial2");
        assert_eq!(choose(&config, Some("serial0")).unwrap_err().message(), "wrong serial type on interface 'serial0'");
        assert_eq!(
            choose(&config, Some("serial1")).unwrap_err().message(),
            "serial interface 'serial1' is not configured"
        );
    }
}
