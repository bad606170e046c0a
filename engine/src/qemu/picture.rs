//! The picture of a VM: QEMU's own VNC server behind a socket, with a password that is good for one login.

use super::{files, qmp::Monitor};
use crate::{Context, Result, Vmid, error::ResultExt};
use serde_json::json;
use std::os::unix::net::UnixStream;

/// Gives the display a password that holds for half a minute, and connects to it. (PVE: CLI/qm.pm, vncproxy)
pub fn open(ctx: &Context, vmid: Vmid, password: &str) -> Result<UnixStream> {
    let mut monitor = Monitor::connect(ctx, vmid)?;
    monitor.execute("set_password", json!({"protocol": "vnc", "password": password}))?;
    monitor.execute("expire_password", json!({"protocol": "vnc", "time": "+30"}))?;
    let path = files::path(ctx, vmid, "vnc");
    UnixStream::connect(&path).context(|| format!("unable to open '{}'", path.display()))
}
