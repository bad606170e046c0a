//! What a SPICE viewer is told, and terminals that are shown to one.
//!
//! A terminal needs `spiceterm`, which PVE's own repository has and Debian's does not. Without it the answer says so: a
//! configuration that leads nowhere helps nobody.
//! (PVE: pve-access-control PVE/AccessControl.pm, remote_viewer_config; pve-manager PVE/API2Tools.pm, run_spiceterm)

use super::Wish;
use crate::access::spice_ticket::{self, SpiceTicket};
use crate::task::Handed;
use crate::{Call, Context, Error, Mode, Reply, Result, Task, Vmid, bail, error::ResultExt, file, node, task::abort};
use openssl::x509::X509;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long `spiceterm` waits for its viewer, in seconds.
const TIMEOUT: &str = "40";
/// How long it may take to open its port.
const PATIENCE: Duration = Duration::from_secs(10);
/// What it gets of our environment.
const KEPT: [&str; 6] = ["PATH", "TERM", "USER", "HOME", "LANG", "LANGUAGE"];

/// What a viewer's configuration file has, for a display of this node on `port`.
pub fn settings(ctx: &Context, title: &str, ticket: &SpiceTicket, port: u16, proxy: Option<&str>) -> Result<Value> {
    Ok(json!({
        "type": "spice",
        "title": title,
        "host": ticket.host,
        "host-subject": subject(ctx)?,
        "ca": file::read_or_empty(&ctx.root.etc_pve("pve-root-ca.pem"))?.replace('\n', "\\n"),
        "proxy": format!("http://{}:3128", proxy_host(ctx, proxy)),
        "tls-port": port,
        "password": ticket.password,
        "secure-attention": "Ctrl+Alt+Ins",
        "toggle-fullscreen": "Shift+F11",
        "release-cursor": "Ctrl+Alt+R",
        "delete-this-file": 1,
    }))
}

/// Where viewers find the proxy: as the client says, or by this node's name.
fn proxy_host(ctx: &Context, proxy: Option<&str>) -> String {
    match proxy {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{address}]"),
        Some(name) => name.to_owned(),
        None => node::certificate::full_name(ctx),
    }
}

/// The subject of the node's certificate as viewers write it: `OU=…,O=…,CN=…`.
fn subject(ctx: &Context) -> Result<String> {
    let path = ctx.root.etc_pve(&format!("nodes/{}/pve-ssl.pem", ctx.node));
    let pem = std::fs::read(&path).context(|| format!("unable to read '{}'", path.display()))?;
    let unreadable = |error| Error::new(format!("{}: {error}", path.display()));
    let certificate = X509::from_pem(&pem).map_err(unreadable)?;
    let entries = certificate.subject_name().entries();
    let entry = |entry: &openssl::x509::X509NameEntryRef| {
        let key = entry.object().nid().short_name().unwrap_or("UNDEF").to_owned();
        let value = entry.data().to_string().unwrap_or_default();
        // A comma of a name is no separator.
        format!("{key}={}", value.replace(',', "\\,"))
    };
    Ok(entries.map(entry).collect::<Vec<_>>().join(","))
}

/// Shows a program's terminal to a SPICE viewer: starts the task that serves it, answers the viewer's configuration.
/// `title` is the viewer's, `command` what runs in the terminal.
///
/// # Errors
/// When `spiceterm` is missing, or no port is free.
pub fn open(call: &Call, wish: &Wish, title: &str, vmid: Vmid, command: &[String]) -> Result<Reply> {
    let ctx = call.ctx;
    let program = spiceterm()?;
    if let (Mode::Worker(_), Some(handed)) = (&ctx.mode, &ctx.handed) {
        return call
            .task_with(wish.kind, vmid, Some(handed), |task| serve(task, &program, wish, handed, command))
            .map(|_| Reply::null());
    }
    node::certificate::ensure(ctx)?;
    let listener = listen()?;
    let port = listener.local_addr()?.port();
    let ticket = spice_ticket::assemble(ctx, vmid, port)?;
    let settings = settings(ctx, title, &ticket, port, call.text("proxy").as_deref())?;
    let handed = Handed { listener, secret: ticket.password };
    call.task_with(wish.kind, vmid, Some(&handed), |task| serve(task, &program, wish, &handed, command))?;
    if matches!(ctx.mode, Mode::Daemon { .. }) {
        wait_for_successor(&handed.listener, port)?;
    }
    Ok(settings.into())
}

