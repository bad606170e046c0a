//! The guest's agent over the interface. (PVE: qemu-server PVE/API2/Qemu/Agent.pm)

use crate::config::guest::GuestKind;
use crate::qemu::agent::{self, Agent, FileRead};
use crate::registry::{Binding, get, post};
use crate::{Call, Reply, Result, Vmid, guest};
use openssl::base64::encode_block;
use serde_json::{Value, json};

/// The most that is read of a file at once.
const MOST: u64 = 16 << 20;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    post("/nodes/{node}/qemu/{vmid}/agent", command),
    post("/nodes/{node}/qemu/{vmid}/agent/exec", exec),
    get("/nodes/{node}/qemu/{vmid}/agent/exec-status", exec_status),
    get("/nodes/{node}/qemu/{vmid}/agent/file-read", file_read),
    post("/nodes/{node}/qemu/{vmid}/agent/file-write", file_write),
    post("/nodes/{node}/qemu/{vmid}/agent/fsfreeze-freeze", command),
    post("/nodes/{node}/qemu/{vmid}/agent/fsfreeze-status", command),
    post("/nodes/{node}/qemu/{vmid}/agent/fsfreeze-thaw", command),
    post("/nodes/{node}/qemu/{vmid}/agent/fstrim", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-fsinfo", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-host-name", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-memory-block-info", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-memory-blocks", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-osinfo", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-time", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-timezone", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-users", command),
    get("/nodes/{node}/qemu/{vmid}/agent/get-vcpus", command),
    get("/nodes/{node}/qemu/{vmid}/agent/info", command),
    get("/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces", command),
    post("/nodes/{node}/qemu/{vmid}/agent/ping", command),
    post("/nodes/{node}/qemu/{vmid}/agent/set-user-password", set_password),
    post("/nodes/{node}/qemu/{vmid}/agent/shutdown", command),
    post("/nodes/{node}/qemu/{vmid}/agent/suspend-disk", command),
    post("/nodes/{node}/qemu/{vmid}/agent/suspend-hybrid", command),
    post("/nodes/{node}/qemu/{vmid}/agent/suspend-ram", command),
];

fn connect(call: &Call) -> Result<Agent> {
    let vmid: Vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    Agent::connect(call.ctx, vmid, &config)
}

/// A command without parameters: the last word of the path, or the parameter `command` of the old way.
fn command(call: &Call) -> Result<Reply> {
    let last = call.method.template.rsplit('/').next().unwrap_or_default();
    let name = call.text("command").unwrap_or_else(|| last.to_owned());
    let result = connect(call)?.ask(&format!("guest-{name}"), &Value::Null)?;
    Ok(Reply::from(json!({"result": result})))
}

fn exec(call: &Call) -> Result<Reply> {
    let command: Vec<String> = call.opt("command")?.unwrap_or_default();
    let input = call.text("input-data");
    agent::exec(&mut connect(call)?, &command, input.as_deref()).map(Reply::from)
}

fn exec_status(call: &Call) -> Result<Reply> {
    let pid: i64 = call.param("pid")?;
    agent::exec_status(&mut connect(call)?, pid).map(Reply::from)
}

fn file_read(call: &Call) -> Result<Reply> {
    let wish = FileRead {
        file: call.param("file")?,
        offset: call.opt("offset")?.unwrap_or(0),
        count: call.opt("count")?.unwrap_or(MOST).min(MOST),
        decode: call.opt("decode")?.unwrap_or(true),
    };
    agent::read_file(&mut connect(call)?, &wish).map(Reply::from)
}

fn file_write(call: &Call) -> Result<Reply> {
    let (file, content): (String, String) = (call.param("file")?, call.param("content")?);
    let encode = call.opt("encode")?.unwrap_or(true);
    agent::write_file(&mut connect(call)?, &file, &content, encode)?;
    Ok(Reply::null())
}

fn set_password(call: &Call) -> Result<Reply> {
    let (user, password): (String, String) = (call.param("username")?, call.param("password")?);
    let arguments = json!({
        "username": user,
        "password": encode_block(password.as_bytes()),
        "crypted": call.flag("crypted"),
    });
    let result = connect(call)?.execute("guest-set-user-password", &arguments)?;
    Ok(Reply::from(json!({"result": result})))
}
