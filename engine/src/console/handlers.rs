//! Consoles of the node itself: a login on it.

use super::{Behind, Wish, join, open, serve_picture, serve_terminal};
use crate::registry::{Binding, get, post};
use crate::{Call, Error, Reply, Result};

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    post("/nodes/{node}/termproxy", terminal),
    post("/nodes/{node}/vncshell", picture),
    get("/nodes/{node}/vncwebsocket", web_socket),
];

fn path(call: &Call) -> Result<String> {
    Ok(format!("/nodes/{}", call.param::<String>("node")?))
}

fn wish(call: &Call, is_picture: bool) -> Result<Wish<'static>> {
    Ok(Wish { kind: "vncshell", id: String::new(), path: path(call)?, privilege: "Sys.Console", is_picture })
}

/// Which program the caller gets. Only root is logged in without a password. (PVE: pve-manager PVE/API2/Nodes.pm)
fn command(call: &Call) -> Result<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let is_root = call.ctx.caller.is_root();
    match call.text("cmd").as_deref() {
        None | Some("login") if is_root => Ok(words(&["/bin/login", "-f", "root"])),
        None | Some("login") => Ok(words(&["/bin/login"])),
        Some(_) if !is_root => Err(Error::Forbidden("Permission check failed (user != root@pam)".into())),
        Some("upgrade") => Ok(words(&["/usr/bin/pveupgrade", "--shell"])),
        Some(other) => Err(Error::NotImplemented(format!("command '{other}' is not supported yet"))),
    }
}

/// `POST /nodes/{node}/termproxy`.
fn terminal(call: &Call) -> Result<Reply> {
    let command = command(call)?;
    open(call, &wish(call, false)?, |task, console| serve_terminal(task, console, || Ok(Behind::Program(command))))
}

/// `POST /nodes/{node}/vncshell`.
fn picture(call: &Call) -> Result<Reply> {
    let command = command(call)?;
    open(call, &wish(call, true)?, |task, console| serve_picture(task, console, || Ok(Behind::Program(command))))
}

/// `GET /nodes/{node}/vncwebsocket`.
fn web_socket(call: &Call) -> Result<Reply> {
    join(call, &path(call)?)
}
