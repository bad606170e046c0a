//! System calls that the host makes for a container: device nodes for those with `features: mknod=1`.
//!
//! ```text
//! process in the container ──mknod──> kernel ──> monitor (liblxc) ──socket──> pvedaemon system-calls ──> the node
//! ```
//! The helper is started with the container and ends with its monitor; it serves nobody else, and needs no daemon. What
//! it does not do itself the kernel decides as if it had not been asked. (PVE has one service for all containers:
//! pve-lxc-syscalld; the rules are those of pve-container PVE/LXC.pm, make_seccomp_config)

mod message;
mod mknod;

use crate::{Context, Result, Vmid, error::ResultExt, file};
use message::{Answer, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen, recvmsg, send, socket_with,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

/// The word that makes `pvedaemon` this helper.
pub const WORD: &str = "system-calls";
/// Rules of the container's filter: device nodes are asked for, character devices (S_IFCHR) and block devices (S_IFBLK).
pub const RULES: &str = "mknod notify [1,8192,SCMP_CMP_MASKED_EQ,61440]\n\
    mknod notify [1,24576,SCMP_CMP_MASKED_EQ,61440]\n\
    mknodat notify [2,8192,SCMP_CMP_MASKED_EQ,61440]\n\
    mknodat notify [2,24576,SCMP_CMP_MASKED_EQ,61440]\n";
/// How long the helper waits for the monitor that it was started for.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// Where the monitor finds the helper while the container starts.
pub fn socket_path(ctx: &Context, vmid: Vmid) -> PathBuf {
    ctx.root.run(&format!("pve/ct-{vmid}.calls"))
}

/// Removes the place where the monitor found the helper of a container that has ended.
pub fn remove_socket(ctx: &Context, vmid: Vmid) -> Result<()> {
    let path = socket_path(ctx, vmid);
    file::remove_if_there(&path).context(|| format!("unable to remove '{}'", path.display()))
}

/// A helper whose monitor has not come yet: it ends with this unless it is left to itself.
pub struct Helper(Option<Child>);

impl Helper {
    /// Starts one that listens already.
    pub fn start(ctx: &Context, vmid: Vmid) -> Result<Self> {
        let path = socket_path(ctx, vmid);
        let listener = listen_at(&path).context(|| format!("unable to listen at '{}'", path.display()))?;
        let program = ctx.daemon_program()?;
        let mut command = Command::new(&program);
        command.arg(WORD).current_dir("/").stdin(listener).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context(|| format!("unable to start '{}'", program.display()))?;
        Ok(Helper(Some(child)))
    }

    /// The monitor has come: it ends when the monitor does.
    pub fn leave(mut self) {
        self.0.take();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It is ours and may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn listen_at(path: &Path) -> Result<OwnedFd> {
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    // Only the monitor, which is root's, may ask.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&listener, 1)?;
    Ok(listener)
}

/// The program: serves the monitor that connects to the socket on standard input.
pub fn main() -> ExitCode {
    // The end of the terminal or of the task that started the container is not its end.
    let _ = rustix::process::setsid();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> Result<()> {
    let listener = rustix::stdio::stdin();
    if poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&PATIENCE))? == 0 {
        return Ok(());
    }
    let monitor = accept_with(listener, SocketFlags::CLOEXEC)?;
    let mut buffer = [0; message::LONGEST];
    while let Some((length, descriptors)) = receive(monitor.as_fd(), &mut buffer)? {
        let message = Message::read(&buffer[..length])?;
        let answer = match descriptors.as_slice() {
            [process, memory, ..] => mknod::answer(&message, process.as_fd(), memory.as_fd()),
            _ => Answer::Continue,
        };
        send(&monitor, &message.reply(answer), SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// A message and what came with it: the process's directory in `/proc` and its memory. None when the monitor has ended.
fn receive(monitor: rustix::fd::BorrowedFd, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(monitor, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    Ok((received.bytes > 0).then_some((received.bytes, descriptors)))
}
