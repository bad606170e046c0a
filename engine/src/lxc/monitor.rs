//! Questions to a running container's monitor, over the command socket that liblxc opens for it.
//!
//! One connection per question, without reading the container's configuration, so that a list of many containers stays
//! cheap. The socket's name and messages are liblxc's. (liblxc: commands.h, commands_utils.c; PVE: LXC/Command.pm)

use super::cgroup;
use crate::process::ProcessId;
use crate::{Context, Vmid};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred, sendmsg};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// The longest name that fits into an abstract socket address.
const LONGEST_NAME: usize = 106;

/// The number of the question for the process number of the container's init.
const GET_INIT_PID: i32 = 4;

/// How long a monitor may take to answer. One that is busy, as when its container thrashes at its memory limit, is found
/// by its process instead.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a question is put to a monitor that drops it.
const ATTEMPTS: usize = 5;

/// The directory of all containers' directories.
pub fn containers(ctx: &Context) -> PathBuf {
    ctx.root.path("/var/lib/lxc")
}

/// The directory of one container.
pub fn directory(ctx: &Context, vmid: Vmid) -> PathBuf {
    containers(ctx).join(vmid.to_string())
}

/// The monitor's socket, if there is a monitor. It closes when the monitor ends.
pub fn connect(ctx: &Context, vmid: Vmid) -> Option<UnixStream> {
    let path = containers(ctx);
    let name = socket_name(path.as_os_str().as_bytes(), vmid);
    let address = SocketAddr::from_abstract_name(name).ok()?;
    let stream = UnixStream::connect_addr(&address).ok()?;
    let limit = Some(PATIENCE);
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).ok()?;
    Some(stream)
}

/// The init process of a running container, as the host sees it.
pub fn init(ctx: &Context, vmid: Vmid) -> Option<ProcessId> {
    for _ in 0..ATTEMPTS {
        let mut stream = connect(ctx, vmid)?;
        let pid = match ask_for_init(&mut stream) {
            Ok(answer) => answer?,
            // A loaded monitor may drop a connection; the next question tells whether it has ended.
            Err(error) if is_dropped(&error) => continue,
            // It is there and does not answer: its container must not pass for one that does not run.
            Err(_) => child_of_monitor(ctx, vmid, &stream)?,
        };
        return ProcessId::of(pid);
    }
    child_of_monitor(ctx, vmid, &connect(ctx, vmid)?).and_then(ProcessId::of)
}

