//! The SPICE proxy: viewers ask for a connection with `CONNECT`, and a signed name says where it may lead.
//!
//! ```text
//! viewer ── CONNECT pvespiceproxy:…::SIGNATURE:PORT ──> here ── TCP ──> 127.0.0.1:PORT, the display of a VM (TLS inside)
//! ```
//! Runs as `www-data` and sees only what passes, which is encrypted between viewer and QEMU.
//! (PVE: pve-manager PVE/Service/spiceproxy.pm, pve-http-server PVE/APIServer/AnyEvent.pm, handle_spice_proxy_request)

use crate::net::listen::listener;
use crate::net::settings::Settings;
use crate::process::command;
use crate::process::control::Control;
use crate::process::ending::Ending;
use crate::process::privileges;
use crate::process::signals::Stop;
use crate::proxy::access_log::{AccessLog, Entry};
use engine::access::spice_ticket::{self, Destination};
use engine::{Context, Error, Result};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The port that viewers know.
const PORT: &str = "3128";
/// Connections that may be open at once; a viewer has about six.
const MAX_CONNECTIONS: usize = 500;
/// A viewer has to say what it wants within this time and length.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_HEAD: usize = 8192;

/// The program.
pub fn main() -> ExitCode {
    command::main("spiceproxy", &["listen", "port"], |line| {
        let ctx = Context::for_tool()?;
        let control = Control {
            pid_file: ctx.root.run("pveproxy/spiceproxy.pid"),
            log_file: ctx.root.path("/var/log/pveproxy/spiceproxy.log"),
            program: std::env::current_exe()?,
        };
        control.obey(line, || server(ctx, &control, line))
    })
}

fn server(ctx: Context, control: &Control, line: &command::Line) -> Result<()> {
    let settings = Settings::of_node(&ctx)?;
    if privileges::is_root() {
        crate::proxy::run::prepare(&ctx)?;
    }
    let running = control.begin()?;
    let listener = listener(line, &settings, PORT)?;
    if privileges::is_root() {
        privileges::drop_to(privileges::www_data()?)?;
    }
    let log = AccessLog::new(ctx.root.path("/var/log/pveproxy/access.log"));
    let proxy = Rc::new(Proxy { ctx, settings, log });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = tokio::task::LocalSet::new().block_on(&runtime, async {
        let accepting = TcpListener::from_std(listener.try_clone()?)?;
        let mut sessions = JoinSet::new();
        let (stop, ended) = tokio::select! {
            ended = Ending::wait(running, listener) => ended?,
            () = proxy.accept(&accepting, &mut sessions) => unreachable!("it accepts for ever"),
        };
        drop(accepting);
        while stop == Stop::HandedOver && sessions.join_next().await.is_some() {}
        Ok::<_, Error>(ended)
    })?;
    ended.finish()
}

struct Proxy {
    ctx: Context,
    settings: Settings,
    log: AccessLog,
}

/// What a viewer asks for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    /// `NAME:PORT`.
    target: String,
    /// `HTTP/1.0`.
    protocol: String,
}

impl Proxy {
    async fn accept(self: &Rc<Self>, listener: &TcpListener, sessions: &mut JoinSet<()>) {
        loop {
            while sessions.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, peer)) if self.settings.access.admits(peer.ip()) && sessions.len() < MAX_CONNECTIONS => {
                    let (proxy, address) = (Rc::clone(self), peer.ip().to_canonical().to_string());
                    sessions.spawn_local(async move { proxy.serve(stream, &address).await });
                }
                Ok(_) => {}
                // Out of descriptors, or a client that is gone already.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn serve(&self, mut viewer: TcpStream, address: &str) {
        let Ok(Ok(Some((request, rest)))) = tokio::time::timeout(PATIENCE, read_request(&mut viewer)).await else {
            return;
        };
        let log = |status| {
            let Request { method, target, protocol } = &request;
            let version = protocol.trim_start_matches("HTTP/");
            self.log.write(&Entry { address, user: None, method, target, version, status, length: None });
        };
        let protocol = &request.protocol;
        match self.connect(&request).await {
            Ok(mut display) => {
                log(200);
                let answer = format!("{protocol} 200 OK\r\n\r\n");
                if viewer.write_all(answer.as_bytes()).await.is_ok() && display.write_all(&rest).await.is_ok() {
                    // Either side may go at any time.
                    let _ = copy_bidirectional(&mut viewer, &mut display).await;
                }
            }
            Err((status, reason)) => {
                log(status);
                let answer = format!("{protocol} {status} {reason}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                let _ = viewer.write_all(answer.as_bytes()).await;
            }
        }
    }

    async fn connect(&self, request: &Request) -> std::result::Result<TcpStream, (u16, String)> {
        if request.method != "CONNECT" {
            return Err((501, format!("method '{}' not available", request.method)));
        }
        let Some(Destination { node, port, .. }) = spice_ticket::verify(&self.ctx, &request.target) else {
            return Err((401, "invalid ticket".into()));
        };
        if node != "localhost" && !node.eq_ignore_ascii_case(&self.ctx.node) {
            return Err((500, format!("node '{node}' is not this one")));
        }
        let display = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        let display = display.map_err(|error| (502, format!("connect to 'localhost:{port}' failed: {error}")))?;
        display.set_nodelay(true).map_err(|error| (502, error.to_string()))?;
        Ok(display)
    }
}

/// Reads the head of a request, and what has come behind it.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<(Request, Vec<u8>)>> {
    stream.set_nodelay(true)?;
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = seen.split_off(end + 4);
            return Ok(parse(&String::from_utf8_lossy(&seen)).map(|request| (request, rest)));
        }
        if seen.len() > LONGEST_HEAD || stream.read_buf(&mut seen).await? == 0 {
            return Ok(None);
        }
    }
}

/// The `Host` header names the destination, as it does for PVE; a viewer that sends none has it in the first line.
fn parse(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, protocol @ ("HTTP/1.0" | "HTTP/1.1")] = words.as_slice() else { return None };
    let host = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("host"));
    // It goes into an answer and a log.
    let method: String = method.chars().filter(char::is_ascii_uppercase).collect();
    let target = host.map_or(*target, |(_, value)| value.trim()).to_owned();
    Some(Request { method, target, protocol: (*protocol).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let request = parse("CONNECT a:1 HTTP/1.0\r\nHost: b:2\r\n\r\n").unwrap();
        assert_eq!(
            (request.method.as_str(), request.target.as_str(), request.protocol.as_str()),
            ("CONNECT", "b:2", "HTTP/1.0")
        );
        assert_eq!(parse("CONNECT a:1 HTTP/1.1\r\n\r\n").unwrap().target, "a:1");
        for head in ["", "CONNECT\r\n\r\n", "GET / HTTP/2\r\n\r\n", "CONNECT a:1 HTTP/1.0 x\r\n\r\n"] {
            assert_eq!(parse(head), None, "{head:?}");
        }
    }
}