fn spiceterm() -> Result<PathBuf> {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&directories).map(|path| path.join("spiceterm")).find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::new(
            "unable to find the program 'spiceterm', which shows terminals to SPICE viewers. Debian has no package of it; \
             use the console of the web page (xterm.js or noVNC), or install the package 'spiceterm' of Proxmox.",
        )
    })
}

fn listen() -> Result<TcpListener> {
    let free = spice_ticket::PORTS.clone().find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    free.ok_or_else(|| Error::new("unable to find a free port for SPICE"))
}

/// Runs `spiceterm` until its viewer has gone. It opens its port itself, so ours gives way.
fn serve(task: &Task, program: &Path, wish: &Wish, handed: &Handed, command: &[String]) -> Result<()> {
    let port = handed.listener.local_addr()?.port();
    // The port stays ours until then; a socket that no longer listens does not stand in the way of another.
    rustix::net::shutdown(&handed.listener, rustix::net::Shutdown::Both)?;
    let mut child = arguments(Command::new(program), port, wish, command)
        .env_clear()
        .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("PWD", "/")
        .env("SPICE_TICKET", &handed.secret)
        .current_dir("/")
        .spawn()
        .context(|| "unable to start 'spiceterm'")?;
    task.log(format!("spiceterm on port {port}"));
    let status = loop {
        if let Err(error) = abort::check() {
            child.kill().and_then(|()| child.wait())?;
            return Err(error);
        }
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    if status.success() { Ok(()) } else { Err(Error::new(format!("spiceterm failed: {status}"))) }
}

fn arguments(mut program: Command, port: u16, wish: &Wish, command: &[String]) -> Command {
    program.args(["--port", &port.to_string(), "--addr", "127.0.0.1", "--timeout", TIMEOUT]);
    program.args(["--authpath", &wish.path, "--permissions", wish.privilege, "--"]).args(command);
    program
}

/// Waits until another socket than ours listens on the port.
fn wait_for_successor(own: &TcpListener, port: u16) -> Result<()> {
    let own = rustix::fs::fstat(own)?.st_ino;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
        if tables.iter().any(|table| listening(table, port).any(|inode| inode != own)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("spiceterm has not opened its port; its task log says why")
}

/// The sockets that listen on a port, by inode. (Linux: Documentation/networking/proc_net_tcp.rst; state 0A listens)
fn listening(table: &str, port: u16) -> impl Iterator<Item = u64> {
    let end = format!(":{port:04X}");
    table.lines().filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(1)?.ends_with(&end) && *words.get(3)? == "0A";
        words.get(9).filter(|_| is_it)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_is_for_those_who_may() {
        let wish = Wish {
            kind: "spiceproxy",
            id: "100".into(),
            path: "/vms/100".into(),
            privilege: "VM.Console",
            is_picture: true,
        };
        let words: Vec<String> = ["lxc-console", "-n", "100"].map(str::to_owned).into();
        let command = arguments(Command::new("spiceterm"), 61000, &wish, &words);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            words.join(" "),
            "--port 61000 --addr 127.0.0.1 --timeout 40 --authpath /vms/100 --permissions VM.Console -- \
             lxc-console -n 100"
        );
    }

    #[test]
    fn listening_sockets_are_told_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:EE48 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0        0 4711 1\n\
             1: 0100007F:EE48 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0        0 4712 1\n\
             2: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0        0 4713 1\n";
        assert_eq!(listening(table, 61000).collect::<Vec<_>>(), [4711]);
    }
}