fn is_dropped(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

/// What the monitor says; none while its container has no init.
fn ask_for_init(stream: &mut UnixStream) -> io::Result<Option<u32>> {
    // struct { int command; int length; void *data }
    let mut request = [0; 16];
    request[..4].copy_from_slice(&GET_INIT_PID.to_ne_bytes());
    send_as_ourselves(stream, &request)?;
    // struct { int result; int length; void *data }, the pointer holds the number
    let mut response = [0; 16];
    stream.read_exact(&mut response)?;
    let word = |range: std::ops::Range<usize>| i32::from_ne_bytes(response[range].try_into().expect("four bytes"));
    let (result, pid) = (word(0..4), word(8..12));
    Ok(u32::try_from(pid).ok().filter(|pid| result >= 0 && *pid > 0))
}

/// Sends a question with our credentials. The monitor refuses one without; the kernel adds them by itself only when the
/// monitor has already asked for them, and a loaded one may get there after the question. (liblxc: af_unix.c)
fn send_as_ourselves(stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let own = UCred { pid: rustix::process::getpid(), uid: rustix::process::getuid(), gid: rustix::process::getgid() };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmCredentials(own)) {
        return Err(io::Error::other("no room for credentials"));
    }
    match sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// The child of the monitor that is its container's init. The socket was opened by the process that started the container,
/// before it made the monitor; so the monitor's control group is asked first. None when the monitor is ending.
fn child_of_monitor(ctx: &Context, vmid: Vmid, stream: &UnixStream) -> Option<u32> {
    let opener = rustix::net::sockopt::socket_peercred(stream).ok().map(|peer| peer.pid.as_raw_nonzero().get());
    let opener = opener.and_then(|pid| u32::try_from(pid).ok());
    let monitors = cgroup::monitor_processes(ctx, vmid).into_iter().chain(opener);
    monitors.flat_map(children).find(|child| is_init(*child))
}

fn children(process: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Whether a process lives and is the first of a namespace. Helpers that a monitor starts when it ends are neither.
fn is_init(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    let numbers: Vec<&str> = value("NSpid:").split_whitespace().collect();
    numbers.len() > 1 && numbers.last() == Some(&"1") && !value("State:").starts_with('Z')
}

/// The abstract name of the socket; long paths are hashed by liblxc.
fn socket_name(path: &[u8], vmid: Vmid) -> Vec<u8> {
    let mut name = [path, format!("/{vmid}").as_bytes()].concat();
    if name.len() + "/command".len() > LONGEST_NAME {
        name = format!("lxc/{:016x}", fnv_1a(&name)).into_bytes();
    }
    name.extend_from_slice(b"/command");
    name
}

fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags};
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::IoSliceMut;

    #[test]
    fn names_are_paths_or_their_hash() {
        let vmid = "100".parse().unwrap();
        assert_eq!(socket_name(b"/var/lib/lxc", vmid), b"/var/lib/lxc/100/command");
        let long = format!("/{}", "x".repeat(120));
        let name = String::from_utf8(socket_name(long.as_bytes(), vmid)).unwrap();
        assert!(name.starts_with("lxc/") && name.ends_with("/command") && name.len() == 4 + 16 + 8, "{name}");
    }

    #[test]
    fn a_silent_monitor_is_found_by_the_init_of_its_container() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let vmid = "100".parse().unwrap();
        let name = socket_name(containers(&ctx).as_os_str().as_bytes(), vmid);
        let _listener =
            std::os::unix::net::UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        // Nobody accepts, but this process listens and has children.
        let start = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut helper = start();
        let without = init(&ctx, vmid);
        // SAFETY: only says where the next child of this thread lives, which belongs to this test alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0, "tests of containers run as root");
        let mut first = start();
        let found = init(&ctx, vmid);
        for child in [&mut helper, &mut first] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(without, None, "a helper of a monitor that ends is no init");
        assert_eq!(found.map(|process| process.pid), Some(first.id()));
    }

    #[test]
    fn a_dropped_question_is_put_again_and_carries_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let vmid = "100".parse().unwrap();
        let name = socket_name(containers(&ctx).as_os_str().as_bytes(), vmid);
        let listener =
            std::os::unix::net::UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        let own = std::process::id();
        let monitor = std::thread::spawn(move || {
            // Closed with the question unread, as liblxc does with one that it refuses.
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            // It asks for credentials after the question has come, and looks at them.
            let mut waiting = [PollFd::new(&stream, PollFlags::IN)];
            rustix::event::poll(&mut waiting, None).unwrap();
            rustix::net::sockopt::set_socket_passcred(&stream, true).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut question = [0; 16];
            let mut parts = [IoSliceMut::new(&mut question)];
            recvmsg(&stream, &mut parts, &mut ancillary, RecvFlags::empty()).unwrap();
            let sender = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid.as_raw_nonzero().get()),
                _ => None,
            });
            assert_eq!(sender, Some(own.cast_signed()));
            let mut answer = [0; 16];
            answer[8..12].copy_from_slice(&own.to_ne_bytes());
            std::io::Write::write_all(&mut stream, &answer).unwrap();
        });
        assert_eq!(init(&ctx, vmid).map(|process| process.pid), Some(own));
        monitor.join().unwrap();
    }

    #[test]
    fn nothing_answers_for_a_stopped_container() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(init(&Context::for_test(directory.path()), "100".parse().unwrap()), None);
    }
}
