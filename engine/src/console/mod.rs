//! Consoles over a port of the loopback: what `termproxy`, `vncproxy` and `vncwebsocket` of VMs, containers and the node
//! have in common.
//!
//! ```text
//! POST …proxy ── listen on 5900..5999, make a ticket ──> worker: accept once, within ten seconds
//!                                                           ├─ terminal: USER:TICKET, then framed input
//!                                                           └─ picture: raw RFB, password = start of the ticket
//! GET vncwebsocket ── ticket, port ──> the web socket is joined with the port
//! ```
//! A console serves one client and ends with it. This module knows no guest: whoever opens a console says what is
//! behind it. (PVE: qemu-server PVE/API2/Qemu.pm, vncproxy and termproxy; pve-xtermjs termproxy)

pub mod handlers;
mod picture;
mod pty;
mod relay;
mod rfb;
pub mod spice;
mod terminal;

pub use picture::serve as serve_picture;
pub use relay::{accept, relay};
pub use terminal::{Behind, serve as serve_terminal};

use crate::call::SocketTarget;
use crate::task::Handed;
use crate::{Call, Error, Mode, Reply, Result, Task, access::vnc_ticket};
use serde_json::{Map, Value, json};
use std::net::{Ipv4Addr, TcpListener};

/// Ports of consoles.
const PORTS: std::ops::RangeInclusive<u16> = 5900..=5999;

/// What is asked for.
pub struct Wish<'a> {
    /// The kind of task: `vncproxy`, `vncshell`.
    pub kind: &'a str,
    /// What the task works on.
    pub id: String,
    /// The path of the access tree that the ticket is bound to.
    pub path: String,
    /// The privilege that the client needs there.
    pub privilege: &'static str,
    /// Whether there is a password in front of the ticket (RFB), and the certificate in the answer.
    pub is_picture: bool,
}

/// A console in its task.
pub struct Console<'a> {
    /// Where the client will come.
    pub listener: &'a TcpListener,
    /// The password of the picture; empty for terminals.
    pub password: &'a str,
    path: &'a str,
    privilege: &'static str,
}

/// Opens a port, starts the task that serves it, and answers what the client needs.
pub fn open(call: &Call, wish: &Wish, serve: impl FnOnce(&Task, &Console) -> Result<()>) -> Result<Reply> {
    let own;
    let handed = match (&call.ctx.mode, &call.ctx.handed) {
        (Mode::Worker(_), Some(handed)) => handed.as_ref(),
        (Mode::Worker(_), None) => crate::bail!("the daemon has opened no port"),
        _ => {
            own = Handed { listener: listen()?, secret: if wish.is_picture { password() } else { String::new() } };
            &own
        }
    };
    let port = handed.listener.local_addr()?.port();
    let user = call.ctx.caller.id();
    let mut ticket = vnc_ticket::assemble(call.ctx, user, &wish.path, port)?;
    let upid = call.task_with(wish.kind, &wish.id, Some(handed), |task| {
        let (path, privilege) = (wish.path.as_str(), wish.privilege);
        serve(task, &Console { listener: &handed.listener, password: &handed.secret, path, privilege })
    })?;
    let mut answer = Map::new();
    if wish.is_picture {
        ticket = format!("{}:{ticket}", handed.secret);
        answer.insert("password".into(), handed.secret.clone().into());
        let certificate = std::fs::read_to_string(call.ctx.root.etc_pve("pve-root-ca.pem"));
        answer.insert("cert".into(), certificate.unwrap_or_default().into());
    }
    answer.insert("user".into(), user.into());
    answer.insert("ticket".into(), ticket.into());
    answer.insert("port".into(), port.into());
    answer.insert("upid".into(), upid.to_string().into());
    Ok(Reply::from(Value::Object(answer)))
}

/// `GET vncwebsocket`: where the web socket leads, for somebody with a ticket for this path and port.
pub fn join(call: &Call, path: &str) -> Result<Reply> {
    let port: u16 = call.param("port")?;
    let ticket: String = call.param("vncticket")?;
    vnc_ticket::verify(call.ctx, &ticket, call.ctx.caller.id(), path, port)?;
    let mut reply = Reply::from(json!({"port": port.to_string()}));
    reply.socket = Some(SocketTarget::Port(port));
    Ok(reply)
}

fn listen() -> Result<TcpListener> {
    let free = PORTS.clone().find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    free.ok_or_else(|| Error::new(format!("unable to find free port ({}-{})", PORTS.start(), PORTS.end())))
}

/// Eight printable characters: RFB looks at no more.
fn password() -> String {
    let mut bytes = [0; 8];
    openssl::rand::rand_bytes(&mut bytes).expect("the system's random source is always there");
    // 64 characters, none of which means something in a URL or in the ticket.
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_eight_printable_characters() {
        let (one, other) = (password(), password());
        assert_eq!(one.len(), 8);
        assert!(one.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b':'));
        assert_ne!(one, other);
    }

    #[test]
    fn two_consoles_have_two_ports() {
        let (one, other) = (listen().unwrap(), listen().unwrap());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        assert_ne!(port(&one), port(&other));
        assert!(PORTS.contains(&port(&one)) && PORTS.contains(&port(&other)));
    }
}
