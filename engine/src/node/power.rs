//! Restarting and switching off the node. (PVE: pve-manager PVE/API2/Nodes.pm, node_cmd)

use crate::{Call, Reply, Result, bail, command};
use std::path::Path;

/// `POST /nodes/{node}/status`.
pub fn post(call: &Call) -> Result<Reply> {
    let wanted: String = call.param("command")?;
    if !call.ctx.root.prefix().as_os_str().is_empty() {
        bail!(
            "unable to {wanted} the node: it lies below '{}' and is not the machine",
            call.ctx.root.prefix().display()
        );
    }
    if !Path::new("/run/systemd/system").is_dir() {
        bail!("unable to {wanted} the node: systemd does not run here");
    }
    let verb = if wanted == "reboot" { "reboot" } else { "poweroff" };
    // Asked for without waiting, so that this answer still reaches the client.
    command::run("systemctl", &["--no-block", verb])?;
    Ok(Reply::null())
}
